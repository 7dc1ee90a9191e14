"""The program ``qmpserver``: QEMU-style options in, a running machine with its monitors out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import uvloop

from qmpserver.cli import process
from qmpserver.cli.settings import CommandLineError, named, parse_command_line
from qmpserver.monitor import FdAddress, SocketChardev

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from qmpserver.cli.settings import Settings
    from qmpserver.monitor import Device, Server
    from qmpserver.standin import StandIn
    from qmpserver.vm.machine.machine import Machine
    from qmpserver.web.address import HttpOptions

DESCRIPTORS = 40  # of the interpreter, the event loop, KVM, a few monitors and clients
DESCRIPTORS_PER_CPU = 3

_log = logging.getLogger("qmpserver")  # not __name__, which is __main__ for `python -m`


async def run(settings: Settings, ready: Callable[[], None] = lambda: None) -> None:
    """Run a machine and its monitors until it is shut down; `ready` is called when both are there.

    Raises:
        CommandLineError: It can't be had as asked for. Nothing is left behind then.
    """
    from qmpserver.cli.assembly import assemble  # what is native is of no use to -fake

    async with contextlib.AsyncExitStack() as stack:
        ended = _Signals()
        if settings.pidfile is not None:
            stack.enter_context(process.pidfile(settings.pidfile))
        machine, server = await assemble(settings, stack)
        ended.tell(machine)
        await _open_and_wait(settings, server, machine)
        if settings.http is not None:
            await _serve_http(*settings.http, server, machine, stack)
        machine.start(stopped=settings.stopped)
        await asyncio.sleep(0)  # a signal that came meanwhile
        if not machine.finished.is_set():
            ready()
            _log.info("ready")
        await machine.finished.wait()


async def run_fake(settings: Settings, ready: Callable[[], None] = lambda: None) -> bool:
    """Run a stand-in for QEMU until it is shut down; return whether all came that was expected.

    Raises:
        CommandLineError: It can't be had as asked for. Nothing is left behind then.
    """
    from qmpserver.standin import Scenario, ScenarioError, StandIn  # only with -fake

    async with contextlib.AsyncExitStack() as stack:
        ended = _Signals()
        if settings.pidfile is not None:
            stack.enter_context(process.pidfile(settings.pidfile))
        try:
            scenario = Scenario.asked_for(settings.fake or "")
            fake = StandIn(scenario.on_machine(_machine_asked_for(settings)), own_process=True)
        except ScenarioError as error:
            raise CommandLineError(f"-fake {settings.fake}: {error}") from None
        stack.push_async_callback(fake.close)
        ended.tell(fake)
        await _open_and_wait(settings, fake, fake)
        ready()
        await fake.finished.wait()
    failures = fake.failures()
    for failure in failures:
        process.report(failure)
    return not failures


def _machine_asked_for(settings: Settings) -> dict[str, Any]:
    """Return what options say of the machine; what they don't is the scenario's."""
    asked: dict[str, Any] = {
        "smp": ("cpus", settings.cpus),
        "m": ("memory", settings.ram),
        "name": ("name", settings.name),
        "uuid": ("uuid", str(settings.uuid)),
        "S": ("status", "prelaunch"),
    }
    return dict(asked[option] for option in asked if option in settings.given)


async def _open_and_wait(settings: Settings, server: Server, controlled: Machine | StandIn) -> None:
    for opened in await _open_monitors(settings, server):
        if opened.waits:
            await _first(opened.wait_connected(), controlled.finished.wait())


class _Signals:
    """Signals that end the program, from the start on."""

    def __init__(self) -> None:
        self._machine: Machine | StandIn | None = None
        self._number: int | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.by, number)

    def by(self, number: int) -> None:
        """Take a signal."""
        self._number = number
        if self._machine is not None:
            process.report(f"terminating on signal {number}")
            self._machine.shutdown("host-signal")

    def tell(self, machine: Machine | StandIn) -> None:
        """Shut `machine` down for a signal, also one that came before."""
        self._machine = machine
        if self._number is not None:
            self.by(self._number)


async def _open_monitors(settings: Settings, server: Server) -> list[Device]:
    devices: list[Device] = []
    for chardev in settings.chardevs:
        with named("chardev", chardev):
            devices.append(await server.add_chardev(chardev))
    for option, value in settings.monitors:
        with named(option, value):
            if option == "mon":
                server.add_monitor(value)
                continue
            mode = "readline" if option == "monitor" else "control"
            pretty = option == "qmp-pretty"
            device = await server.open_monitor(value, mode=mode, pretty=pretty)
            if device not in devices:
                devices.append(device)
    return devices


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
    if not options.made:
        process.report(f"listening on {site.url}")
    elif options.proxied:
        process.show(f"qmpserver: listening on {site.url}, the token is {options.token}")
    else:  # for who started the program, and for no log
        process.show(f"qmpserver: {site.url}?token={options.token}")


async def _first(*coroutines: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _check_passed(settings: Settings, passed: Sequence[int]) -> None:
    """Find a socket that clients would connect to in vain."""
    used = {
        device.address.fd
        for _, _, device in settings.devices
        if isinstance(device, SocketChardev) and isinstance(device.address, FdAddress)
    }
    for fd in passed:
        if fd not in used:
            raise CommandLineError(
                f"descriptor {fd} was passed by socket activation, but no option uses it",
                f"Use -qmp fd:{fd},server=on,wait=off",
            )


def _main() -> None:
    settings = parse_command_line(sys.argv[1:])
    if settings.exit_with is not None:
        print(settings.exit_with)
        return
    process.report.timestamps = settings.timestamps
    process.report.guest = settings.name if settings.guest_name else None
    for warning in settings.warnings:
        process.report(warning)
    _check_passed(settings, process.passed_descriptors(os.environ))
    if settings.log is not None:
        process.log_to(settings.log)
    if settings.process_name is not None:
        process.rename(settings.process_name)
    process.check_descriptors(DESCRIPTORS + DESCRIPTORS_PER_CPU * settings.cpus)
    ready = process.daemonize() if settings.daemonize else lambda: None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if settings.fake is None:
            runner.run(run(settings, ready))
        elif not runner.run(run_fake(settings, ready)):
            sys.exit(1)


def main() -> None:
    """Run the program; exits with status 0, or 1 after one line that says what was wrong."""
    try:
        process.open_standard_descriptors()
        _main()
    except (CommandLineError, process.ProcessError) as error:
        process.report(str(error))
        hint = error.hint if isinstance(error, CommandLineError) else ""
        if hint:
            process.show(hint)
        sys.exit(1)
    except OSError as error:
        process.report(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
