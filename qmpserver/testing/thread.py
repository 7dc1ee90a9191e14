"""A server on a thread and an event loop of its own, for tests of any kind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import threading
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qmpserver.monitor import Listener, Server, SocketChardev, UnixAddress, sockets
from qmpserver.monitor.socket_devices import BACKLOG
from qmpserver.standin.tap import Tap
from qmpserver.testing.questions import Questions
from qmpserver.transcript.conversation import KEPT_MESSAGES, Conversation

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from qmpserver.monitor.channel import Connection
    from qmpserver.standin import StandIn

FAKE = "fake"

_GRACE_S = 0.2  # for commands that are being executed at the end
_PATIENCE_S = 10.0

_Handler = TypeVar("_Handler", bound="Callable[..., Any]")
_T = TypeVar("_T")


class ServerThread(Questions):
    """A QMP server at `path` within a `with` block, and the conversation with its clients.

    Any thread may use it, and event loops in other threads. It can be entered once.

    Args:
        accel: Who executes the vCPUs: `fake` for nobody, or a value of `-accel`: `soft` or `kvm`,
            with a dirty ring of 4096 entries unless the value has another size.
        smp: The number of vCPUs.
        schema: The schema of a fake: `qemu-11.1`, `qemu-10.0`, `qemu-7.2`, `qmpserver`,
            `guest-agent`, or a file.
        version: The version in a fake's greeting, such as `9.1.0`; by default the schema's, or
            the scenario's.
        scenario: The scenario of a fake: a file, or a table with the content of one.
        fault: Faults of a fake: `NAME` or `NAME:COMMAND`, one or several.
        directory: The directory of relative file names.
        max_clients: How many clients are served at a time; further clients wait.
        keep: How many messages the conversation keeps, as `Conversation` describes; None for all.

    Attributes:
        path: The UNIX socket, in a directory of its own; "" before the block.
        conversation: The messages of all clients.

    Raises:
        ValueError: A real machine was given a schema, a version, a scenario or a fault; or `smp` is
            no integer.
    """

    def __init__(
        self,
        *,
        accel: str = FAKE,
        smp: int | None = None,
        schema: str | None = None,
        version: str | None = None,
        scenario: str | Mapping[str, Any] | None = None,
        fault: str | Sequence[str] = (),
        directory: str | os.PathLike[str] = "",
        max_clients: int = 1,
        keep: int | None = KEPT_MESSAGES,
    ) -> None:
        super().__init__(Conversation(keep))
        if accel != FAKE and (schema or version or scenario or fault):
            raise ValueError(
                f"accel='{accel}': only a fake has a schema, a version, a scenario or faults"
            )
        if smp is not None and type(smp) is not int:
            raise ValueError(f"smp={smp!r} is not a number of vCPUs")
        self._accel = accel
        self._smp = smp
        self._schema = schema
        self._version = version
        self._scenario = scenario
        self._faults = (fault,) if isinstance(fault, str) else tuple(fault)
        self._files = Path(directory)
        self._max_clients = max_clients
        self.path = ""
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._listeners: dict[str, Listener] = {}  # by path
        self._handlers: dict[str, Callable[..., Any]] = {}
        self._clients = itertools.count(1)
        self._new_thread()
        self._server: Server | None = None  # set while it serves, and afterwards
        self._fake: StandIn | None = None
        # Guards the attributes below, which both the server's thread and others use.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None  # while it accepts calls
        self._ended: asyncio.Event | None = None
        self._calls: set[Future[Any]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} unix:{self.path}>"

    def __enter__(self) -> Self:
        """Start the server.

        Raises:
            ValueError: There can be no such machine.
            ScenarioError: There can be no such fake.
            DeviceError: There can be no socket in the directory for temporary files.
            RuntimeError: It was entered before.
        """
        if self._directory is not None:
            raise RuntimeError("a ServerThread can be entered once: make another one")
        self._directory = tempfile.TemporaryDirectory(prefix="qmp-", ignore_cleanup_errors=True)
        self.path = f"{self._directory.name}/qmp.sock"
        try:
            self._thread.start()
            self._started.result()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and the connections of all clients; the conversation stays readable.

        Raises:
            RuntimeError: A handler blocks, so that the server does not end, or calls this itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a handler cannot close the server: it would wait for itself")
        with self._lock:
            self._closed = self._closed or self._directory is not None
        try:
            self._end()
        finally:
            if self._directory is not None:
                self._directory.cleanup()

    def restart(self) -> None:
        """End the server, if it still runs, and start a new one at its paths.

        The new one has a new state, the handlers of the old one, and continues the conversation
        and the scenario's expectations. All clients have to connect again.

        Raises:
            RuntimeError: A handler blocks, so that the server does not end, or calls this itself;
                or the server was never started, or closed.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a handler cannot restart the server: it would wait for itself")
        if self._closed or self._server is None:
            raise self._not_running()
        self._end()
        self._new_thread()
        self._thread.start()
        self._started.result()

    def disconnect(self, path: str | None = None) -> None:
        """End the connections of all clients of a monitor, as if the network did; go on serving.

        Args:
            path: The monitor, as `add_monitor` returned it; by default the one at `path`.

        Raises:
            KeyError: There is no such monitor.
            RuntimeError: The server does not run.
        """
        self._call(self._listeners[self.path if path is None else path].yank)

    def _end(self) -> None:
        with self._lock:
            if self._loop is not None and self._ended is not None:
                self._loop.call_soon_threadsafe(self._ended.set)
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            raise RuntimeError(f"the server has not ended in {_PATIENCE_S:g} s: a handler blocks")

    def _new_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name="qmp-server", daemon=True)
        self._started: Future[None] = Future()

    @property
    def running(self) -> bool:
        """Whether it serves. A client's `quit` ends it before the block does."""
        return self._loop is not None

    def failures(self) -> list[str]:
        """Return the scenario's expectations that are not met so far, as text."""
        return [] if self._fake is None else self._fake.failures()

    def add_monitor(self) -> str:
        """Open one more monitor, and return the path of its UNIX socket.

        Raises:
            RuntimeError: The server does not run.
        """
        path = self.path.replace(".sock", f"{len(self._listeners)}.sock")
        self._call(partial(self._listen, path))
        return path

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to all clients; it has been written when this returns.

        Raises:
            ValueError: The schema does not allow this data.
            KeyError: The schema has no such event.
            RuntimeError: The server does not run.
        """
        server = self._running_server()
        events = server.registry.schema.events
        if event not in events:
            raise KeyError(f"the schema has no event '{event}'")
        events[event].validate(data)
        self._call(partial(server.emit, event, data))

    def handler(self, name: str) -> Callable[[_Handler], _Handler]:
        """Return a decorator that makes a function the handler of a command, from now on.

        The function is one that `Registry.command` takes: it gets the arguments as keywords, may be
        a coroutine function, and runs on the server's thread.

        Raises:
            KeyError: The schema has no such command.
            RuntimeError: The server does not run.
        """
        registry = self._running_server().registry
        if name not in registry.schema.commands:
            raise KeyError(f"the schema has no command '{name}'")

        def bind(handler: _Handler) -> _Handler:
            self._handlers[name] = handler
            return registry.command(name, replace=True)(handler)

        return bind

    def _running_server(self) -> Server:
        """Return the server.

        Raises:
            RuntimeError: It does not run.
        """
        on_its_thread = threading.current_thread() is self._thread
        with self._lock:
            if self._server is not None and (self._loop is not None or on_its_thread):
                return self._server
        raise self._not_running()

    def _not_running(self) -> RuntimeError:
        if self._closed:
            return RuntimeError("the server has ended: it was closed")
        if self._server is None:
            return RuntimeError("the server has not been started: use it in a with block")
        return RuntimeError(
            "the server has ended: a client sent quit, or the machine was shut down otherwise"
        )

    def _call(self, function: Callable[[], _T]) -> _T:
        """Call a function on the server's thread, on which handlers run already.

        Raises:
            RuntimeError: The server does not run, ends meanwhile, or does not respond.
        """
        if threading.current_thread() is self._thread:
            return function()
        done: Future[_T] = Future()

        def call() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(function())
                except BaseException as error:
                    done.set_exception(error)

        with self._lock:
            if self._loop is None:
                raise self._not_running()
            self._loop.call_soon_threadsafe(call)
            self._calls.add(done)
        try:
            return done.result(_PATIENCE_S)
        except CancelledError:
            raise self._not_running() from None
        except TimeoutError:
            if done.done():  # raised by the function
                raise
            done.cancel()
            raise RuntimeError(
                f"the server has not responded in {_PATIENCE_S:g} s: a handler blocks"
            ) from None
        finally:
            with self._lock:
                self._calls.discard(done)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            try:
                runner.run(self._serve())
            except BaseException as error:
                if self._started.done():
                    raise
                self._started.set_exception(error)

    async def _serve(self) -> None:
        ended = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            server = await self._make_server(ended, stack)
            stack.push_async_callback(server.close, _GRACE_S)
            for name, handler in self._handlers.items():
                server.registry.command(name, replace=True)(handler)
            with self._lock:
                if self._closed:
                    ended.set()
                self._loop, self._ended, self._server = asyncio.get_running_loop(), ended, server
            try:
                for path in list(self._listeners) or [self.path]:
                    self._listen(path)
                self._started.set_result(None)
                await ended.wait()
            finally:
                self._accept_no_more_calls()

    def _accept_no_more_calls(self) -> None:
        with self._lock:
            self._loop = None
            calls = list(self._calls)
        for call in calls:  # the loop may end before it makes them
            call.cancel()

    async def _make_server(self, ended: asyncio.Event, stack: contextlib.AsyncExitStack) -> Server:
        if self._accel == FAKE:
            return self._make_fake(ended)
        return await self._machine(ended, stack)

    def _make_fake(self, ended: asyncio.Event) -> Server:
        from qmpserver.standin import Scenario, StandIn
        from qmpserver.standin.vocabulary import NAMED

        schema = self._schema
        if schema is not None and schema not in NAMED:
            schema = str(self._files / schema)
        if isinstance(self._scenario, str):
            scenario = Scenario.load(str(self._files / self._scenario), schema)
        else:
            scenario = Scenario.read(self._scenario or {}, directory=self._files, schema=schema)
        if self._smp is not None:
            scenario = scenario.on_machine({"cpus": self._smp})
        if self._version is not None:
            scenario = scenario.with_version(self._version)
        fake = StandIn(
            scenario.with_faults(self._faults), conversation=self.conversation, after=self._fake
        )
        fake.finished = ended
        self._fake = fake
        return fake

    async def _machine(self, ended: asyncio.Event, stack: contextlib.AsyncExitStack) -> Server:
        from qmpserver.cli.commandline import parse_command_line
        from qmpserver.cli.settings import CommandLineError

        accel = self._accel if "," in self._accel else f"{self._accel},dirty-ring-size=4096"
        try:
            settings = parse_command_line(["-accel", accel, "-smp", str(self._smp or 1)])
            from qmpserver.cli.assembly import assemble

            machine, server = await assemble(settings, stack)
        except CommandLineError as error:
            raise ValueError(str(error)) from None
        except ImportError as error:
            if not (error.name or "").startswith("qmpserver.vm"):
                raise
            raise ValueError(str(error)) from None  # it says how to get the native engine
        machine.finished = ended
        machine.start()
        return server

    def _listen(self, path: str) -> None:
        server = self._server
        assert server is not None
        chardev = SocketChardev(
            UnixAddress(path), id=Path(path).stem, server=True, max_clients=self._max_clients
        )
        sock = sockets.listen(chardev.address, BACKLOG)
        device = Listener(chardev, asyncio.get_running_loop(), sock)
        server.add_device(device)
        self._listeners[path] = device

        def greet(channel: Connection) -> None:
            if self._accel != FAKE:  # a stand-in has a tap of its own
                channel = Tap(channel, next(self._clients), [self.conversation.add])
            server.connect(channel, device.id)

        device.attach(greet)
