"""The machine that the command line describes, and the server that controls it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING

from qmpserver.cli.messages import report
from qmpserver.cli.options import PARAMETERS
from qmpserver.cli.settings import CommandLineError
from qmpserver.files import open_text
from qmpserver.monitor import Registry, Server
from qmpserver.monitor.adapted import AdaptedRegistry
from qmpserver.releases import NEWEST, own_schema
from qmpserver.vm.accel import AcceleratorError, AccelOptions, open_accelerator
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.commands import register_all
from qmpserver.vm.commands.control import version_info
from qmpserver.vm.commands.misc import human_monitor
from qmpserver.vm.machine.guest import DirtyGuest, GuestError
from qmpserver.vm.machine.machine import Machine
from qmpserver.vm.machine.options import NO_UUID

if TYPE_CHECKING:
    from qmpserver.cli.settings import Settings
    from qmpserver.vm.accel import Accelerator, Guest
    from qmpserver.vm.trace.tracer import Writer

_DEFAULT_RING_SIZE = 4096

_log = logging.getLogger("qmpserver")


async def assemble(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[Machine, Server]:
    """Return a machine that is not started, and a server without monitors; `stack` closes both.

    Raises:
        CommandLineError: The settings cannot be satisfied; nothing is left behind.
    """
    machine = _open_machine(settings, stack)
    release = settings.release
    # The dashboard shows the documentation.
    schema = own_schema(release.name, documented=settings.http is not None)
    registry = Registry(schema) if release is NEWEST else AdaptedRegistry(schema, release.words)
    register_all(registry, machine, release=release, command_line=PARAMETERS)
    server = Server(
        registry,
        version=version_info(release),
        human=lambda: human_monitor(registry, release, terminal=True),
        release=release,
    )
    stack.push_async_callback(server.close)
    if settings.serial is not None:
        from qmpserver.vm.machine.serial import SerialPort

        machine.serial = SerialPort(machine.accel.engine)
    machine.objects = settings.objects
    machine.emit = server.emit
    if isinstance(registry, AdaptedRegistry):
        machine.emit = registry.emitter(server.emit)
    return machine, server


def choose_accelerators(settings: Settings) -> list[AccelOptions]:
    """Return the accelerators to try, in order.

    Raises:
        CommandLineError: The command line names only unknown ones.
    """
    if settings.accels:
        return settings.accels
    if settings.machine_accels:
        return [AccelOptions(name) for name in settings.machine_accels]
    if settings.unknown_accels:
        raise CommandLineError(settings.unknown_accels[0])
    return [AccelOptions(name, _DEFAULT_RING_SIZE) for name in ("kvm", "soft")]


def _open_machine(settings: Settings, stack: contextlib.AsyncExitStack) -> Machine:
    try:
        ram = Ram(settings.ram, settings.ram_file)
    except (OSError, ValueError) as error:
        raise CommandLineError(f"cannot set up guest memory 'ram': {error}") from None
    with contextlib.ExitStack() as undo:
        undo.callback(ram.close)
        try:
            accel, refused = open_accelerator(ram, choose_accelerators(settings))
        except (AcceleratorError, OSError) as error:
            raise CommandLineError(str(error)) from None
        undo.callback(accel.close)
        messages = settings.unknown_accels + (["; ".join(refused)] if refused else [])
        for message in messages:
            report(message)
        if messages:
            report(f"falling back to {accel.name}")
        _log.info(
            "accelerator %s, dirty rings of %d entries, %s",
            accel.name,
            accel.dirty_ring_size,
            "from the command line" if settings.accels or settings.machine_accels else "by default",
        )
        machine = _make_machine(settings, ram, accel)
        undo.pop_all()
    stack.push_async_callback(machine.close)
    return machine


def _make_machine(settings: Settings, ram: Ram, accel: Accelerator) -> Machine:
    try:
        guest = _guest(settings, ram, accel)
        guest.load()
        accel.add_vcpus(guest, settings.cpus)
        guest.load()  # once more: a guest may be told the time, and its clock can be read now
    except (GuestError, AcceleratorError) as error:
        raise CommandLineError(str(error)) from None
    except OSError as error:
        raise CommandLineError(f"cannot make {settings.cpus} vCPUs: {error}") from None
    machine = Machine(
        ram,
        accel,
        guest,
        name=settings.name,
        uuid=settings.uuid or NO_UUID,
        actions=settings.actions,
        trace=_trace_writer(settings),
    )
    for name in settings.trace:
        try:
            for event in machine.tracer.events(name.removeprefix("-")):
                machine.tracer.enable(event, not name.startswith("-"))
        except KeyError:
            report(f"-trace {name}: warning: trace event '{name}' does not exist")
    return machine


def _guest(settings: Settings, ram: Ram, accel: Accelerator) -> Guest:
    if settings.bios is not None:
        from qmpserver.vm.machine.firmware import Firmware

        return Firmware(settings.bios, ram.buffer)
    if settings.boot_disk is not None:
        from qmpserver.vm.machine.bootsector import BootSector

        return BootSector(settings.boot_disk, ram.buffer)
    name, options = settings.guest or ("dirty", {})
    if name == "stress":
        from qmpserver.vm.machine.stress import StressGuest

        return StressGuest(options, ram.buffer, settings.cpus, accel.clock_hz, accel.read_clock)
    return DirtyGuest(options, ram.buffer, settings.cpus, accel.clock_hz)


def _trace_writer(settings: Settings) -> Writer:
    from qmpserver.vm.trace.writers import ChromeWriter, LineWriter

    path = settings.trace_file or settings.log
    try:
        if path is None:
            return LineWriter(sys.stderr)
        if path.endswith(".json"):
            return ChromeWriter(open_text(path, os.O_TRUNC))
        return LineWriter(open_text(path))
    except OSError as error:
        raise CommandLineError(f"-trace file={path}: {error.strerror}") from None
