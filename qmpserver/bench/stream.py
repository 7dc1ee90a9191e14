"""Measure how fast RAM travels to another process, beside the bare system calls.

RAM without a zero page is sent on UNIX sockets to a process that fills fresh memory. The bare way
is sendmsg from that RAM and recv into a new mapping, without headers, checks or a bitmap. All ways
take turns, and a time ends when the other process has all of RAM.
"""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from qmpserver.bench.report import Result, Series, add_output, give, progress
from qmpserver.tools.errors import QmpctlError
from qmpserver.tools.numbers import at_least
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.accel.stream import ChannelState, Receiver, Sender

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

MIB = 1 << 20
CHUNK = 64 * 4096  # as many pages as a frame has at most
READY = b"r"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--size", type=at_least(1), default=1024, help="of RAM, MiB (%(default)s)")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="of each (%(default)s)")
    parser.add_argument(
        "--channels",
        type=at_least(1),
        nargs="+",
        default=[1, 2],
        metavar="N",
        help="numbers of channels to measure (%(default)s)",
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    with ExitStack() as stack:
        source = Ram(args.size * MIB)
        stack.callback(source.close)
        for at in range(0, source.size, MIB):
            source.buffer[at : at + MIB] = os.urandom(4096) * 256
        ways: dict[str, Callable[[], float]] = {"bare sendmsg": partial(bare, source)}
        for count in args.channels:
            name = f"{count} channel" + "s" * (count > 1)
            ways[name] = partial(streamed, source, count)
        series = {name: Series(name, "MB/s") for name in ways}
        done = stack.enter_context(progress("stream", args.rounds))
        for number in range(args.rounds):
            for name, way in ways.items():
                series[name].samples.append(args.size / way())
            done(number + 1)
    title = f"{args.size} MB of RAM to another process"
    shown = ("median", "min", "max")
    result = Result("stream", title, "MB/s", [*series.values()], shown, digits=0, paired=True)
    return give(args, result)


def bare(source: Ram) -> float:
    """Return the seconds that sendmsg and recv take."""

    def receive(ends: list[socket.socket]) -> None:
        target, (end,) = Ram(source.size), ends
        end.sendall(READY)
        with memoryview(target.buffer) as view:
            at = 0
            while at < source.size:
                count = end.recv_into(view[at : at + CHUNK])
                if not count:
                    return
                at += count
        end.sendall(READY)

    with receiving(receive, 1) as (end,), memoryview(source.buffer) as view:
        start = time.monotonic()
        for at in range(0, source.size, CHUNK):
            left = view[at : at + CHUNK]
            while left:
                left = left[end.sendmsg([left]) :]
        wait_ready(end)
        return time.monotonic() - start


def streamed(source: Ram, channels: int) -> float:
    """Return the seconds that a sender and a receiver take."""

    def receive(ends: list[socket.socket]) -> None:
        receiver = Receiver(Ram(source.size), [end.fileno() for end in ends])
        for channel in range(channels):
            receiver.start(channel)
        ends[0].send(READY)
        poll = select.poll()
        poll.register(receiver.fileno(), select.POLLIN)
        while ChannelState.BUSY in receiver.states():
            poll.poll()
            receiver.acknowledge()
        if set(receiver.states()) == {ChannelState.SYNC}:
            ends[0].send(READY)

    with receiving(receive, channels) as ends:
        sender = Sender(source, [end.fileno() for end in ends])
        try:
            start = time.monotonic()
            sender.add_data()
            sender.begin_pass(sync=True)
            wait_ready(ends[0])
            return time.monotonic() - start
        finally:
            sender.close()


@contextmanager
def receiving(
    receive: Callable[[list[socket.socket]], None], channels: int
) -> Iterator[list[socket.socket]]:
    """Run a function in another process on its ends of socket pairs; yield this one's ends.

    The function sends `READY` on its first end when it begins, and when it has all of RAM.

    Raises:
        QmpctlError: The process has failed.
    """
    pairs = [socket.socketpair() for _ in range(channels)]
    pid = os.fork()
    if not pid:
        status = 1
        try:
            for here, _ in pairs:
                here.close()
            receive([there for _, there in pairs])
            status = 0
        finally:
            os._exit(status)
    try:
        for _, there in pairs:
            there.close()
        wait_ready(pairs[0][0])
        yield [here for here, _ in pairs]
    finally:
        for here, _ in pairs:
            here.close()
        os.waitpid(pid, 0)


def wait_ready(end: socket.socket) -> None:
    """Wait for the other process.

    Raises:
        QmpctlError: It has ended.
    """
    poll = select.poll()
    poll.register(end, select.POLLIN)
    poll.poll()
    if end.recv(1) != READY:
        raise QmpctlError("the process that receives RAM has failed")
