"""Measure what a machine costs where there are many: stand-ins in one process, and by themselves.

All machines of a row are talked to at once: each has one client, which sends the next command when
it has the answer to the one before, all by one thread. A latency therefore contains the turns of
all other clients. Memory is private memory; it and the processor time are those of the start, up to
the negotiation.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING

from qmpserver.bench.command_line import QEMU, has_qemu
from qmpserver.bench.launch import START_S, caching, end
from qmpserver.bench.report import STATISTICS, Result, Series, add_output, give, markdown, progress
from qmpserver.bench.vm import VmError
from qmpserver.qmp.client import encode
from qmpserver.tools.numbers import at_least
from qmpserver.tools.processes import cpu_ms, private_mb

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

OURS = [sys.executable, "-m", "qmpserver.cli", "-fake"]
THEIRS = [QEMU, "-S", "-display", "none", "-nodefaults", "-accel", "tcg"]
HELLO = encode("qmp_capabilities") + b"\n"
REQUEST = encode("query-status") + b"\n"
ANSWER_S = 60.0  # for any client

CPU = "start, ms of processor time a machine"
MEMORY = "private memory, MB a machine"
RATE = "thousand commands/s, all machines"
LATENCY = "latency, ms"
SHOWN = {LATENCY: ("median", "p99", "max")}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    count = at_least(1)
    parser.add_argument("--machines", type=count, default=1000, help="in one process (%(default)s)")
    parser.add_argument("--processes", type=count, default=20, help="one each (%(default)s)")
    parser.add_argument("--commands", type=count, default=100, help="to each (%(default)s)")
    parser.add_argument("--rounds", type=count, default=3, help="(%(default)s)")
    parser.add_argument("--no-qemu", action="store_true", help="measure this server alone")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    many = f"default,machines={args.machines}"
    rows = {
        f"{args.machines} stand-ins, one process": ([*OURS, many], args.machines, 1),
        f"{args.processes} stand-ins, a process each": ([*OURS, "default"], 1, args.processes),
    }
    if has_qemu() and not args.no_qemu:
        rows[f"{args.processes} QEMUs, paused"] = (THEIRS, 1, args.processes)
    whats = (CPU, MEMORY, RATE, LATENCY)
    series = {name: {what: Series(name, what) for what in whats} for name in rows}
    with progress("machines", args.rounds) as done:
        for number in range(args.rounds):
            for name, (command, machines, processes) in rows.items():
                _measure(command, machines, processes, args.commands, series[name])
            done(number + 1)
    found = [one for by_what in series.values() for one in by_what.values()]
    result = Result("machines", "the cost of a machine among many", "", found)
    return give(args, result, _table(series))


def _table(series: dict[str, dict[str, Series]]) -> str:
    rows = [["", *series]]
    for what in (CPU, MEMORY, RATE, LATENCY):
        show = SHOWN.get(what, ("median",))
        row = [what + (f", {' / '.join(show)}" if what in SHOWN else "")]
        for by_what in series.values():
            samples = by_what[what].samples
            row.append(" / ".join(f"{STATISTICS[name](samples):.2f}" for name in show))
        rows.append(row)
    return markdown(rows)


def _measure(
    command: Sequence[str],
    machines: int,
    processes: int,
    commands: int,
    series: dict[str, Series],
) -> None:
    """Start all machines, talk to them, end them, and add the figures.

    Raises:
        VmError: A process does not start, or does not answer.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="qmpctl-"))
        log = stack.enter_context(open(f"{directory}/log", "w+"))
        pids, clients = [], []
        for process in range(processes):
            name = "%d" if machines > 1 else str(process)
            words = [*command, "-qmp", f"unix:{directory}/{name},server=on,wait=off"]
            pids.append(_start(words, log, stack))
            numbers = range(1, machines + 1) if machines > 1 else (process,)
            for number in numbers:
                client = _connected(f"{directory}/{number}", log)
                clients.append(stack.enter_context(client))
                client.sendall(HELLO)
                lines = 0
                while lines < 2:
                    lines += _received(client).count(b"\n")
        count = len(clients)
        series[CPU].samples.append(sum(map(cpu_ms, pids)) / count)
        series[MEMORY].samples.append(sum(map(private_mb, pids)) / count)
        start = time.monotonic()
        latencies = _talk(clients, commands)
        series[RATE].samples.append(len(latencies) / (time.monotonic() - start) / 1e3)
        series[LATENCY].samples += latencies


def _start(words: Sequence[str], log: IO[str], stack: ExitStack) -> int:
    try:
        process = subprocess.Popen(words, env=caching(), stdin=subprocess.DEVNULL, stderr=log)
    except OSError as error:
        raise VmError(f"{words[0]}: {error.strerror}") from None
    stack.callback(end, process)
    return process.pid


def _connected(path: str, log: IO[str]) -> socket.socket:
    """Return a client of a monitor, which may be about to open.

    Raises:
        VmError: It does not open.
    """
    deadline = time.monotonic() + START_S
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
        except OSError as error:
            client.close()
            if time.monotonic() > deadline:
                log.seek(0)
                raise VmError(log.read().strip() or f"{path}: {error.strerror}") from None
            time.sleep(0.005)
        else:
            client.settimeout(ANSWER_S)
            return client


def _received(client: socket.socket) -> bytes:
    try:
        data = client.recv(1 << 16)
    except OSError as error:
        raise VmError(f"a machine does not answer: {error}") from None
    if not data:
        raise VmError("a machine has hung up")
    return data


def _talk(clients: Sequence[socket.socket], commands: int) -> list[float]:
    """Send so many commands to each machine; return the milliseconds until each answer.

    Raises:
        VmError: A machine hangs up, or stops answering.
    """
    latencies: list[float] = []
    left = {client.fileno(): commands for client in clients}
    by_fd = {client.fileno(): client for client in clients}
    sent: dict[int, int] = {}
    with select.epoll(len(clients)) as epoll:
        for fd, client in by_fd.items():
            epoll.register(fd, select.EPOLLIN)
            sent[fd] = time.monotonic_ns()
            client.sendall(REQUEST)
        while left:
            ready = epoll.poll(ANSWER_S)
            if not ready:
                raise VmError("the machines have stopped answering")
            for fd, _ in ready:
                if not _received(by_fd[fd]).endswith(b"\n"):
                    continue
                now = time.monotonic_ns()
                latencies.append((now - sent[fd]) / 1e6)
                left[fd] -= 1
                if left[fd]:
                    sent[fd] = now
                    by_fd[fd].sendall(REQUEST)
                else:
                    del left[fd]
    return latencies
