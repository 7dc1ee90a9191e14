"""The servers that are measured: launched from commands, or already running.

Every measurement takes the same options for them, and measures several in turn, pair by pair.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpserver.bench.command_line import QEMU
from qmpserver.bench.launch import launch
from qmpserver.bench.vm import Vm, VmError
from qmpserver.tools.address import add_qmp, servers
from qmpserver.tools.client import Client
from qmpserver.tools.errors import UsageError
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from contextlib import ExitStack

    from qmpserver.tools.address import ServerAddress

OURS = f"{shlex.quote(sys.executable)} -m qmpserver.cli"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server to launch: its name in tables, its command, and `-accel` if the command has none."""

    name: str
    command: str
    accel: str


def add_servers(parser: argparse.ArgumentParser) -> None:
    """Add the options that name servers, running ones too."""
    add_launched(parser)
    add_qmp(parser)


def add_launched(parser: argparse.ArgumentParser) -> None:
    """Add the options that name servers to launch."""
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="COMMAND",
        help="launch this server; repeatable, to measure several in turn. -accel, -smp and -m are "
        "added if they are missing, and so are a QMP socket and for QEMU the guest",
    )
    add_ours(parser)
    parser.add_argument(
        "--qemu",
        nargs="?",
        const=QEMU,
        metavar="PROGRAM",
        help="measure QEMU too: this one, or else that of the variable QEMU, or else the system's",
    )


def add_ours(parser: argparse.ArgumentParser) -> None:
    """Add the options for launching this server."""
    parser.add_argument("--accel", choices=("kvm", "soft"), default="kvm")
    parser.add_argument("--ring", type=at_least(1), default=4096, help="ring size (%(default)s)")


def ours(args: argparse.Namespace, name: str = "qmpserver", options: str = "") -> Candidate:
    """Return this server; `options` are further ones of `-accel`, such as `reaper=poll`."""
    accel = f"{args.accel},dirty-ring-size={args.ring}"
    return Candidate(name, OURS, f"{accel},{options}" if options else accel)


def qemu(args: argparse.Namespace) -> Candidate:
    """Return QEMU."""
    program = getattr(args, "qemu", None) or QEMU
    return Candidate("QEMU", program, f"kvm,dirty-ring-size={args.ring}")


def launched(args: argparse.Namespace, usual: Sequence[Candidate]) -> list[Candidate]:
    """Return the servers to launch: the `usual` ones unless others were named.

    Raises:
        VmError: QEMU is one of them, and not installed.
    """
    accel = f"{args.accel},dirty-ring-size={args.ring}"
    named = [
        Candidate(command, command, qemu(args).accel if "qemu-system" in command else accel)
        for command in args.server
    ]
    running = servers(args) if "qmp_here" in args else []
    if not named and not running:
        named = list(usual)
    if args.qemu:
        named.append(qemu(args))
    for server in named:
        if server.name == "QEMU" and shutil.which(server.command) is None:
            raise VmError(f"{server.command} is not installed")
    return named


def enter(
    stack: ExitStack, launched: Sequence[Candidate], running: Sequence[ServerAddress], vcpus: int
) -> list[Vm]:
    """Run servers as long as the stack lasts, with their guests warm, and stopped.

    A measurement sends `cont` before and `stop` after. A server that was already running goes on
    running at the end.

    Args:
        stack: Ends the servers, and the connections to others, when it is closed.
        launched: Servers to launch.
        running: Servers that are already running.
        vcpus: The number of vCPUs of each.

    Raises:
        VmError: A server cannot be launched, or its guest cannot be watched.
        ServerError: A server that should be running is not.
        UsageError: A running server has fewer vCPUs.
    """
    vms = []
    for server in launched:
        run = launch(server.command, vcpus=vcpus, accel=server.accel, name=server.name)
        vms.append(stack.enter_context(run))
    for address in running:
        qmp = stack.enter_context(Client(address))
        vm = Vm(str(address), qmp)
        stack.callback(vm.close)
        if vm.vcpus() < vcpus:
            raise UsageError(f"{address}: {vcpus} vCPUs are needed, it has {vm.vcpus()}")
        stack.callback(qmp.execute, "cont")
        vms.append(vm)
    names = [vm.name for vm in vms]
    for index, vm in enumerate(vms):
        if names.count(vm.name) > 1:
            vm.name = f"{vm.name} #{index + 1}"
    for vm in vms:
        vm.warm(vcpus)
        vm.qmp.execute("stop")
    return vms
