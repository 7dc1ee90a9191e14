"""The servers that a measurement is about: launched from commands, or running already.

Every measurement takes the same options for them, and measures several in turn, pair by pair.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpserver.bench.command_line import QEMU, has_qemu
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

WARM_S = 2.0  # until all of the guest's memory has been touched once
OURS = f"{shlex.quote(sys.executable)} -m qmpserver.cli"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server to launch: the command, what tables call it, and its ``-accel`` if it has none."""

    name: str
    command: str
    accel: str


def add_servers(parser: argparse.ArgumentParser) -> None:
    """Add the options that name servers."""
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="COMMAND",
        help="launch this; again for one beside it, in turn. What is open of -accel, -smp and -m "
        "is added, and so are a QMP socket and for QEMU the guest",
    )
    add_qmp(parser)
    add_ours(parser)
    parser.add_argument("--qemu", action="store_true", help="QEMU beside them")


def add_ours(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how this server is launched."""
    parser.add_argument("--accel", choices=("kvm", "soft"), default="kvm")
    parser.add_argument("--ring", type=at_least(1), default=4096, help="ring size (%(default)s)")


def ours(args: argparse.Namespace, name: str = "qmpserver", options: str = "") -> Candidate:
    """Return this server; `options` are further ones of ``-accel``, such as ``reaper=poll``."""
    accel = f"{args.accel},dirty-ring-size={args.ring}"
    return Candidate(name, OURS, f"{accel},{options}" if options else accel)


def qemu(args: argparse.Namespace) -> Candidate:
    """Return QEMU."""
    return Candidate("QEMU", QEMU, f"kvm,dirty-ring-size={args.ring}")


def launched(args: argparse.Namespace, usual: Sequence[Candidate]) -> list[Candidate]:
    """Return the servers that are to be launched: the `usual` ones unless others were named."""
    accel = f"{args.accel},dirty-ring-size={args.ring}"
    named = [
        Candidate(command, command, qemu(args).accel if "qemu-system" in command else accel)
        for command in args.server
    ]
    if not named and not servers(args):
        named = list(usual)
    if args.qemu:
        named.append(qemu(args))
    if any(server.command == QEMU for server in named) and not has_qemu():
        raise VmError(f"{QEMU} is not installed, there is nothing to compare with")
    return named


def enter(
    stack: ExitStack, launched: Sequence[Candidate], running: Sequence[ServerAddress], vcpus: int
) -> list[Vm]:
    """Have servers run for as long as the stack lasts, their guests warm, and stopped.

    Who measures one of them says ``cont`` before and ``stop`` after. One that ran already goes on
    running at the end.

    Raises:
        VmError: One can't be launched, or its guest not be watched.
        ServerError: One that should be running is not.
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
        vm.rates(WARM_S, vcpus)
        vm.qmp.execute("stop")
    return vms
