"""The monitors of one machine: their devices, their clients, events, and the end."""

import asyncio
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from qmpserver.keyval import OptionError, kinds, parse_options
from qmpserver.monitor.channel import Channel, Connection
from qmpserver.monitor.chardev import (
    Address,
    Chardev,
    InetAddress,
    SocketChardev,
    UnixAddress,
    parse_chardev,
    parse_device,
)
from qmpserver.monitor.client import Client, Executor
from qmpserver.monitor.device import Device
from qmpserver.monitor.events import Event, Limiter, broadcast
from qmpserver.monitor.executions import Executions
from qmpserver.monitor.fds import FileDescriptors
from qmpserver.monitor.opening import open_device
from qmpserver.monitor.registry import Registry
from qmpserver.monitor.socket_devices import Listener
from qmpserver.monitor.terminal import HumanClient, HumanCommands
from qmpserver.releases import NEWEST, Release

__all__ = ["MONITOR_OPTIONS", "Server"]

MONITOR_OPTIONS = kinds(string="chardev mode", boolean="pretty")

_NO_VERSION = {"qemu": {"major": 0, "minor": 0, "micro": 0}, "package": ""}


class Server:
    """All monitors of one machine, or of one program of another kind.

    Create and use it on the event loop's thread; other threads may call
    `emit_threadsafe`.  As a context manager it checks the registry before any
    client can connect, and closes itself at the end.

    Args:
        registry: The commands.
        version: The greeting's `version` object, as `query-version` returns it in QEMU: some
            clients show the three numbers of its `qemu`; by default, all are 0. None selects
            the guest agent's dialect: no greeting, no negotiation.
        human: Makes the commands of one human monitor; None if there are no human monitors.
        check_events: Whether to check the data of events against the schema.
        release: The release of QEMU whose manners the monitors have.

    Attributes:
        registry: The commands.
        version: As above.
        release: As above.
        fds: The file descriptors that clients have passed.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        version: Mapping[str, Any] | None = _NO_VERSION,
        human: Callable[[], HumanCommands] | None = None,
        check_events: bool = __debug__,
        release: Release = NEWEST,
    ) -> None:
        self.registry = registry
        self.version = version
        self.fds = FileDescriptors()
        self.release = release
        self._human = human
        self._check_events = check_events
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._executors: set[Executor] = set()
        self._human_clients: set[HumanClient] = set()
        self._executions = Executions(self._loop)
        self._devices: dict[str, Device] = {}
        self._opening: set[str] = set()
        self._limiter = Limiter(self._loop.call_later, self._broadcast)
        self._labels = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        """Check handlers against the schema.

        Raises:
            RegistryError: They do not match.
        """
        self.registry.check()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close the server, with the default grace period of `close`."""
        await self.close()

    @property
    def devices(self) -> list[Device]:
        """The open devices, in the order in which they were opened."""
        return list(self._devices.values())

    @property
    def clients(self) -> int:
        """The number of connected QMP clients."""
        return len(self._executors)

    @property
    def human_clients(self) -> int:
        """The number of connected clients of human monitors."""
        return len(self._human_clients)

    async def serve_unix(
        self,
        path: str | os.PathLike[str],
        *,
        max_clients: int = 1,
        mode: str = "control",
        pretty: bool = False,
    ) -> Listener:
        """Listen on a UNIX socket.

        Only the owner may connect to it. A file left behind by a server that has ended is
        replaced; the file is removed when the server closes.

        Args:
            path: The socket's path.
            max_clients: How many clients are served at a time; further clients wait.
            mode: `control` for QMP, `readline` for the human monitor.
            pretty: Write one member a line.

        Raises:
            DeviceError: The socket cannot be opened.
            OptionError: There is no such mode.
            RuntimeError: The server is closed.
            ValueError: `max_clients` is less than 1.
        """
        address = UnixAddress(os.fspath(path))
        return await self._serve(address, max_clients=max_clients, mode=mode, pretty=pretty)

    async def serve_tcp(
        self,
        host: str,
        port: int,
        *,
        max_clients: int = 1,
        mode: str = "control",
        pretty: bool = False,
    ) -> Listener:
        """Listen on a TCP port; every host that reaches it may connect, without authentication.

        Args:
            host: The address or name to listen on, "" for all addresses.
            port: The port; 0 lets the system choose one, see `Listener.port`.
            max_clients: How many clients are served at a time; further clients wait.
            mode: `control` for QMP, `readline` for the human monitor.
            pretty: Write one member a line.

        Raises:
            DeviceError: The socket cannot be opened.
            OptionError: There is no such mode.
            RuntimeError: The server is closed.
            ValueError: `max_clients` is less than 1.
        """
        address = InetAddress(host, str(port))
        return await self._serve(address, max_clients=max_clients, mode=mode, pretty=pretty)

    async def open_monitor(
        self, device: Chardev | str, *, mode: str = "control", pretty: bool = False
    ) -> Device:
        """Open a monitor as QEMU's `-qmp` and `-monitor` do.

        Args:
            device: The value of the option, such as `unix:PATH,server=on,wait=off`; without
                `server=on` a socket connects instead of listening. Or a description of a device.
            mode: `control` for QMP, `readline` for the human monitor.
            pretty: Write one member a line.

        Returns:
            The device; if `Device.waits`, await `Device.wait_connected` before anything starts.

        Raises:
            OptionError: The value is invalid, or (`DeviceError`) the device cannot be opened.
            RuntimeError: The server is closed.
        """
        if isinstance(device, str):
            if device.startswith("chardev:"):
                return self._attach(device.removeprefix("chardev:"), mode, pretty)
            device = parse_device(device, self._label())
        opened = await self.add_chardev(device)
        try:
            return self._attach(opened.id, mode, pretty)
        except BaseException:
            del self._devices[opened.id]
            opened.close()
            raise

    async def listen(
        self,
        where: Chardev | Address | str,
        *,
        mode: str = "control",
        pretty: bool = False,
        max_clients: int | None = None,
    ) -> Device:
        """Open a monitor; deprecated, use `serve_unix`, `serve_tcp` or `open_monitor`."""
        warnings.warn(
            "Server.listen() is deprecated: use serve_unix(), serve_tcp() or open_monitor()",
            DeprecationWarning,
            stacklevel=2,
        )
        if isinstance(where, Address):
            where = SocketChardev(where, server=True, id=self._label())
        elif isinstance(where, str) and not where.startswith("chardev:"):
            where = parse_device(where, self._label())
        if max_clients is not None and isinstance(where, SocketChardev):
            where = where._replace(max_clients=max_clients)
        return await self.open_monitor(where, mode=mode, pretty=pretty)

    async def add_chardev(self, chardev: Chardev | str) -> Device:
        """Open a device for monitors that `add_monitor` attaches; a string is `-chardev`'s value.

        Raises:
            OptionError: The value is invalid, or (`DeviceError`) the device cannot be opened.
            RuntimeError: The server is closed.
        """
        if isinstance(chardev, str):
            chardev = parse_chardev(chardev)
        name = chardev.id
        self._check_addable(name)
        self._opening.add(name)
        try:
            device = await open_device(chardev, self.fds)
        finally:
            self._opening.discard(name)
        return self.add_device(device)

    def add_device(self, device: Device) -> Device:
        """Add an open device, which the server closes from then on, also if this raises.

        Raises:
            OptionError: There is a device with its ID.
            RuntimeError: The server is closed.
        """
        try:
            self._check_addable(device.id)
        except BaseException:
            device.close()
            raise
        self._devices[device.id] = device
        return device

    def add_monitor(self, options: str) -> Device:
        """Attach a monitor to a device; `options` is the value of `-mon`.

        Raises:
            OptionError: The value is invalid, or there is no such device, or it is in use.
        """
        parsed = parse_options(options, MONITOR_OPTIONS, implied="chardev")
        name = parsed.string("chardev")
        if name is None:
            raise OptionError("Parameter 'chardev' is missing")
        return self._attach(name, parsed.string("mode") or "readline", parsed.bool("pretty"))

    def connect(
        self, channel: Connection, name: str, *, pretty: bool = False, events: bool = True
    ) -> Client:
        """Serve a QMP client on `channel`.

        Args:
            channel: The connection.
            name: The name of the client's monitor.
            pretty: Write one member a line.
            events: Whether the client receives events.
        """
        executor = Executor(
            self,
            name,
            channel,
            loop=self._loop,
            executions=self._executions,
            left=self._executor_left,
            pretty=pretty,
            events=events,
        )
        self._executors.add(executor)
        executor.start()
        return executor.client

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to all clients past negotiation, as often as QEMU does.

        Raises:
            ValueError: The schema does not allow this data (with `check_events`).
            KeyError: The schema has no such event (with `check_events`).
            RuntimeError: This is not the event loop's thread.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError("emit() belongs to the event loop's thread: call emit_threadsafe()")
        self._check_event(event, data)
        self._limiter.offer(Event(event, data, time.time_ns()))

    def emit_threadsafe(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event as `emit` does, from any thread; `data` must not change afterwards.

        Raises:
            ValueError: The schema does not allow this data (with `check_events`).
            KeyError: The schema has no such event (with `check_events`).
            RuntimeError: The event loop is closed.
        """
        self._check_event(event, data)
        self._loop.call_soon_threadsafe(self._limiter.offer, Event(event, data, time.time_ns()))

    async def close(self, grace: float = 1.0) -> None:
        """Accept no more clients, let current commands end, send their replies, and close.

        Commands that have been received but not begun are not executed. If it is cancelled,
        it closes everything at once.

        Args:
            grace: Seconds that commands have to end and clients to read.

        Raises:
            RuntimeError: A handler awaits it.
        """
        self._executions.refuse_wait("Server.close()")
        self._closed = True
        for device in self._devices.values():
            device.stop()
        self._limiter.close()
        deadline = self._loop.time() + grace
        clients: list[Executor | HumanClient] = [*self._executors, *self._human_clients]
        try:
            await asyncio.gather(*(client.finish(deadline) for client in clients))
        finally:
            clients = [*self._executors, *self._human_clients]
            for client in clients:
                client.abort()
            for device in self._devices.values():
                device.close()
            self._devices.clear()
            self.fds.close()
            # The executions of clients that left before; their machine is about to go, too.
            await self._executions.end()

    async def _serve(
        self, address: Address, *, max_clients: int, mode: str, pretty: bool
    ) -> Listener:
        if max_clients < 1:
            raise ValueError(f"max_clients is {max_clients}, must be >= 1")
        chardev = SocketChardev(address, server=True, max_clients=max_clients, id=self._label())
        device = await self.open_monitor(chardev, mode=mode, pretty=pretty)
        assert isinstance(device, Listener)
        return device

    def _check_addable(self, name: str) -> None:
        if self._closed:
            raise RuntimeError("the server is closed")
        if name in self._devices or name in self._opening:
            raise OptionError(f"Duplicate ID '{name}' for chardev")

    def _label(self) -> str:
        label = f"compat_monitor{self._labels}"
        self._labels += 1
        return label

    def _attach(self, name: str, mode: str, pretty: bool) -> Device:
        """Open a monitor on device `name`.

        Raises:
            OptionError: There is no such device or mode, or the device is in use.
        """
        device = self._devices.get(name)
        if device is None:
            raise OptionError(f'chardev "{name}" not found')
        if mode == "control":
            device.attach(partial(self.connect, name=name, pretty=pretty))
            return device
        if mode != "readline":
            raise OptionError(f"Parameter 'mode' does not accept value '{mode}'")
        if self._human is None:
            raise OptionError("Only QMP is supported")
        if pretty:
            raise OptionError("'pretty' is not compatible with HMP monitors")
        device.attach(partial(self._connect_human, self._human()), raw=True)
        return device

    def _connect_human(self, commands: HumanCommands, channel: Channel) -> None:
        client = HumanClient(
            channel,
            commands,
            loop=self._loop,
            executions=self._executions,
            left=self._human_client_left,
        )
        self._human_clients.add(client)
        triple = (self.version or {}).get("qemu", {})
        release = ".".join(str(triple.get(part, 0)) for part in ("major", "minor", "micro"))
        client.start(f"QEMU {release} monitor - type 'help' for more information\n")

    def _executor_left(self, executor: Executor) -> None:
        self._executors.discard(executor)
        self._remove_sets_of_nobody()

    def _human_client_left(self, client: HumanClient) -> None:
        self._human_clients.discard(client)
        self._remove_sets_of_nobody()

    def _remove_sets_of_nobody(self) -> None:
        if self.release.drops_fdsets and not self._executors and not self._human_clients:
            self.fds.remove_sets()

    def _check_event(self, event: str, data: Mapping[str, Any] | None) -> None:
        if self._check_events:
            self.registry.schema.events[event].validate(data)

    def _broadcast(self, event: Event) -> None:
        broadcast(event, self._executors)
