"""What the machine itself costs: a bare eventfd ping between two processes."""

from __future__ import annotations

import os
import random
import select
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from qmpserver.tools.bench.servers import enter, ours

if TYPE_CHECKING:
    import argparse


def eventfd_ping(rounds: int) -> list[float]:
    """Milliseconds from writing an eventfd to another process's return from polling it."""
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


def eventfd_ping_under_load(args: argparse.Namespace, rounds: int) -> list[float]:
    """Do the same beside two vCPUs of this server at full speed."""
    with ExitStack() as stack:
        (vm,) = enter(stack, [ours(args)], [], 2)
        vm.qmp.execute("cont")
        return eventfd_ping(rounds)
