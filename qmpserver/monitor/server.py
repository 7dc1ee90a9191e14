"""All monitors of one machine, and the clients that use them."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Self

from qmpserver.keyval import OptionError, kinds, parse_options
from qmpserver.monitor.channel import Channel, Connection
from qmpserver.monitor.chardev import (
    Address,
    Chardev,
    SocketChardev,
    parse_chardev,
    parse_device,
)
from qmpserver.monitor.device import Device, open_device
from qmpserver.monitor.events import Limiter
from qmpserver.monitor.fds import FileDescriptors
from qmpserver.monitor.human import HumanClient, HumanCommands
from qmpserver.monitor.registry import Bound, Registry
from qmpserver.qmp import CommandError, Request, Session, event_message

__all__ = ["MONITOR_OPTIONS", "Client", "Server"]

MAX_UNSENT_REPLIES = 256 * 1024
"""With more than this unsent, a client's next command waits until it reads."""

MAX_UNSENT_EVENTS = 4 * 1024 * 1024
"""A client that lets events pile up to this is disconnected."""

MAX_TURN = 8
"""What is done for a client, in its session's `work`, before others get their turn.

That is about 50 us of commands, and 1 ms of the worst that can be made up.
"""

_log = logging.getLogger(__name__)

MONITOR_OPTIONS = kinds(string="chardev mode", boolean="pretty")


_NO_VERSION = {"qemu": {"major": 0, "minor": 0, "micro": 0}, "package": ""}


class Client:
    """One client of a QMP monitor, while it is connected.

    Handlers that ask for it get it as their first argument.  Use from the
    event loop's thread only.
    """

    __slots__ = (
        "_channel",
        "_corked",
        "_ended",
        "_events",
        "_executes",
        "_session",
        "_task",
        "_waits_its_turn",
        "monitor",
        "pretty",
        "server",
    )

    def __init__(
        self, server: "Server", monitor: str, channel: Connection, *, pretty: bool, events: bool
    ) -> None:
        self.monitor = monitor
        self.server = server
        self._channel = channel
        self.pretty = pretty
        self._events = events
        self._session = Session(server.version, pretty=pretty)
        self._corked = False
        self._ended = False
        self._waits_its_turn = False
        self._executes = True
        self._task: asyncio.Task[None] | None = None

    def take_fd(self) -> int:
        """Return the file descriptor that came with the command; the caller must close it.

        Raises:
            CommandError: there came none.

        """
        fds = self._channel.take_fds()
        if not fds:
            raise CommandError("No file descriptor supplied via SCM_RIGHTS")
        for fd in fds[1:]:
            os.close(fd)
        return fds[0]

    def execute_no_more(self) -> None:
        """Leave what the client has sent after this command unanswered, as QEMU does after quit."""
        self._executes = False

    def data_received(self, data: bytes) -> None:
        """Take bytes from the channel."""
        self._session.receive(data)
        self._run()

    def eof_received(self) -> None:
        """Execute what the client has sent before it fell silent, then let it go."""
        self._ended = True
        self._run()

    def drained(self) -> None:
        """Go on where the client's not reading has stopped us."""
        self._run()

    def channel_closed(self) -> None:
        """Forget the client.  A command that it has started goes on; nobody hears of its end."""
        self.server._forget(self)

    def start(self) -> None:
        """Greet the client and begin to read."""
        self._channel.start(self)
        self._flush()

    @property
    def wants_events(self) -> bool:
        """Whether the client is past negotiation, and would hear of events at all."""
        return self._events and self._session.negotiated

    def send_event(self, message: bytes) -> None:
        """Send an event that is encoded as the client wants it."""
        self._session.encoded_event(message)
        if not self._corked:
            self._flush()
            if self._channel.unsent > MAX_UNSENT_EVENTS:
                _log.warning("monitor %s: client does not read, disconnected", self.monitor)
                self._channel.close()

    async def finish(self, deadline: float) -> None:
        """Read no more, let the command that is being executed end, and send what there is."""
        self._channel.pause()
        loop = asyncio.get_running_loop()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=max(0.0, deadline - loop.time()))
            if self._task is not None:
                self._task.cancel()
        await self._channel.flush_until(deadline)
        self._channel.close()

    def _run(self) -> None:
        """Execute what can be executed now, a turn's worth, and send all replies together."""
        if self._waits_its_turn:
            return
        session, channel, registry = self._session, self._channel, self.server.registry
        left = MAX_TURN
        self._corked = True
        while self._executes and channel.unsent <= MAX_UNSENT_REPLIES and not channel.closed:
            if session.output_size > MAX_UNSENT_REPLIES:
                # The channel knows how much of it the client takes.
                self._flush()
                continue
            if left <= 0:
                self._waits_its_turn = True
                self._corked = False
                channel.pause()
                self.server._loop.call_soon(self._next_turn)
                return
            done = session.work
            command = session.next_command(left)
            left -= session.work - done
            if command is None:
                if left > 0:
                    break
                continue
            try:
                bound = registry.find(command.name, command.oob)
                result = registry.call(bound, command.arguments, self)
            except Exception as error:
                self._failed(command, error)
                continue
            if bound.is_async:
                self._await(command, bound, result)
            else:
                self._succeeded(command, bound, result)
        self._corked = False
        self._flush()
        if self._ended and session.idle and not channel.unsent:
            channel.close()
        elif self._executes and session.wants_input and channel.unsent <= MAX_UNSENT_REPLIES:
            channel.resume()
        else:
            channel.pause()

    def _next_turn(self) -> None:
        self._waits_its_turn = False
        self._run()

    def _await(self, command: Request, bound: Bound, result: Awaitable[Any]) -> None:
        self._task = self.server.spawn(self._executed(command, bound, result))

    async def _executed(self, command: Request, bound: Bound, result: Awaitable[Any]) -> None:
        try:
            value = await result
        except Exception as error:
            self._failed(command, error)
        else:
            self._succeeded(command, bound, value)
        self._task = None
        self._run()

    def _succeeded(self, command: Request, bound: Bound, result: Any) -> None:
        try:
            if bound.success_response:
                self._session.reply(command, result)
            else:
                self._session.finish(command)
        except Exception as error:  # the result is nothing that JSON can say
            self._failed(command, error)
        else:
            bound.succeeded += 1

    def _failed(self, command: Request, error: Exception) -> None:
        self.server.registry.count_failure(command.name)
        if not isinstance(error, CommandError):
            _log.error("monitor %s: command %s failed", self.monitor, command.name, exc_info=error)
            error = CommandError(f"Internal error in command {command.name}: {error!r}")
        self._session.fail(command, error)

    def _flush(self) -> None:
        data = self._session.take_output()
        if data:
            self._channel.write(data)


