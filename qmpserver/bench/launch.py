"""Machines launched for a measurement: this server, QEMU, or another command."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.bench.command_line import RAM_MIB, command_line
from qmpserver.bench.vm import Vm, VmError
from qmpserver.tools.address import ServerAddress
from qmpserver.tools.client import Client
from qmpserver.tools.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_S = 10.0


def caching() -> dict[str, str]:
    """Return this environment, but one in which Python caches the bytecode of what is started."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


@contextlib.contextmanager
def launch(
    server: str,
    *,
    vcpus: int,
    accel: str,
    name: str = "",
    ram: str = f"{RAM_MIB}M",
    guest: Mapping[str, str] | None = None,
) -> Iterator[Vm]:
    """Run a machine as long as the context lasts.

    Args:
        server: Its command, which `command_line` completes.
        vcpus: The number of vCPUs, if the command leaves it open.
        accel: The value of `-accel`, if the command leaves it open.
        name: The machine's name in tables, if not its command.
        ram: The value of `-m`, if the command leaves it open.
        guest: Options of the guest `dirty`, if the command leaves the guest open.

    Raises:
        VmError: It does not start; the text is its output.
        UsageError: The command makes no sense.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="qmpctl-"))
        argv = command_line(server, directory, vcpus=vcpus, accel=accel, ram=ram, guest=guest)
        log = stack.enter_context(open(Path(directory) / "log", "w+b"))
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            raise VmError(f"{argv[0]}: {error.strerror}") from None
        stack.callback(end, process)
        deadline = time.monotonic() + START_S
        while True:
            try:
                qmp = Client(ServerAddress(f"{directory}/qmp.sock"))
                break
            except ServerError:
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()
                    raise VmError(said or f"{server}: the server does not answer") from None
                time.sleep(0.01)
        stack.callback(qmp.close)
        vm = Vm(name or server, qmp)
        stack.callback(vm.close)
        vm.log = Path(log.name)
        yield vm


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started, by SIGTERM if that is enough."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
