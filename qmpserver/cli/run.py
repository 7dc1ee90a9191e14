"""The program's time on the event loop: a machine or a stand-in, its monitors, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import logging
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

from qmpserver.cli.commandline import named
from qmpserver.cli.messages import report, show, tell_terminal
from qmpserver.cli.pidfile import pidfile
from qmpserver.cli.settings import CommandLineError
from qmpserver.files import open_text
from qmpserver.keyval import OptionError
from qmpserver.monitor import DeviceError, parse_device
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from qmpserver.cli.daemon import Launcher
    from qmpserver.cli.settings import Settings
    from qmpserver.cli.standins import Member, StandIns
    from qmpserver.monitor import Device, Server
    from qmpserver.monitor.channel import Channel
    from qmpserver.monitor.qtest import Memory
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
        failures = await _run_stand_ins(settings, signalled, launcher, stack)
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
        others = partial(_open_others, settings, server, stack, machine)
        await _wait_for_clients(await _open_monitors(settings, server, others))
        if settings.http is not None:
            await _serve_http(*settings.http, server, machine, stack)
        try:
            incoming = settings.incoming is not None
            machine.start(stopped=settings.stopped, incoming=incoming)
        except OSError as error:
            raise CommandLineError(f"cannot start the machine: {error}") from None
        await _import_late("qmpserver.human")
        if settings.incoming is not None and settings.incoming != "defer":
            await _wait_for_guest(settings.incoming, machine, server)
        _release(launcher)
        _log.info("ready")
    await machine.finished.wait()
    if machine.failure is not None:
        raise CommandLineError(machine.failure)


async def _wait_for_guest(uri: str, machine: Machine, server: Server) -> None:
    from qmpserver.migration.address import parse_uri
    from qmpserver.monitor.fds import Passed

    try:
        await machine.migration.incoming(parse_uri(uri), Passed(int, server.fds.duplicate))
    except (CommandError, DeviceError) as error:
        raise CommandLineError(f"-incoming {uri}: {error}") from None


async def _run_stand_ins(
    settings: Settings,
    signalled: asyncio.Future[int],
    launcher: Launcher | None,
    stack: contextlib.AsyncExitStack,
) -> list[str]:
    """Return the failures of the stand-ins."""
    from qmpserver.cli.standins import StandIns  # only with -fake

    stand_ins = StandIns(settings)
    stack.push_async_callback(stand_ins.close)
    _shut_down_on_signal(signalled, stand_ins)
    _keep_modules(stack)
    with _given_up_at(stand_ins.finished):
        devices: list[Device] = []
        for one in stand_ins.members:
            others = partial(_launch, one, stack)
            devices += await _open_monitors(one.settings, one.stand_in, others)
        await _wait_for_clients(devices)
        _release(launcher)
        await _import_late("qmpserver.standin.human")
    await stand_ins.finished.wait()
    return stand_ins.failures()


async def _import_late(human: str) -> None:
    """Greet the clients that wait; then import what commands need, while there are descriptors."""
    await asyncio.sleep(0)
    for module in ("hashlib", human):
        importlib.import_module(module)


def _keep_modules(stack: contextlib.AsyncExitStack) -> None:
    """Spare the garbage collector what the program has until its end: modules and the schema.

    A collection that walks them takes 15 ms, and clients wait for it. The program starts without.
    """
    gc.freeze()
    gc.enable()
    stack.callback(gc.unfreeze)


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


def _shut_down_on_signal(signalled: asyncio.Future[int], controlled: Machine | StandIns) -> None:
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
    settings: Settings,
    server: Server,
    before: Callable[[], Awaitable[Sequence[Device]]],
) -> list[Device]:
    """Open all monitors, and return all devices.

    `before` is called when the character devices are open, and returns more devices. Clients are
    served after all that may take time: a command must find the machine as the options describe it.
    """
    for _, fd, number, note in settings.fd_sets:
        server.fds.add(os.dup(fd), number, note)
    for fd in {fd for _, fd, _, _ in settings.fd_sets}:
        os.close(fd)
    devices: list[Device] = []
    for chardev in settings.chardevs:
        with named("chardev", chardev):
            devices.append(_told(await server.add_chardev(chardev)))
    devices += await before()
    labels = map("compat_monitor{}".format, itertools.count())  # as QEMU names them
    monitors: list[str] = []  # as -mon describes them
    for option, value in settings.monitors:
        if option == "mon":
            monitors.append(value)
            continue
        name = value.removeprefix("chardev:")
        if name == value:
            name = next(labels)
            with named(option, value):
                devices.append(_told(await server.add_chardev(parse_device(value, name))))
        mode = "readline" if option == "monitor" else "control"
        pretty = ",pretty=on" if option == "qmp-pretty" else ""
        monitors.append(f"chardev={name},mode={mode}{pretty}")
    for (option, value), monitor in zip(settings.monitors, monitors, strict=True):
        with named(option, value):
            server.add_monitor(monitor)
    return devices


async def _open_others(
    settings: Settings, server: Server, stack: contextlib.AsyncExitStack, machine: Machine
) -> list[Device]:
    """Open the devices of a machine that are no monitors'."""
    from qmpserver.vm.machine.physical import PhysicalMemory

    devices: list[Device] = []
    if settings.qtest is not None:
        memory = PhysicalMemory(machine.ram, machine.accel.engine)
        devices.append(await _open_qtest(settings.qtest, settings.qtest_log, server, stack, memory))
    if settings.serial is not None and machine.serial is not None:
        attach = machine.serial.attach
        devices.append(await _attach(server, "serial", settings.serial, "serial0", attach))
    return devices


async def _launch(member: Member, stack: contextlib.AsyncExitStack) -> list[Device]:
    """Give a stand-in what its options describe."""
    await member.launch()
    settings = member.settings
    if settings.qtest is None:
        return []
    return [await _open_qtest(settings.qtest, settings.qtest_log, member.stand_in, stack)]


async def _open_qtest(
    value: str,
    log_path: str | None,
    server: Server,
    stack: contextlib.AsyncExitStack,
    memory: Memory | None = None,
) -> Device:
    """Serve QEMU's test protocol; a stand-in has no memory."""
    from qmpserver.monitor.qtest import Qtest  # only with -qtest

    log = None
    if log_path is not None:
        try:
            log = stack.enter_context(open_text(log_path, os.O_TRUNC))
        except OSError as error:
            raise CommandLineError(f"-qtest-log {log_path}: {error.strerror}") from None
    return await _attach(server, "qtest", value, "qtest", Qtest(memory, log).attach)


async def _attach(
    server: Server, option: str, value: str, label: str, attach: Callable[[Channel], object]
) -> Device:
    """Hand the clients of an option's device to `attach`; `label` names one of its own."""
    with named(option, value):
        if value.startswith("chardev:"):
            name = value.removeprefix("chardev:")
            found = [one for one in server.devices if one.id == name]
            if not found:
                raise OptionError(f'chardev "{name}" not found')
            device = found[0]
        else:
            device = _told(await server.add_chardev(parse_device(value, label)))
        device.attach(attach)
        return device


def _told(device: Device) -> Device:
    """Return a device; of a pseudo-terminal, print the path first."""
    kind, _, path = device.filename.partition(":")
    if kind == "pty":
        tell_terminal(device.id, path)
    return device


async def _wait_for_clients(devices: Sequence[Device]) -> None:
    """Wait for the clients that options demand.

    Nothing may run between this and the caller's next step: a client that is connected then must
    see the machine running.
    """
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