class Server:
    """All monitors of one machine.

    Create and use it on the event loop's thread; other threads may call
    `emit_threadsafe`.  As a context manager it checks the registry before any
    client can come, and is closed at the end.

    Args:
        registry: the commands.
        version: the greeting's ``version`` object, as ``query-version`` returns it in QEMU: some
            clients show the three numbers of its ``qemu``; all of them 0 if it is not given. None
            for the guest agent's dialect: no greeting, no negotiation.
        human: makes the commands of one human monitor, if there is to be any.
        check_events: hold the data of events against the schema.

    """

    def __init__(
        self,
        registry: Registry,
        *,
        version: Mapping[str, Any] | None = _NO_VERSION,
        human: Callable[[], HumanCommands] | None = None,
        check_events: bool = __debug__,
    ) -> None:
        self.registry = registry
        self.version = version
        self._human = human
        self._people: set[HumanClient] = set()
        self._check_events = check_events
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.fds = FileDescriptors()
        self._clients: set[Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._devices: dict[str, Device] = {}
        self._limiter = Limiter(self._loop.call_later, self._broadcast)
        self._labels = 0

    async def __aenter__(self) -> Self:
        """Hold handlers and schema against each other.

        Raises:
            RegistryError: they don't fit together.

        """
        self.registry.check()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close the server; commands and clients have `close`'s grace."""
        await self.close()

    @property
    def devices(self) -> list[Device]:
        """The devices that are open, in the order in which they were."""
        return list(self._devices.values())

    @property
    def clients(self) -> int:
        """How many QMP clients are connected."""
        return len(self._clients)

    @property
    def people(self) -> int:
        """How many use a human monitor."""
        return len(self._people)

    async def listen(
        self,
        where: Chardev | Address | str,
        *,
        mode: str = "control",
        pretty: bool = False,
        max_clients: int | None = None,
    ) -> Device:
        """Open a monitor.

        Args:
            where: a device, an address to listen on (nothing waits for a
                client then), or what ``-qmp`` and ``-monitor`` take.
            mode: ``control`` for QMP, ``readline`` for the human monitor.
            pretty: write one member a line.
            max_clients: how many clients to serve at a time, if not as *where* says.

        Returns:
            The device; where `Device.waits`, `Device.wait_connected` should be
            awaited before anything starts.

        Raises:
            OptionError: *where* makes no sense, or (`DeviceError`) can't be opened.

        """
        if isinstance(where, str):
            if where.startswith("chardev:"):
                return self.attach(where.removeprefix("chardev:"), mode=mode, pretty=pretty)
            where = parse_device(where, self._label())
        elif isinstance(where, Address):
            where = SocketChardev(where, server=True, id=self._label())
        if max_clients is not None and isinstance(where, SocketChardev):
            where = where._replace(max_clients=max_clients)
        device = self.add_chardev(where)
        return self.attach(device.id, mode=mode, pretty=pretty)

    def add_chardev(self, chardev: Chardev | str) -> Device:
        """Open a device that monitors can be attached to; a string is what ``-chardev`` takes.

        Raises:
            OptionError: it makes no sense, or (`DeviceError`) can't be opened.

        """
        if isinstance(chardev, str):
            chardev = parse_chardev(chardev)
        if chardev.id in self._devices:
            raise OptionError(f"Duplicate ID '{chardev.id}' for chardev")
        device = open_device(chardev, self._loop)
        self._devices[device.id] = device
        return device

    def add_monitor(self, options: str) -> Device:
        """Attach a monitor to a device; *options* is what ``-mon`` takes.

        Raises:
            OptionError: it makes no sense.

        """
        parsed = parse_options(options, MONITOR_OPTIONS, implied="chardev")
        name = parsed.string("chardev")
        if name is None:
            raise OptionError("Parameter 'chardev' is missing")
        mode = parsed.string("mode") or "readline"
        return self.attach(name, mode=mode, pretty=parsed.bool("pretty"))

    def attach(self, name: str, *, mode: str = "control", pretty: bool = False) -> Device:
        """Open a monitor on device *name*.

        Raises:
            OptionError: there is no such device, or it is in use, or no such monitor.

        """
        device = self._devices.get(name)
        if device is None:
            raise OptionError(f'chardev "{name}" not found')
        if mode == "control":

            def greet(channel: Channel) -> None:
                self.connect(channel, name, pretty=pretty)

            device.attach(greet)
            return device
        if mode != "readline":
            raise OptionError(f"Parameter 'mode' does not accept value '{mode}'")
        if self._human is None:
            raise OptionError("Only QMP is supported")
        if pretty:
            raise OptionError("'pretty' is not compatible with HMP monitors")

        human = self._human()

        def welcome(channel: Channel) -> None:
            banner = f"QEMU {self._release} monitor - type 'help' for more information\n"
            client = HumanClient(channel, human, self._forget, self.spawn)
            self._people.add(client)
            client.start(banner)

        device.attach(welcome, raw=True)
        return device

    def connect(
        self, channel: Connection, name: str, *, pretty: bool = False, events: bool = True
    ) -> Client:
        """Greet a QMP client that has come by *channel*; *name* is its monitor's."""
        client = Client(self, name, channel, pretty=pretty, events=events)
        self._clients.add(client)
        client.start()
        return client

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to all clients past negotiation, as often as QEMU would.

        Raises:
            ValueError: the schema says otherwise (with *check_events*).
            KeyError: the schema has no such event (with *check_events*).
            RuntimeError: this is not the event loop's thread.

        """
        if threading.get_ident() != self._thread:
            raise RuntimeError("emit() belongs to the event loop's thread: call emit_threadsafe()")
        self._check_event(event, data)
        self._limiter.offer(event, data, (event, data, time.time_ns()))

    def emit_threadsafe(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event as `emit` does, from any thread; *data* must not change afterwards.

        Raises:
            ValueError: the schema says otherwise (with *check_events*).
            KeyError: the schema has no such event (with *check_events*).
            RuntimeError: the event loop is closed.

        """
        self._check_event(event, data)
        item = (event, data, time.time_ns())
        self._loop.call_soon_threadsafe(self._limiter.offer, event, data, item)

    async def close(self, grace: float = 1.0) -> None:
        """Take no more clients, send what there is to send, and close everything.

        Args:
            grace: seconds that commands have to end, and clients to read.

        """
        for device in self._devices.values():
            device.stop()
        self._limiter.close()
        deadline = self._loop.time() + grace
        clients: list[Client | HumanClient] = [*self._clients, *self._people]
        await asyncio.gather(*(client.finish(deadline) for client in clients))
        for device in self._devices.values():
            device.close()
        self._devices.clear()
        self.fds.close()
        while self._tasks:  # of clients that have gone; what they act on is about to go too
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def spawn(self, execution: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have a command go on, also when its client goes, but not beyond :meth:`close`."""
        task = self._loop.create_task(execution)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _check_event(self, event: str, data: Mapping[str, Any] | None) -> None:
        if self._check_events:
            self.registry.schema.events[event].validate(data)

    def _forget(self, client: "Client | HumanClient") -> None:
        if isinstance(client, Client):
            self._clients.discard(client)
        else:
            self._people.discard(client)
        if not self._clients and not self._people:
            self.fds.remove_sets()

    def _broadcast(self, event: tuple[str, Mapping[str, Any] | None, int]) -> None:
        name, data, nanoseconds = event
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        encoded: dict[bool, bytes] = {}
        for client in list(self._clients):
            if client.wants_events:
                message = encoded.get(client.pretty)
                if message is None:
                    message = event_message(name, data, seconds, rest // 1000, client.pretty)
                    encoded[client.pretty] = message
                client.send_event(message)

    @property
    def _release(self) -> str:
        triple = (self.version or {}).get("qemu", {})
        return ".".join(str(triple.get(part, 0)) for part in ("major", "minor", "micro"))

    def _label(self) -> str:
        label = f"compat_monitor{self._labels}"
        self._labels += 1
        return label
