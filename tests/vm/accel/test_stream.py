"""vm/accel/stream.py: RAM through sockets, pipes and files, compared byte for byte."""

import contextlib
import itertools
import mmap
import os
import random
import resource
import select
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from operator import gt
from pathlib import Path

import pytest

from qmpserver.vm.accel.memory import PAGE_SIZE, Ram
from qmpserver.vm.accel.native._native import ffi
from qmpserver.vm.accel.stream import ChannelState, Receiver, Sender, SenderCounters
from tests.conftest import Until

PATIENCE = 20.0
MADV_POPULATE_READ = 22
PAGES, ZERO, SYNC, CONTROL = 1, 2, 3, 16
MIB = 1 << 20
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

    def sender(self, ram: Ram, fds: list[int], mapped: int | None = None) -> Sender:
        sender = Sender(ram, fds, mapped=mapped)
        self._stack.callback(sender.close)
        return sender

    def receiver(self, ram: Ram, fds: list[int], mapped: int | None = None) -> Receiver:
        """Return a receiver all of whose channels were started."""
        receiver = Receiver(ram, fds, mapped=mapped)
        self._stack.callback(receiver.close)
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


def writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


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


def move(sender: Sender, receiver: Receiver) -> None:
    """Send what is pending, with SYNC, and wait for its arrival."""
    sender.begin_pass(sync=True)
    wait_passed(sender)
    wait_ended(receiver)
    assert receiver.error() is None
    assert receiver.states() == [ChannelState.SYNC] * len(receiver.states())


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_all_of_ram_arrives(rig: Rig, channels: int) -> None:
    source, target = rig.filled(16 * MIB + 5 * PAGE_SIZE), rig.ram(16 * MIB + 5 * PAGE_SIZE)
    ends = rig.sockets(channels)
    sender, receiver = rig.sender(source, ends[0]), rig.receiver(target, ends[1])
    sender.add_data()
    pending = sender.counters().pending
    assert pending == held(source) // PAGE_SIZE
    move(sender, receiver)
    assert content(target) == content(source)
    sent, got = sender.counters(), receiver.counters()
    assert (sent.pending, sent.pages + sent.zero_pages) == (0, pending)
    assert (got.pages, got.zero_pages, got.bytes) == (sent.pages, sent.zero_pages, sent.bytes)
    assert held(target) == got.pages * PAGE_SIZE
    assert sender.states() == [ChannelState.IDLE] * channels


def test_through_a_pipe(rig: Rig) -> None:
    source, target = rig.filled(ODD), rig.ram(ODD)
    write, read = rig.pipe()
    sender, receiver = rig.sender(source, write), rig.receiver(target, read)
    sender.add_data()
    move(sender, receiver)
    assert content(target) == content(source)


def test_through_a_file(rig: Rig, tmp_path: Path) -> None:
    source, target = rig.filled(ODD), rig.ram(ODD)
    with (tmp_path / "stream").open("w+b", buffering=0) as file:
        sender = rig.sender(source, [file.fileno()])
        sender.add_data()
        sender.begin_pass(sync=True)
        wait_passed(sender)
        file.write(b"what follows")
        file.seek(0)
        receiver = rig.receiver(target, [file.fileno()])
        wait_ended(receiver)
        assert receiver.states() == [ChannelState.SYNC]
        assert file.read() == b"what follows"
    assert content(target) == content(source)


