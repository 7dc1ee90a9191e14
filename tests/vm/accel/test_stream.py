"""vm/accel/stream.py: RAM through sockets, pipes and files, compared byte for byte."""

import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from qmpserver.vm.accel.memory import PAGE_SIZE, Ram
from qmpserver.vm.accel.stream import ChannelState, Receiver, Sender

PATIENCE = 20.0
PAGES, ZERO, SYNC, CONTROL = 1, 2, 3, 16
MIB = 1 << 20
SYNCED = ChannelState.SYNC
ODD = 4 * MIB + 3 * PAGE_SIZE  # RAM that ends inside a word of the bitmap


class Rig:
    """Makes what a test needs, and frees it in the right order at its end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def ram(self, size: int) -> Ram:
        ram = Ram(size)
        self._stack.callback(ram.close)
        return ram

    def filled(self, size: int, seed: int = 1) -> Ram:
        """Return RAM of random pages, zero pages that have memory, and holes, in runs."""
        ram, rng, page = self.ram(size), random.Random(seed), 0
        while page < ram.pages:
            count = min(rng.choice([1, 2, 3, 70, 200]), ram.pages - page)
            kind = rng.choice(["hole", "zero", "data", "data"])
            if kind != "hole":
                content = rng.randbytes(PAGE_SIZE) if kind == "data" else bytes(PAGE_SIZE)
                at = page * PAGE_SIZE
                ram.buffer[at : at + count * PAGE_SIZE] = content * count
            page += count
        return ram

    def sender(self, ram: Ram, fds: list[int]) -> Sender:
        sender = Sender(ram, fds)
        self._stack.callback(sender.close)
        return sender

    def receiver(self, ram: Ram, fds: list[int], *, start: bool = True) -> Receiver:
        receiver = Receiver(ram, fds)
        self._stack.callback(receiver.close)
        if start:
            for channel in range(len(fds)):
                receiver.start(channel)
        return receiver

    def sockets(self, count: int) -> tuple[list[int], list[int]]:
        pairs = [socket.socketpair() for _ in range(count)]
        for pair in pairs:
            for one in pair:
                self._stack.enter_context(one)
        return [one.fileno() for one, _ in pairs], [two.fileno() for _, two in pairs]

    def pipe(self) -> tuple[list[int], list[int]]:
        ends = os.pipe()
        for fd in ends:
            self._stack.callback(os.close, fd)
        return [ends[1]], [ends[0]]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack)


def wait(what: Sender | Receiver, condition: Callable[[], object]) -> None:
    """Wait until the condition holds, woken by the eventfd alone."""
    deadline = time.monotonic() + PATIENCE
    poll = select.poll()
    poll.register(what.fileno(), select.POLLIN)
    while not condition():
        assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000), "no notification"
        what.acknowledge()


def wait_ended(receiver: Receiver) -> None:
    wait(receiver, lambda: ChannelState.BUSY not in receiver.states())


def wait_passed(sender: Sender) -> None:
    wait(sender, lambda: not sender.busy)


def bitmap(ram: Ram, pages: set[int]) -> bytes:
    bits = sum(1 << page for page in pages)
    return bits.to_bytes((ram.pages + 63) // 64 * 8, "little")


def frame(kind: int, count: int = 0, a: int = 0, b: int = 0) -> bytes:
    return struct.pack("<IIQQ", kind, count, a, b)


def content(ram: Ram) -> bytes:
    """Return all of RAM; looking at it through the mapping would fill its holes."""
    return os.pread(ram.fd, ram.size, 0)


def held(ram: Ram) -> int:
    """Return the bytes of memory that the RAM really takes."""
    return os.fstat(ram.fd).st_blocks * 512


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_all_of_ram_arrives(rig: Rig, channels: int) -> None:
    source, target = rig.filled(16 * MIB + 5 * PAGE_SIZE), rig.ram(16 * MIB + 5 * PAGE_SIZE)
    ends = rig.sockets(channels)
    sender, receiver = rig.sender(source, ends[0]), rig.receiver(target, ends[1])
    sender.add_data()
    pending = sender.counters().pending
    assert pending == held(source) // PAGE_SIZE
    sender.begin_pass(sync=True)
    wait_passed(sender)
    wait_ended(receiver)
    assert receiver.states() == [SYNCED] * channels
    assert content(target) == content(source)
    sent, got = sender.counters(), receiver.counters()
    assert (sent.pending, sent.pages + sent.zero_pages) == (0, pending)
    assert (got.pages, got.zero_pages, got.bytes) == (sent.pages, sent.zero_pages, sent.bytes)
    assert held(target) == got.pages * PAGE_SIZE
