"""The program's time on the event loop: a machine or a stand-in, its monitors, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from typing import TYPE_CHECKING, Any

from qmpserver.cli.commandline import named
from qmpserver.cli.messages import report, show
from qmpserver.cli.pidfile import pidfile
from qmpserver.cli.settings import CommandLineError
from qmpserver.keyval import OptionError
from qmpserver.monitor import DeviceError
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from qmpserver.cli.daemon import Launcher
    from qmpserver.cli.settings import Settings
    from qmpserver.monitor import Device, Server
    from qmpserver.standin import Scenario, StandIn
    from qmpserver.vm.machine.machine import Machine
    from qmpserver.web.address import HttpOptions

_EXTENSION = "qmpserver.vm.accel.native._native"
_END_S = 10  # from a signal to the end of the process, whatever it waits for

_log = logging.getLogger("qmpserver")


async def run(settings: Settings, launcher: Launcher | None = None) -> bool:
    """Run a machine, or a stand-in with `-fake`, until it is shut down.

    Args:
        settings: The command line's.
        launcher: Released when monitors listen and the machine has started.

    Returns:
        Whether a stand-in's expectations were met; True for a machine.

    Raises:
        CommandLineError: The settings cannot be satisfied; nothing is left behind.
    """
    async with contextlib.AsyncExitStack() as stack:
        signalled = _catch_signals()
        if launcher is not None:
            _end_with(launcher)
        if settings.pidfile is not None:
            stack.enter_context(pidfile(settings.pidfile))
        if settings.fake is None:
            await _run_machine(settings, signalled, launcher, stack)
            return True
        stand_in = await _run_stand_in(settings, *settings.fake, signalled, launcher, stack)
    failures = stand_in.failures()
    for failure in failures:
        report(failure)
    return not failures


async def _run_machine(
    settings: Settings,
    signalled: asyncio.Future[int],
    launcher: Launcher | None,
    stack: contextlib.AsyncExitStack,
) -> None:
    try:
        from qmpserver.cli.assembly import assemble  # -fake runs without it
    except ImportError as error:
        if error.name != _EXTENSION:
            raise
        raise CommandLineError(f"{error}; -fake does not need it") from None
    if settings.http is not None:
        import qmpserver.web.serve  # noqa: F401 -- clients may have all descriptors later
    machine, server = await assemble(settings, stack)
    _shut_down_on_signal(signalled, machine)
    _keep_modules(stack)
    with _given_up_at(machine.finished):
        await _open_monitors(settings, server)
        if settings.http is not None:
            await _serve_http(*settings.http, server, machine, stack)
        try:
            incoming = settings.incoming is not None
            machine.start(stopped=settings.stopped, incoming=incoming)
        except OSError as error:
            raise CommandLineError(f"cannot start the machine: {error}") from None
        if settings.incoming is not None and settings.incoming != "defer":
            await _wait_for_guest(settings.incoming, machine)
        _release(launcher)
        _log.info("ready")
    await machine.finished.wait()
    if machine.failure is not None:
        raise CommandLineError(machine.failure)


async def _wait_for_guest(uri: str, machine: Machine) -> None:
    from qmpserver.migration.address import parse_uri

    try:
        await machine.migration.incoming(parse_uri(uri), int)
    except (CommandError, DeviceError) as error:
        raise CommandLineError(f"-incoming {uri}: {error}") from None


async def _run_stand_in(
    settings: Settings,
    value: str,
    scenario: Scenario,
    signalled: asyncio.Future[int],
    launcher: Launcher | None,
    stack: contextlib.AsyncExitStack,
) -> StandIn:
    from qmpserver.standin import ScenarioError, StandIn  # only with -fake

    try:
        stand_in = StandIn(scenario.on_machine(_machine_of_stand_in(settings)), own_process=True)
    except ScenarioError as error:
        raise CommandLineError(f"-fake {value}: {error}") from None
    stack.push_async_callback(stand_in.close)
    _shut_down_on_signal(signalled, stand_in)
    _keep_modules(stack)
    with _given_up_at(stand_in.finished):
        await _open_monitors(settings, stand_in, lambda: _launch(settings, stand_in))
        _release(launcher)
    await stand_in.finished.wait()
    return stand_in


async def _launch(settings: Settings, stand_in: StandIn) -> None:
    try:
        await stand_in.launch(settings.machine_options)
    except OptionError as error:
        raise CommandLineError(str(error), error.hint) from None


def _keep_modules(stack: contextlib.AsyncExitStack) -> None:
    """Spare the garbage collector what the program has until its end: modules and the schema.

    A collection that walks them takes 15 ms, and clients wait for it. The program starts without.
    """
    gc.freeze()
    gc.enable()
    stack.callback(gc.unfreeze)


def _machine_of_stand_in(settings: Settings) -> dict[str, Any]:
    """Return the machine's properties that options set; the scenario sets the others.

    Raises:
        CommandLineError: An option is malformed.
    """
    from qmpserver.standin.commandline import machine  # only with -fake

    properties: dict[str, Any] = {
        "m": ("memory", settings.ram),
        "name": ("name", settings.name),
        "uuid": ("uuid", str(settings.uuid)),
        "S": ("status", "prelaunch"),
    }
    made = dict(properties[option] for option in properties if option in settings.given)
    try:
        return made | machine.changes(settings.machine_options)
    except OptionError as error:
        raise CommandLineError(str(error), error.hint) from None


def _catch_signals() -> asyncio.Future[int]:
    """Return a future of the first signal that ends the program.

    The end is orderly unless it takes too long, as when standard error is a pipe that is full: then
    the kernel ends the process, since no code of it may get to run.
    """
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[int] = loop.create_future()

    def catch(number: int) -> None:
        if not signalled.done():
            signalled.set_result(number)

    def handle(number: int, _frame: object) -> None:
        if not signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.alarm(_END_S)
        with contextlib.suppress(RuntimeError):  # the event loop has been closed
            loop.call_soon_threadsafe(catch, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not the event loop's own handlers, which leave system calls that wait uninterrupted.
        signal.signal(number, handle)
    return signalled


def _end_with(launcher: Launcher) -> None:
    """End the program, as by a signal, if the launcher ends before it is released."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(launcher.fileno())
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(launcher.fileno(), end)