@pytest.mark.parametrize("channels", [1, 3])
def test_pages_that_change_during_passes(rig: Rig, channels: int) -> None:
    source, target = rig.filled(ODD), rig.ram(ODD)
    ends = rig.sockets(channels)
    sender, receiver = rig.sender(source, ends[0]), rig.receiver(target, ends[1])
    rng = random.Random(channels)
    sender.add_data()
    during = 0
    for _ in range(20):
        sender.begin_pass()
        for _ in range(20):
            pages = {rng.randrange(source.pages) for _ in range(20)}
            for page in pages:
                new = rng.choice([rng.randbytes(PAGE_SIZE), bytes(PAGE_SIZE)])
                source.buffer[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = new
            during += sender.busy
            sender.add(bitmap(source, pages))
        wait_passed(sender)
    assert during
    move(sender, receiver)
    assert content(target) == content(source)
    assert sender.counters().pending == 0


def test_a_page_that_is_added_again_counts_once(rig: Rig) -> None:
    source = rig.ram(ODD)
    sender = rig.sender(source, rig.sockets(1)[0])
    sender.add(bitmap(source, {0, 63, 64, source.pages - 1}))
    sender.add(bitmap(source, {63, 65}))
    assert sender.counters() == SenderCounters(5, 0, 5, 0, 0, 0)
    # Bits after the last page are no pages.
    sender.add(everything(source))
    assert sender.counters().pending == source.pages


@pytest.mark.parametrize("dirty_first", [False, True])
def test_cold_pages_go_first(rig: Rig, dirty_first: bool) -> None:
    source = rig.ram(ODD)
    source.buffer[:] = b"x" * source.size
    dirty = {0, 5, 70, source.pages - 1}
    (here,), (there,) = rig.sockets(1)
    sender = rig.sender(source, [here])
    if dirty_first:
        sender.add(bitmap(source, dirty))
    sender.add_data()
    sender.add(bitmap(source, dirty))
    assert sender.counters() == SenderCounters(source.pages, source.pages - 4, 4, 0, 0, 0)
    sender.begin_pass(sync=True)
    frames = [frame for frame in read_frames(there) if frame[0] == PAGES]
    assert [frame[1:3] for frame in frames[-4:]] == [(1, page) for page in sorted(dirty)]
    assert sum(count for _, count, *_ in frames[:-4]) == source.pages - 4
    wait_passed(sender)
    counters = sender.counters()
    assert (counters.pending, counters.cold, counters.waiting) == (0, 0, 0)
    sender.add(bitmap(source, {7}))  # was sent as a cold one, and is none any more
    assert sender.counters()[:3] == (1, 0, 1)


def test_pages_that_were_found_dirty_last_go_last(rig: Rig) -> None:
    source = rig.ram(ODD)
    source.buffer[:] = b"x" * source.size
    (here,), (there,) = rig.sockets(1)
    sender = rig.sender(source, [here])
    sender.add(bitmap(source, {0, 1, 2, 80}))
    sender.add(bitmap(source, {0, 9, 70}))
    assert sender.counters().pending == 6
    sender.begin_pass(sync=True)
    frames = [frame for frame in read_frames(there) if frame[0] == PAGES]
    assert [frame[1:3] for frame in frames] == [(2, 1), (1, 80), (1, 0), (1, 9), (1, 70)]


def test_a_pass_ends_before_hot_pages_if_more_are_found(rig: Rig, until: Until) -> None:
    source, target = rig.ram(16 * MIB), rig.ram(16 * MIB)
    source.buffer[:] = b"x" * source.size
    here, there = rig.sockets(1)
    sender = rig.sender(source, here)
    sender.add(everything(source))
    sender.begin_pass()
    until(lambda: not writable(here[0]))
    sender.add(bitmap(source, {5}))
    receiver = rig.receiver(target, there)
    wait_passed(sender)
    assert sender.counters().pending > source.pages // 2
    move(sender, receiver)
    assert sender.counters().pending == 0
    assert content(target) == content(source)


def test_a_bitmap_of_another_length_is_refused(rig: Rig) -> None:
    sender = rig.sender(rig.ram(ODD), rig.sockets(1)[0])
    with pytest.raises(ValueError, match="the bitmap has 128 bytes: RAM needs 136"):
        sender.add(bytes(128))


def read_frames(fd: int) -> list[tuple[int, int, int, int]]:
    """Return the headers up to SYNC."""
    frames: list[tuple[int, int, int, int]] = []
    with open(fd, "rb", closefd=False) as file:
        os.set_blocking(fd, True)
        while not frames or frames[-1][0] != SYNC:
            frames.append(struct.unpack("<IIQQ", file.read(24)))
            if frames[-1][0] == PAGES:
                assert len(file.read(frames[-1][1] * PAGE_SIZE)) == frames[-1][1] * PAGE_SIZE
    return frames


def everything(ram: Ram) -> bytes:
    return b"\xff" * len(bitmap(ram, set()))


def sent_frames(rig: Rig, ram: Ram, pages: bytes) -> list[tuple[int, int, int, int]]:
    (here,), (there,) = rig.sockets(1)
    sender = rig.sender(ram, [here])
    sender.add(pages)
    sender.begin_pass(sync=True)
    return read_frames(there)


def test_runs_of_pages(rig: Rig) -> None:
    """A run ends at a gap and at a page of the other kind; one of data at multiples of 64 too."""
    ram = rig.ram(ODD)
    for page in [*range(10, 15), *range(60, 70), 900]:
        ram.buffer[page * PAGE_SIZE + 4095] = 1
    pages = {*range(12, 17), *range(60, 300), 900, 901}
    assert sent_frames(rig, ram, bitmap(ram, pages)) == [
        (PAGES, 3, 12, 0),
        (ZERO, 2, 15, 0),
        (PAGES, 4, 60, 0),
        (PAGES, 6, 64, 0),
        (ZERO, 230, 70, 0),
        (PAGES, 1, 900, 0),
        (ZERO, 1, 901, 0),
        (SYNC, 0, 14, 233),
    ]


def test_each_byte_of_a_page_counts(rig: Rig) -> None:
    ram = rig.ram(4096 * PAGE_SIZE)
    for page in range(4096):
        ram.buffer[page * PAGE_SIZE + page] = 1
    assert sent_frames(rig, ram, everything(ram))[-1] == (SYNC, 0, 4096, 0)


def test_holes_are_sent_as_zero_and_stay_holes(rig: Rig) -> None:
    """Also when all pages are said to be dirty; a look at them would fill them."""
    ram = rig.ram(1024 * MIB)
    *zeros, sync = sent_frames(rig, ram, everything(ram))
    assert {kind for kind, *_ in zeros} == {ZERO}
    assert sum(count for _, count, *_ in zeros) == ram.pages
    assert sync == (SYNC, 0, 0, ram.pages)
    assert held(ram) == 0


def test_blocks_that_follow_each_other_are_far_apart(rig: Rig) -> None:
    ram = rig.ram(16 * MIB + PAGE_SIZE)
    ram.buffer[:] = b"x" * ram.size
    (here,), (there,) = rig.sockets(1)
    sender = rig.sender(ram, [here])
    sender.add(everything(ram))
    sender.begin_pass(sync=True)
    pages = [page for kind, _, page, _ in read_frames(there) if kind == PAGES]
    blocks = [block for block, _ in itertools.groupby(page // 512 for page in pages)]
    assert blocks == [0, 8, 4, 2, 6, 1, 5, 3, 7]


def present(address: int, pages: int) -> list[bool]:
    """Return which pages of this process are mapped."""
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(address // PAGE_SIZE * 8)
        return [bool(entry >> 63) for entry in struct.unpack(f"{pages}Q", file.read(pages * 8))]


def can_populate() -> bool:
    """Tell whether the system maps pages on request: qemu-user ignores requests."""
    with mmap.mmap(-1, PAGE_SIZE) as memory:
        with contextlib.suppress(OSError):  # before Linux 5.14
            memory.madvise(MADV_POPULATE_READ)
        return present(int(ffi.cast("uintptr_t", ffi.from_buffer(memory))), 1) == [True]


@pytest.mark.skipif(not can_populate(), reason="the system does not map pages on request")
def test_pages_that_arrive_are_mapped(rig: Rig) -> None:
    """So that the guest does not have to wait for a page fault at its first use of each."""
    source, target = rig.filled(ODD), rig.ram(ODD)
    ends = rig.sockets(2)
    sender, receiver = rig.sender(source, ends[0]), rig.receiver(target, ends[1])
    sender.add_data()
    move(sender, receiver)
    data = [any(page) for page in pages_of(content(source))]
    assert present(int(ffi.cast("uintptr_t", target.address)), target.pages) == data


def test_zero_pages_become_holes(rig: Rig) -> None:
    source, target = rig.filled(ODD), rig.filled(ODD, seed=2)
    ends = rig.sockets(2)
    sender, receiver = rig.sender(source, ends[0]), rig.receiver(target, ends[1])
    sender.add(everything(source))
    move(sender, receiver)
    assert content(target) == content(source)
    assert held(target) == sender.counters().pages * PAGE_SIZE
    # Pages that this receiver has filled itself.
    source.buffer[: ODD // 2] = bytes(ODD // 2)
    sender.add(everything(source))
    filled = held(target)
    for channel in range(2):
        receiver.start(channel)
    move(sender, receiver)
    assert content(target) == content(source)
    assert held(target) < filled


def test_a_pass_at_a_time(rig: Rig) -> None:
    ram, ends = rig.filled(ODD), rig.sockets(1)
    sender = rig.sender(ram, ends[0])
    sender.add_data()
    sender.begin_pass()
    assert sender.busy
    with pytest.raises(OSError, match="cannot begin a pass: Device or resource busy"):
        sender.begin_pass()
    receiver = rig.receiver(rig.ram(ODD), ends[1])
    wait_passed(sender)
    with pytest.raises(OSError, match="cannot receive RAM: Device or resource busy"):
        receiver.start(0)
    with pytest.raises(IndexError, match="there is no channel 1 of 1"):
        receiver.start(1)
    with pytest.raises(IndexError):
        receiver.control_bytes(-1)


def test_control_frames_are_the_caller_s(rig: Rig) -> None:
    """The descriptor is at the first byte of the payload, whatever came with it."""
    target, (write, read) = rig.ram(ODD), socket.socketpair()
    with write, read:
        receiver = rig.receiver(target, [read.fileno()])
        write.sendall(frame(ZERO, 5, 7) + frame(CONTROL, a=11) + b'{"type": 1}' + frame(SYNC, b=5))
        wait_ended(receiver)
        assert (receiver.states(), receiver.control_bytes(0)) == ([ChannelState.CONTROL], 11)
        assert read.recv(11) == b'{"type": 1}'
        receiver.start(0)
        wait_ended(receiver)
        assert receiver.states() == [ChannelState.SYNC]
        receiver.start(0)
        write.sendall(frame(PAGES, 1, 9) + bytes([7]) * PAGE_SIZE + frame(CONTROL) + b"rest")
        wait_ended(receiver)
        assert (receiver.states(), receiver.control_bytes(0)) == ([ChannelState.CONTROL], 0)
        assert read.recv(100) == b"rest"
        assert target.buffer[9 * PAGE_SIZE : 10 * PAGE_SIZE] == bytes([7]) * PAGE_SIZE


def test_frames_that_arrive_in_pieces(rig: Rig) -> None:
    target, (write, read) = rig.ram(ODD), socket.socketpair()
    stream = (
        frame(PAGES, 2, 62) + bytes(range(256)) * 32 + frame(ZERO, 1, 63) + frame(SYNC, 0, 2, 1)
    )
    with write, read:
        receiver = rig.receiver(target, [read.fileno()])
        poll = select.poll()
        poll.register(read, select.POLLIN)
        for at in range(0, len(stream), 7):
            write.sendall(stream[at : at + 7])
            while poll.poll(0) and receiver.states() == [ChannelState.BUSY]:
                os.sched_yield()
        wait_ended(receiver)
    assert receiver.error() is None
    assert receiver.states() == [ChannelState.SYNC]
    whole = bytes(62 * PAGE_SIZE) + bytes(range(256)) * 16
    assert content(target) == whole.ljust(ODD, b"\0")


RAM_PAGES = ODD // PAGE_SIZE
LARGEST = (1 << 64) - 1


@pytest.mark.parametrize(
    ("channels", "stream", "message"),
    [
        (1, frame(0), "a frame has the unknown type 0"),
        (1, b"HTTP/1.1 400 Bad Request\r\n", "a frame has the unknown type 1347703880"),
        (1, frame(PAGES, 0, 1), "a PAGES frame has no pages"),
        (1, frame(ZERO, 0, 1), "a ZERO frame has no pages"),
        (1, frame(PAGES, 65, 0), "a PAGES frame has 65 pages, but at most 64 are allowed"),
        (1, frame(PAGES, 1, 0, 9), "a PAGES frame has b = 9, which must be 0"),
        (1, frame(ZERO, 1, 0, 9), "a ZERO frame has b = 9, which must be 0"),
        (
            1,
            frame(PAGES, 2, RAM_PAGES - 1),
            "a PAGES frame has a = 1026 and count = 2, but RAM has 1027 pages",
        ),
        (
            1,
            frame(PAGES, 1, LARGEST),
            f"a PAGES frame has a = {LARGEST} and count = 1, but RAM has 1027 pages",
        ),
        (
            1,
            frame(ZERO, 1 << 31, LARGEST - 5),
            f"a ZERO frame has a = {LARGEST - 5} and count = 2147483648, but RAM has 1027 pages",
        ),
        (
            1,
            frame(ZERO, RAM_PAGES, 1),
            "a ZERO frame has a = 1 and count = 1027, but RAM has 1027 pages",
        ),
        (
            1,
            frame(PAGES, 2, 63),
            "a PAGES frame has a = 63 and count = 2, across a multiple of 64",
        ),
        (2, frame(PAGES, 1, 600), "page 600 is on channel 0, but travels on channel 1"),
        (3, frame(ZERO, 1, 1026), "page 1026 is on channel 0, but travels on channel 2"),
        (
            2,
            frame(ZERO, 513, 0),
            "a ZERO frame has a = 0 and count = 513, across a multiple of 512",
        ),
        (1, frame(SYNC, 1), "a SYNC frame has count = 1, which must be 0"),
        (
            1,
            frame(ZERO, 2, 0) + frame(SYNC, 0, 2, 0),
            "a SYNC frame counts 2 pages and 0 zero pages, but 0 and 2 have arrived",
        ),
        (1, frame(CONTROL, 1), "a CONTROL frame has count = 1, which must be 0"),
        (1, frame(CONTROL, 0, 5, 1), "a CONTROL frame has b = 1, which must be 0"),
        (
            1,
            frame(CONTROL, 0, 64 * MIB + 1),
            "a CONTROL frame has 67108865 bytes, but at most 67108864 are allowed",
        ),
        (1, frame(SYNC)[:23], "the stream ends after 23 of a header's 24 bytes"),
        (
            1,
            frame(PAGES, 2, 0) + bytes(5000),
            "the stream ends after 5000 of a PAGES frame's 8192 bytes",
        ),
    ],
)
def test_broken_streams(rig: Rig, channels: int, stream: bytes, message: str) -> None:
    target = rig.ram(ODD)
    write, read = rig.sockets(channels)
    receiver = rig.receiver(target, read)
    os.write(write[0], stream)
    with socket.socket(fileno=os.dup(write[0])) as end:
        end.shutdown(socket.SHUT_WR)
    wait(receiver, lambda: receiver.states()[0] == ChannelState.FAILED)
    assert receiver.error() == message
    assert receiver.states()[1:] == [ChannelState.BUSY] * (channels - 1)
    assert held(target) == 0
    with pytest.raises(BrokenPipeError, match="cannot receive RAM: Broken pipe"):
        receiver.start(0)
    receiver.stop()
    wait(receiver, lambda: ChannelState.BUSY not in receiver.states())
    assert receiver.states() == [ChannelState.FAILED] + [ChannelState.STOPPED] * (channels - 1)


def test_the_stream_ends_between_frames(rig: Rig) -> None:
    target, (write, read) = rig.ram(ODD), socket.socketpair()
    with write, read:
        receiver = rig.receiver(target, [read.fileno()])
        write.sendall(frame(ZERO, 1, 0))
        write.close()
        wait_ended(receiver)
        assert receiver.states() == [ChannelState.EOF]
        assert receiver.error() is None


def test_a_source_that_is_reset(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        write = socket.create_connection(server.getsockname())
        read, _ = server.accept()
    with read:
        receiver = rig.receiver(rig.ram(ODD), [read.fileno()])
        write.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        write.close()
        wait_ended(receiver)
        assert receiver.error() == "cannot receive RAM: Connection reset by peer"


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_a_destination_that_hangs_up(rig: Rig, kind: str) -> None:
    if kind == "socket":
        write, read = (one.detach() for one in socket.socketpair())
    else:
        read, write = os.pipe()
    try:
        sender = rig.sender(rig.filled(ODD), [write])
        sender.add_data()
        sender.begin_pass()
        poll = select.poll()
        poll.register(read, select.POLLIN)
        assert poll.poll(PATIENCE * 1000)
        os.close(read)
        wait(sender, lambda: sender.states() == [ChannelState.FAILED])
        assert sender.error() == "cannot send RAM: Broken pipe"
        assert sender.busy  # the pass was not done
        with pytest.raises(BrokenPipeError, match="cannot begin a pass: Broken pipe"):
            sender.begin_pass()
        sender.close()
    finally:
        os.close(write)


def test_no_memory_for_ram(rig: Rig) -> None:
    """A memory file that refuses a page is an error, not a crash."""
    target, (write, read) = rig.ram(ODD), socket.socketpair()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with write, read:
        receiver = rig.receiver(target, [read.fileno()])
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PAGE_SIZE, limits[1]))
        try:
            write.sendall(frame(PAGES, 1, 3) + bytes(PAGE_SIZE))
            wait_ended(receiver)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert receiver.error() == "cannot write to RAM at page 3: File too large"


@pytest.mark.parametrize("channels", [0, 1, 4])
def test_stop_does_not_wait_for_the_peer(rig: Rig, until: Until, channels: int) -> None:
    """Neither for one that does not read nor for one that does not write; 0 channels: a pipe."""
    source = rig.ram(16 * MIB)
    full, empty = [rig.sockets(channels) if channels else rig.pipe() for _ in range(2)]
    sender, receiver = rig.sender(source, full[0]), rig.receiver(rig.ram(ODD), empty[1])
    sender.add(everything(source))
    source.buffer[:] = b"x" * source.size
    sender.begin_pass()
    for fd in full[0]:
        until(lambda fd=fd: not writable(fd))
    sender.stop()
    with pytest.raises(BrokenPipeError):
        sender.begin_pass()
    receiver.stop()
    wait(sender, lambda: set(sender.states()) == {ChannelState.STOPPED})
    wait(receiver, lambda: set(receiver.states()) == {ChannelState.STOPPED})
    assert (sender.error(), receiver.error()) == (None, None)
    with pytest.raises(BrokenPipeError):
        receiver.start(0)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0, 1])
def test_waiting_takes_no_processor_time(rig: Rig, rate: int) -> None:
    """For the peer, for the rate, for a pass; also after a thread was woken for nothing."""
    source, ends = rig.filled(ODD), rig.sockets(2)
    sender, idle = rig.sender(source, ends[0]), rig.sender(source, rig.sockets(1)[0])
    rig.receiver(rig.ram(ODD), rig.sockets(2)[0])
    sender.add_data()
    sender.begin_pass()
    for one in (sender, idle):
        one.set_rate(rate)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05
    assert sender.busy


@pytest.mark.serial
@pytest.mark.parametrize("rate", [0, 1])
def test_stop_takes_less_than_a_few_milliseconds(rig: Rig, rate: int) -> None:
    """Also for threads that wait for the rate."""
    source = rig.filled(ODD)
    times = []
    for _ in range(20):
        write, read = rig.sockets(2)
        sender = rig.sender(source, write)
        sender.set_rate(rate)
        sender.add_data()
        sender.begin_pass()
        poll = select.poll()
        for fd in read:
            poll.register(fd, select.POLLIN)
        assert poll.poll(PATIENCE * 1000)
        start = time.monotonic()
        sender.stop()
        wait(sender, lambda: set(sender.states()) == {ChannelState.STOPPED})  # noqa: B023
        times.append(time.monotonic() - start)
    assert statistics.median(times) < 0.001
    assert max(times) < 0.02


def test_a_new_rate_reaches_a_thread_that_waits(rig: Rig) -> None:
    source, target = rig.filled(ODD), rig.ram(ODD)
    ends = rig.sockets(2)
    sender, receiver = rig.sender(source, ends[0]), rig.receiver(target, ends[1])
    sender.set_rate(1)  # the second frame would be sent in hours
    sender.add_data()
    sender.begin_pass(sync=True)
    poll = select.poll()
    poll.register(sender.fileno(), select.POLLIN)
    assert not poll.poll(50)
    sender.set_rate(0)
    wait_passed(sender)
    wait_ended(receiver)
    assert content(target) == content(source)


@pytest.mark.serial
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rate", [5_000_000, 134_217_728])
def test_the_rate_is_kept(rig: Rig, channels: int, rate: int) -> None:
    """Never exceeded; and reached, but for moments in which this machine had something better."""
    source = rig.ram(512 * MIB)
    source.buffer[:] = b"x" * source.size
    write, read = rig.sockets(channels)
    sender, receiver = rig.sender(source, write), rig.receiver(rig.ram(source.size), read)
    sender.set_rate(rate)
    sender.add_data()
    time.sleep(0.1)  # a sender that waits for its pass saves nothing up
    start = time.monotonic()
    sender.begin_pass()
    points = [(0.0, 0)]
    while points[-1][0] < 2.0:
        time.sleep(0.002)
        count = sender.counters().bytes
        points.append((time.monotonic() - start, count))
    assert receiver.error() is None
    slice_bytes = max(PAGE_SIZE * channels, rate / 500) + 100
    assert all(count <= rate * when + slice_bytes for when, count in points)
    windows = []
    for begin in range(8):
        inside = [point for point in points if begin / 4 <= point[0] < (begin + 1) / 4]
        (first, before), (last, after) = inside[0], inside[-1]
        windows.append((after - before) / (last - first))
    assert statistics.median(windows) == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_with_all_of_ram(rig: Rig, tmp_path: Path, channels: int) -> None:
    """Each page in its place, holes for zero pages, in the file and in the RAM that it fills."""
    source, target = rig.filled(ODD), rig.filled(ODD, seed=5)
    base = 2 * MIB
    with (tmp_path / "ram").open("w+b", buffering=0) as file:
        fds = [file.fileno()] * channels
        sender = rig.sender(source, fds, mapped=base)
        sender.add_data()
        sender.begin_pass(sync=True)
        wait_passed(sender)
        pages = {*range(100, 200), *range(510, 520)}
        for page in pages:
            new = bytes(PAGE_SIZE) if page % 3 else b"new!" * 1024
            source.buffer[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = new
        sender.add(bitmap(source, pages))
        sender.begin_pass(sync=True)
        wait_passed(sender)
        assert sender.counters().bytes == sender.counters().pages * PAGE_SIZE
        stat = os.fstat(file.fileno())
        assert stat.st_size == base + ODD
        assert os.pread(file.fileno(), ODD, base) == content(source)
        data = sum(any(page) for page in pages_of(content(source)))
        assert stat.st_blocks * 512 == pytest.approx(data * PAGE_SIZE, abs=64 * 1024)
        receiver = rig.receiver(target, fds, mapped=base)
        wait_ended(receiver)
        assert receiver.states() == [ChannelState.SYNC] * channels
        assert receiver.counters().pages == data
    assert content(target) == content(source)
    assert held(target) == data * PAGE_SIZE


def pages_of(ram: bytes) -> list[bytes]:
    return [ram[at : at + PAGE_SIZE] for at in range(0, len(ram), PAGE_SIZE)]


def test_a_file_without_holes(rig: Rig, tmp_path: Path) -> None:
    """Where the file system has none, or a copy lost them, RAM is as sparse nevertheless."""
    source, target = rig.filled(ODD), rig.ram(ODD)
    path = tmp_path / "ram"
    path.write_bytes(b"base" + bytes(PAGE_SIZE - 4) + content(source))
    with path.open("rb") as file:
        receiver = rig.receiver(target, [file.fileno()] * 2, mapped=PAGE_SIZE)
        wait_ended(receiver)
        assert receiver.error() is None
    assert content(target) == content(source)
    assert held(target) == receiver.counters().pages * PAGE_SIZE
    assert receiver.counters().zero_pages > 0


def test_a_file_that_is_too_short(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(b"x" * ODD)
    with path.open("rb") as file:
        receiver = rig.receiver(rig.ram(ODD), [file.fileno()], mapped=PAGE_SIZE)
        wait_ended(receiver)
        assert receiver.error() == f"the file has {ODD} bytes, but RAM ends at {ODD + PAGE_SIZE}"


def test_a_file_that_cannot_be_written(rig: Rig, tmp_path: Path) -> None:
    ram, path = rig.filled(ODD), tmp_path / "ram"
    path.write_bytes(bytes(ODD))
    with path.open("rb") as file:
        sender = rig.sender(ram, [file.fileno()], mapped=0)
        sender.add_data()
        sender.begin_pass()
        wait(sender, lambda: sender.states() == [ChannelState.FAILED])
        assert sender.error() in (
            "cannot save RAM: Bad file descriptor",
            "cannot free the file's pages: Bad file descriptor",
        )


def test_threads_have_qemu_s_names(rig: Rig) -> None:
    ram, ends = rig.ram(ODD), rig.sockets(12)
    rig.sender(ram, ends[0])
    rig.receiver(ram, ends[1])
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert {"mig/src/send_0\n", "mig/src/send_11\n", "mig/dst/recv_11\n"} <= set(names)


def test_nothing_is_left_behind(rig: Rig) -> None:
    source, target = rig.filled(ODD), rig.ram(ODD)

    def left() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    before = left()
    for turn in range(100):
        pairs = [socket.socketpair() for _ in range(3)]
        sender = Sender(source, [one.fileno() for one, _ in pairs])
        receiver = Receiver(target, [two.fileno() for _, two in pairs])
        sender.add_data()
        sender.begin_pass(sync=True)
        if turn % 2:
            receiver.start(turn % 3)
        sender.close()
        receiver.close()
        receiver.close()
        for pair in pairs:
            for one in pair:
                one.close()
    # There may be less: a thread of an earlier test may still have been ending.
    assert not any(map(gt, left(), before))
    with pytest.raises(OSError, match="Bad file descriptor"):
        Sender(source, [before[0] + 1000])
    with pytest.raises(OSError, match="Bad file descriptor"):
        Receiver(target, [before[0] + 1000])
    assert left() == before
