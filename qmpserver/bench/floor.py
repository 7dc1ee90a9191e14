"""Measure the costs of the machine itself: the floor under the other figures.

An eventfd's ping is the time from writing it to another process's return from polling it: no kick
can be faster. A socket's echo is a line to another process and back on a UNIX socket: no command's
round trip can be faster. Both are taken on an idle machine, and beside two vCPUs at full speed.

The bare harvest is the cost of a dirty page once it is in the ring: the time of a harvest and its
reset, from the trace event kvm_dirty_ring_reap, divided by its pages, while a measurement tracks
both vCPUs.
"""

from __future__ import annotations

import os
import random
import re
import select
import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from qmpserver.bench.guest import tracked_window
from qmpserver.bench.report import Result, Series, add_output, give, progress
from qmpserver.bench.servers import add_servers, enter, launched, ours
from qmpserver.tools.address import servers
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse

    from qmpserver.bench.vm import Vm

LINE = b'{"execute": "query-status"}\n'
IDLE, BUSY = "idle", "beside two busy vCPUs"
PING, ECHO = "eventfd ping, ms", "socket echo, there and back, ms"
HARVEST = "harvest and reset, ns a page"
REAP = "kvm_dirty_ring_reap"
WRITTEN_S = 0.2  # trace events are in the log by then
FEW = 1000  # pages; a smaller harvest is too short for the event's whole microseconds


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--cycles", type=at_least(1), default=200, help="how often (%(default)s)")
    add_servers(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    with ExitStack() as stack:
        candidates = launched(args, [ours(args)])
        done = stack.enter_context(progress("floor", 1 + len(candidates) + len(servers(args))))
        series = [
            Series(IDLE, PING, eventfd_ping(args.cycles)),
            Series(IDLE, ECHO, socket_echo(args.cycles)),
        ]
        vms = enter(stack, candidates, servers(args), 2)
        for number, vm in enumerate(vms, 1):
            done(number)
            name = BUSY if len(vms) == 1 else f"{BUSY} of {vm.name}"
            vm.qmp.execute("cont")
            series.append(Series(name, PING, eventfd_ping(args.cycles)))
            series.append(Series(name, ECHO, socket_echo(args.cycles)))
            series.append(Series(name, HARVEST, harvests(vm)))
            vm.qmp.execute("stop")
    return give(args, Result("floor", "the machine by itself", "", series))


def harvests(vm: Vm) -> list[float]:
    """Return the nanoseconds a page of each larger harvest in a second; none without tracing."""
    if vm.log is None or "trace-event-set-state" not in vm.commands:
        return []
    before = vm.log.stat().st_size
    vm.qmp.execute("trace-event-set-state", {"name": REAP, "enable": True})
    tracked_window(vm)
    vm.qmp.execute("trace-event-set-state", {"name": REAP, "enable": False})
    time.sleep(WRITTEN_S)
    written = vm.log.read_bytes()[before:].decode(errors="replace")
    found = re.findall(rf"{REAP} reaped (\d+) pages \(took (\d+) us\)", written)
    return [int(us) * 1e3 / int(pages) for pages, us in found if int(pages) >= FEW]


def eventfd_ping(rounds: int) -> list[float]:
    """Return the ms from writing an eventfd to another process's return from polling it."""
    kick, back = os.eventfd(0), os.pipe()
    child = os.fork()
    if not child:
        poll = select.poll()
        poll.register(kick, select.POLLIN)
        for _ in range(rounds):
            poll.poll()
            woke = time.monotonic_ns()
            os.eventfd_read(kick)
            os.write(back[1], struct.pack("Q", woke))
        os._exit(0)
    samples = []
    for _ in range(rounds):
        time.sleep(random.uniform(0.005, 0.03))
        start = time.monotonic_ns()
        os.eventfd_write(kick, 1)
        samples.append((struct.unpack("Q", os.read(back[0], 8))[0] - start) / 1e6)
    os.waitpid(child, 0)
    for fd in (kick, *back):
        os.close(fd)
    return samples


def socket_echo(rounds: int) -> list[float]:
    """Return the ms from sending a line on a UNIX socket to its return from another process."""
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        here.close()
        while data := there.recv(4096):
            there.sendall(data)
        os._exit(0)
    there.close()
    samples = []
    for _ in range(rounds):
        time.sleep(random.uniform(0.005, 0.03))
        start = time.monotonic_ns()
        here.sendall(LINE)
        here.recv(4096)
        samples.append((time.monotonic_ns() - start) / 1e6)
    here.close()
    os.waitpid(child, 0)
    return samples


def eventfd_ping_under_load(args: argparse.Namespace, rounds: int) -> list[float]:
    """Return the same beside two vCPUs of this server at full speed."""
    with ExitStack() as stack:
        (vm,) = enter(stack, [ours(args)], [], 2)
        vm.qmp.execute("cont")
        return eventfd_ping(rounds)
