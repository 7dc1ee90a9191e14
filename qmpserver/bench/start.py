"""Measure the time from a process's start to its greeting, and of importing asyncio beside it.

All are started in turn, with Python's bytecode cached. QEMU is started with no machine, and with
its PC; each server with -S, so no guest takes processor time from it.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from qmpserver.bench.command_line import QEMU, has_qemu
from qmpserver.bench.launch import START_S, caching
from qmpserver.bench.report import Result, Series, add_output, give, progress
from qmpserver.bench.vm import VmError
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

OURS = [sys.executable, "-m", "qmpserver.cli", "-S", "-accel"]
COMMANDS = {
    "qmpserver, kvm": [*OURS, "kvm,dirty-ring-size=4096"],
    "qmpserver, soft": [*OURS, "soft,dirty-ring-size=4096"],
    "QEMU, none": [QEMU, "-S", "-display", "none", "-machine", "none"],
    "QEMU, pc": [QEMU, "-S", "-display", "none", "-nodefaults", "-accel", "kvm"],
}
ASYNCIO = "import asyncio"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--starts", type=at_least(1), default=20, help="of each (%(default)s)")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="COMMAND",
        help="start this server instead; repeatable. -S and a monitor are added",
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    environment = caching()
    commands = {command: [*shlex.split(command), "-S"] for command in args.server} or _usual()
    series = [Series("ms", name) for name in (ASYNCIO, *commands)]
    with progress("start", args.starts) as done:
        for number in range(args.starts + 1):
            took = [_import(environment), *(_greeting(c, environment) for c in commands.values())]
            if number:  # the first one fills the caches
                for one, ms in zip(series, took, strict=True):
                    one.samples.append(ms)
            done(number)
    result = Result("start", "start to greeting", "ms", series, show=("median", "min"), digits=1)
    return give(args, result)


def _usual() -> dict[str, list[str]]:
    """Return the commands that can be started here."""
    has_kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    return {
        name: words
        for name, words in COMMANDS.items()
        if (has_qemu() or words[0] != QEMU) and (has_kvm or "kvm" not in str(words))
    }


def _import(environment: Mapping[str, str]) -> float:
    start = time.monotonic_ns()
    subprocess.run([sys.executable, "-c", ASYNCIO], env=environment, check=True)
    return (time.monotonic_ns() - start) / 1e6


def _greeting(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Return the ms until a client has the greeting of a server that listens on a passed socket.

    Raises:
        VmError: The server does not start, or does not greet.
    """
    with (
        tempfile.TemporaryDirectory(prefix="qmpctl-") as directory,
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
    ):
        listener.bind(f"{directory}/qmp")
        listener.listen()
        client.connect(f"{directory}/qmp")  # waits in the listener's queue
        client.settimeout(START_S)
        fd = listener.fileno()
        chardev = f"socket,id=qmp,fd={fd},server=on,wait=off"
        words = [*command, "-chardev", chardev, "-mon", "chardev=qmp,mode=control"]
        start = time.monotonic_ns()
        try:
            process = subprocess.Popen(
                words, env=environment, pass_fds=[fd], stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise VmError(f"{words[0]}: {error.strerror}") from None
        try:
            greeting = client.recv(4096)
            took = (time.monotonic_ns() - start) / 1e6
        except (TimeoutError, ConnectionError):
            greeting = b""
        finally:
            process.terminate()
            process.wait()
    if not greeting:
        raise VmError(f"{command[0]}: no greeting")
    return took
