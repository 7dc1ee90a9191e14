"""One QMP client: its face towards command handlers, and the execution of its commands.

The executor takes bytes from the client's channel, executes the commands in batches, which
lets other clients in between, and writes the replies of a batch together.
"""

import asyncio
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from qmpserver.monitor.channel import Connection
from qmpserver.monitor.device import Device
from qmpserver.monitor.executions import Executions
from qmpserver.monitor.fds import FileDescriptors
from qmpserver.monitor.registry import Bound, Registry
from qmpserver.qmp import CommandError, Large, Request, Session, Steps, printable
from qmpserver.releases import Release

__all__ = ["Client", "Executor", "Host"]

MAX_UNSENT_REPLIES = 256 * 1024
"""Bytes; a client with more than this unsent executes its next command when it has read."""

MAX_UNSENT_EVENTS = 4 * 1024 * 1024
"""Bytes of events after the last reply; a client with more of them unsent is disconnected."""

BATCH = 8
"""How much of the session's `work` is done before other clients are served.

That is about 50 us of commands, and at most 1 ms whatever a client sends.
"""

_log = logging.getLogger(__name__)

# Results of these types are certainly no awaitables.
_VALUES = frozenset({dict, list, tuple, str, int, float, bool, type(None)})


class Host(Protocol):
    """The server of a client, as handlers see it; see `Server`."""

    registry: Registry
    version: Mapping[str, Any] | None
    release: Release
    fds: FileDescriptors

    @property
    def devices(self) -> list[Device]:
        """The open devices, in the order in which they were opened."""
        ...

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event from the event loop's thread."""

    def emit_threadsafe(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event from any thread."""

    async def close(self, grace: float = 1.0) -> None:
        """Close the server; a handler must not await it."""


class Client:
    """One client of a QMP monitor, while it is connected.

    A handler bound with `client=True` gets it as its first argument.  Use from the
    event loop's thread only.

    Attributes:
        monitor: The name of the monitor, which is that of its device.
        server: The server.
    """

    __slots__ = ("_executor", "monitor", "server")

    def __init__(self, server: Host, monitor: str, executor: "Executor") -> None:
        self.server = server
        self.monitor = monitor
        self._executor = executor

    def take_fd(self) -> int:
        """Return the file descriptor that came with the command; the caller must close it.

        Raises:
            CommandError: No descriptor came with the command.
        """
        fds = self._executor.channel.take_fds()
        if not fds:
            raise CommandError("No file descriptor supplied via SCM_RIGHTS")
        for fd in fds[1:]:
            os.close(fd)
        return fds[0]

    def execute_no_more(self) -> None:
        """Leave all commands after the current one unanswered, as QEMU does after `quit`."""
        self._executor.executes = False

    async def close(self, grace: float = 1.0) -> None:
        """Disconnect the client.

        No further command is executed; the one that is being executed may end, and its
        reply is sent.

        Args:
            grace: Seconds that the command has to end and the client to read.

        Raises:
            RuntimeError: A handler awaits it.
        """
        loop = asyncio.get_running_loop()
        await self._executor.finish(loop.time() + grace)


class Executor:
    """Executes the commands of one client; the `Owner` of its channel.

    Use from the event loop's thread only.

    Args:
        server: The client's server.
        monitor: The name of the monitor.
        channel: The connection.
        loop: The event loop.
        executions: Runs coroutines.
        left: Called when the connection is closed.
        pretty: Write one member a line.
        events: Whether the client receives events.

    Attributes:
        client: The client.
        channel: The connection.
        pretty: As above.
        executes: Whether further commands are executed.
    """

    __slots__ = (
        "_corked",
        "_ended",
        "_event_bytes",
        "_events",
        "_executions",
        "_left",
        "_loop",
        "_registry",
        "_scheduled",
        "_task",
        "channel",
        "client",
        "executes",
        "pretty",
        "session",
    )

    def __init__(
        self,
        server: Host,
        monitor: str,
        channel: Connection,
        *,
        loop: asyncio.AbstractEventLoop,
        executions: Executions,
        left: Callable[["Executor"], None],
        pretty: bool,
        events: bool,
    ) -> None:
        self.client = Client(server, monitor, self)
        self.channel = channel
        self.pretty = pretty
        self.executes = True
        self.session = Session(
            server.version, pretty=pretty, error_places=server.release.error_places
        )
        self._registry = server.registry
        self.session.hand_out_negotiation = self._registry.handles_negotiation
        self._loop = loop
        self._executions = executions
        self._left = left
        self._events = events
        self._corked = False
        self._ended = False
        self._event_bytes = 0  # since the last reply
        self._scheduled = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Greet the client and begin to read."""
        self.channel.start(self)
        self._flush()

    @property
    def wants_events(self) -> bool:
        """Whether events are sent to the client: it is past negotiation."""
        return self._events and self.session.negotiated

    def send_event(self, message: bytes) -> None:
        """Send an event, encoded in the client's format."""
        self.session.encoded_event(message)
        self._event_bytes += len(message)
        if not self._corked:
            self._flush()
            unsent = self.channel.unsent + self.session.held
            if min(unsent, self._event_bytes) > MAX_UNSENT_EVENTS:
                _log.warning("monitor %s: client does not read, disconnected", self.client.monitor)
                self.channel.close()

    async def finish(self, deadline: float) -> None:
        """Execute no further command, let the current one end, send its reply, and close.

        If it is cancelled, it abandons the command and closes at once.

        Args:
            deadline: When to stop waiting, in the event loop's time.

        Raises:
            RuntimeError: A handler awaits it.
        """
        self._executions.refuse_wait("Client.close()")
        self.executes = False
        self.channel.pause()
        self._flush()  # the replies of a batch that was to go on
        try:
            if self._task is not None:
                await asyncio.wait({self._task}, timeout=max(0.0, deadline - self._loop.time()))
            await self.channel.flush_until(deadline)
            while self.session.replying and self._loop.time() < deadline:
                if self.channel.closed:
                    break
                self._run()
                await self.channel.flush_until(deadline)
                await asyncio.sleep(0)
        finally:
            self.abort()

    def abort(self) -> None:
        """Execute no further command, abandon the current one, and close at once."""
        self.executes = False
        if self._task is not None:
            self._executions.abandon(self._task)
        self.channel.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the channel."""
        self.session.receive(data)
        self._run()

    def eof_received(self) -> None:
        """Execute the commands that came before the end of input, then disconnect."""
        self._ended = True
        self._run()

    def drained(self) -> None:
        """Go on after a pause: the client has read its replies."""
        self._run()

    def channel_closed(self) -> None:
        """Forget the client.  A command that it has started goes on; its result is discarded."""
        self._release(self.session.release())
        if self._task is not None:
            self._executions.leave(self._task)
            self.session = Session(None)  # takes the result
        self._left(self)

    def _release(self, steps: Steps) -> None:
        """Free large messages in steps."""
        for _ in steps:
            self._loop.call_soon(self._release, steps)
            return

    def _run(self) -> None:
        """Execute one batch of commands, and send all replies together."""
        if self._scheduled:
            return
        session, channel = self.session, self.channel
        registry, client = self._registry, self.client
        left = BATCH
        self._corked = True
        while (
            (self.executes or session.replying)
            and channel.unsent <= MAX_UNSENT_REPLIES
            and not channel.closed
        ):
            if session.output_size > MAX_UNSENT_REPLIES:
                # The channel knows how much of it the client takes.
                self._flush()
                continue
            if left <= 0:
                self._scheduled = True
                self._corked = False
                channel.pause()
                self._loop.call_soon(self._run_scheduled)
                return
            done = session.work
            command = None
            if self.executes:
                command = session.next_command(left)
            else:
                session.write_reply()
            left -= session.work - done
            if command is None:
                if left > 0 and not session.replying:
                    break
                continue
            try:
                bound = registry.find(command.name, command.oob)
                if type(command.arguments) is Large:
                    self._start(command, bound, self._call_large(command, bound))
                    continue
                result = registry.call(bound, command.arguments, client)
                awaited = type(result) not in _VALUES and inspect.isawaitable(result)
            except BaseException as error:
                self._failed(command, error)
                continue
            if not awaited:
                self._succeeded(command, bound, result)
            elif command.oob:
                self._failed(command, _not_out_of_band(result))
            else:
                self._start(command, bound, result)
        self._corked = False
        self._flush()
        if self._ended and self._answered and not channel.unsent:
            channel.close()
        elif self.executes and session.wants_input and channel.unsent <= MAX_UNSENT_REPLIES:
            channel.resume()
        else:
            channel.pause()

    @property
    def _answered(self) -> bool:
        """Whether every command that is to be executed has been answered."""
        session = self.session
        return session.idle or not (self.executes or session.busy or session.replying)

    def _run_scheduled(self) -> None:
        self._scheduled = False
        self._run()

    async def _call_large(self, command: Request, bound: Bound) -> Any:
        """Return the result of a command with large arguments.

        Raises:
            BaseException: The command failed.
        """
        for _ in self._registry.check_large(bound, command.arguments):
            await asyncio.sleep(0)
        result = self._registry.call(bound, command.arguments.built(), self.client)
        if not inspect.isawaitable(result):
            return result
        if command.oob:
            raise _not_out_of_band(result)
        return await result

    def _start(self, command: Request, bound: Bound, result: Awaitable[Any]) -> None:
        """Go on when a command's result is there."""
        self._task = self._executions.start(self._await(command, bound, result))
        if inspect.iscoroutine(result):  # it may be abandoned before it begins
            self._task.add_done_callback(lambda _: result.close())

    async def _await(self, command: Request, bound: Bound, result: Awaitable[Any]) -> None:
        try:
            value = await result
        except BaseException as error:
            if self._executions.current_is_abandoned:
                raise
            self._failed(command, error)
        else:
            self._succeeded(command, bound, value)
        self._task = None
        self._run()
        if self.channel.closed:
            self._release(self.session.release())

    def _succeeded(self, command: Request, bound: Bound, result: Any) -> None:
        self._event_bytes = 0
        try:
            if bound.success_response:
                self.session.reply(command, result)
            else:
                self.session.finish(command)
        except BaseException as error:  # the result is not a JSON value
            self._failed(command, error)
        else:
            bound.succeeded += 1

    def _failed(self, command: Request, error: BaseException) -> None:
        self._registry.count_failure(command.name)
        self._event_bytes = 0
        if isinstance(error, CommandError):
            try:
                self.session.fail(command, error)
            except BaseException as broken:  # of a subclass that overrides attributes
                error = broken
            else:
                return
        name = command.name
        text = f"Internal error in command {name}: {printable(error, repr)}"
        self.session.fail(command, CommandError(text))
        _log.error("monitor %s: command %s failed", self.client.monitor, name, exc_info=error)

    def _flush(self) -> None:
        data = self.session.take_output()
        if data:
            self.channel.write(data)


def _not_out_of_band(result: Awaitable[Any]) -> TypeError:
    """Return the error of a command that would hold up the commands after it, out of band."""
    if inspect.iscoroutine(result):
        result.close()
    return TypeError(
        "the command was sent out of band, so its handler must not return an awaitable"
    )