def _release(launcher: Launcher | None) -> None:
    if launcher is None:
        return
    asyncio.get_running_loop().remove_reader(launcher.fileno())
    try:
        launcher.release()
    except BrokenPipeError:
        signal.raise_signal(signal.SIGTERM)


def _shut_down_on_signal(signalled: asyncio.Future[int], controlled: Machine | StandIn) -> None:
    """Shut the machine down at a signal, also at one from before this call."""

    def shut_down(signalled: asyncio.Future[int]) -> None:
        report(f"terminating on signal {signalled.result()}")
        controlled.shutdown("host-signal")

    signalled.add_done_callback(shut_down)


@contextlib.contextmanager
def _given_up_at(finished: asyncio.Event) -> Iterator[None]:
    """Leave the block, which may wait for names, clients or hosts, when `finished` is set."""
    starter = asyncio.current_task()
    assert starter is not None
    starting = True

    def give_up(_: object) -> None:
        if starting:
            starter.cancel()

    end = asyncio.ensure_future(finished.wait())
    end.add_done_callback(give_up)
    try:
        yield
    except asyncio.CancelledError:
        if not finished.is_set():
            raise
        starter.uncancel()
    finally:
        starting = False
        end.cancel()


async def _open_monitors(
    settings: Settings, server: Server, with_chardevs: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Open all monitors and wait for the clients that options demand.

    `with_chardevs` is called when the character devices are open, before a client is served.

    Nothing may run between the last monitor's opening and the caller's next step: a client that
    is connected then must see the machine running.
    """
    devices: list[Device] = []
    for chardev in settings.chardevs:
        with named("chardev", chardev):
            devices.append(await server.add_chardev(chardev))
    if with_chardevs is not None:
        await with_chardevs()
    for option, value in settings.monitors:
        with named(option, value):
            if option == "mon":
                server.add_monitor(value)
                continue
            mode = "readline" if option == "monitor" else "control"
            devices.append(
                await server.open_monitor(value, mode=mode, pretty=option == "qmp-pretty")
            )
    for device in devices:
        if device.waits:
            await device.wait_connected()


async def _serve_http(
    value: str,
    options: HttpOptions,
    server: Server,
    machine: Machine,
    stack: contextlib.AsyncExitStack,
) -> None:
    from qmpserver.web.serve import serve  # only with -http

    with named("http", value):
        site = await serve(server, machine, options)
    stack.push_async_callback(site.close)
    # The token is shown to the invoking user only, never logged.
    if not options.made:
        report(f"listening on {site.url}")
    elif options.proxied:
        show(f"qmpserver: listening on {site.url}, the token is {options.token}")
    else:
        show(f"qmpserver: {site.url}?token={options.token}")
