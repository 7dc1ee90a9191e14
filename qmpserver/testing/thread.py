"""A server on a thread and an event loop of its own, for tests of any kind."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qmpserver.monitor import Server, SocketChardev, UnixAddress
from qmpserver.transcript.conversation import Conversation

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from qmpserver.monitor.channel import Channel

FAKE = "fake"

_GRACE_S = 0.2  # for commands that a client has not waited for
_PATIENCE_S = 10.0

_Handler = TypeVar("_Handler", bound="Callable[..., Any]")
_T = TypeVar("_T")


class ServerThread(Conversation):
    """A QMP server at `path`, from ``with`` to the end of the block, and what is said there.

    Any thread may use it, event loops in other threads too.

    Args:
        accel: Who executes the vCPUs: ``fake`` for nobody, or as after ``-accel``: ``soft`` or
            ``kvm``, with a dirty ring of 4096 entries if nothing else is said.
        smp: The number of vCPUs.
        schema: What a fake speaks: ``qemu-7.2``, ``qmpserver``, ``guest-agent``, or a file.
        scenario: What a fake does: a file, or a table with what a file would say.
        fault: What a fake does wrong: ``NAME`` or ``NAME:COMMAND``, or several of them.
        directory: Where such files are.
        max_clients: How many clients there can be at a time, the others wait; one, as in QEMU.

    Attributes:
        path: The UNIX socket, in a directory of its own; "" before the block.

    """

    def __init__(
        self,
        *,
        accel: str = FAKE,
        smp: int | None = None,
        schema: str | None = None,
        scenario: str | Mapping[str, Any] | None = None,
        fault: str | Sequence[str] = (),
        directory: str | os.PathLike[str] = "",
        max_clients: int = 1,
    ) -> None:
        super().__init__()
        if accel != FAKE and (schema or scenario or fault):
            raise ValueError(f"schema, scenario and fault are a fake's, not those of '{accel}'")
        self._accel = accel
        self._smp = smp
        self._schema = schema
        self._scenario = scenario
        self._faults = (fault,) if isinstance(fault, str) else tuple(fault)
        self._files = Path(directory)
        self._max_clients = max_clients
        self.path = ""
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._monitors = 0
        self._thread = threading.Thread(target=self._run, name="qmp-server", daemon=True)
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Event
        self._server: Server
        self._failures: Callable[[], list[str]] = list

    def __repr__(self) -> str:
        return f"<{type(self).__name__} unix:{self.path}>"

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            CommandLineError: There can be no such machine.
            ScenarioError: There can be no such fake.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="qmp-", ignore_cleanup_errors=True)
        self.path = f"{self._directory.name}/qmp.sock"
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, with the connections of all clients; what is said stays readable.

        Raises:
            RuntimeError: A handler blocks, so that the server can't end.
        """
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # its loop has just been closed
                self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(_PATIENCE_S)
        if self._directory is not None:
            self._directory.cleanup()
        if self._thread.is_alive():
            raise RuntimeError(f"the server has not ended in {_PATIENCE_S:g} s: a handler blocks")

    @property
    def running(self) -> bool:
        """Whether it serves: it ends before the block does when a client says ``quit``."""
        return self._thread.is_alive()

    def failures(self) -> list[str]:
        """Return what the scenario expects and did not come so far, a line each."""
        return self._failures()

    def add_monitor(self) -> str:
        """Open one more monitor, and return the path of its UNIX socket."""
        return self._call(self._listen)

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to all clients; it is on its way when this returns.

        Raises:
            ValueError: The schema says otherwise.
            KeyError: The schema has no such event.
        """
        events = self._server.registry.schema.events
        if event not in events:
            raise KeyError(f"the schema has no event '{event}'")
        events[event].validate(data)
        self._call(partial(self._server.emit, event, data))

    def handler(self, name: str) -> Callable[[_Handler], _Handler]:
        """Return a decorator that makes a function the handler of a command, from now on.

        It is what `Registry.command` takes: it gets the arguments as keywords, may be a coroutine
        function, and runs on the server's thread.

        Raises:
            KeyError: The schema has no such command.
        """
        registry = self._server.registry
        if name not in registry.schema.commands:
            raise KeyError(f"the schema has no command '{name}'")
        return registry.command(name, replace=True)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            try:
                runner.run(self._serve())
            except BaseException as error:
                if self._started.done():
                    raise
                self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            if self._accel == FAKE:
                self._server = self._fake()
            else:
                self._server = await self._machine(stack)
            stack.push_async_callback(self._server.close, _GRACE_S)
            self._listen()
            self._started.set_result(None)
            await self._ended.wait()

    def _fake(self) -> Server:
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
        fake = StandIn(scenario.with_faults(self._faults))
        fake.finished = self._ended
        self._failures = fake.failures
        return fake

    async def _machine(self, stack: contextlib.AsyncExitStack) -> Server:
        from qmpserver.cli.assembly import assemble
        from qmpserver.cli.commandline import parse_command_line

        accel = self._accel if "," in self._accel else f"{self._accel},dirty-ring-size=4096"
        settings = parse_command_line(["-accel", accel, "-smp", str(self._smp or 1)])
        machine, server = await assemble(settings, stack)
        machine.finished = self._ended
        machine.start()
        return server

    def _listen(self) -> str:
        name = f"{self._monitors or ''}"
        path = self.path.replace(".sock", f"{name}.sock")
        self._monitors += 1
        chardev = SocketChardev(
            UnixAddress(path), id=f"qmp{name}", server=True, max_clients=self._max_clients
        )
        device = self._server.add_chardev(chardev)

        def greet(channel: Channel) -> None:
            self._server.connect(self.listen_in(channel), device.id)

        device.attach(greet)
        return path

    def _call(self, function: Callable[[], _T]) -> _T:
        """Call it on the server's thread, where handlers are already."""
        if threading.current_thread() is self._thread:
            return function()

        async def call() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_PATIENCE_S)
