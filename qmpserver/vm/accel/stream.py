"""Python's side of the native threads that move RAM between descriptors and memory.

Here is the binding of `native/stream/`: what a pass contains, when one begins and what a control
frame says is decided by the callers. An event loop watches `fileno()`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.vm.accel.native._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.vm.accel.engine import Engine
    from qmpserver.vm.accel.memory import Ram


class ChannelState(IntEnum):
    """The state of a channel's thread; the last two are for good."""

    IDLE = lib.CHANNEL_IDLE
    BUSY = lib.CHANNEL_BUSY
    SYNC = lib.CHANNEL_SYNC
    CONTROL = lib.CHANNEL_CONTROL
    EOF = lib.CHANNEL_EOF
    FAILED = lib.CHANNEL_FAILED
    STOPPED = lib.CHANNEL_STOPPED


class SenderCounters(NamedTuple):
    """Counters of a sender, of all channels together.

    Attributes:
        pending: Pages that are to be sent, with those that are being sent.
        cold: Those of them that were never told to be dirty, and that no thread has begun to send.
        waiting: Those that were, and that no thread has begun to send.
        pages: Pages sent with their content.
        zero_pages: Pages sent as zero, without content.
        bytes: Bytes written to the descriptors, headers included.
    """

    pending: int
    cold: int
    waiting: int
    pages: int
    zero_pages: int
    bytes: int


class ReceiverCounters(NamedTuple):
    """Counters of a receiver, of all channels together.

    Attributes:
        pages: Pages received with their content.
        zero_pages: Pages received as zero, without content.
        bytes: Bytes read from the descriptors, headers included.
    """

    pages: int
    zero_pages: int
    bytes: int


class Sender:
    """Threads that send pages of RAM, one for each channel.

    They are idle until a pass is begun. A pass sends each page that was added before, and hot ones
    last; if more are found during the pass, it ends before those.
    """

    def __init__(
        self,
        ram: Ram,
        fds: Sequence[int],
        *,
        engine: Engine | None = None,
        mapped: int | None = None,
    ) -> None:
        """Create a sender that writes to `fds`: sockets, pipes or files, which stay the caller's.

        Sockets and pipes are made non-blocking. An `engine` that defers protection is told of each
        page before it is sent; it must outlive the sender.

        With an offset `mapped`, which is a multiple of the page size, no frames are written: `fds`
        are of one file (or are one descriptor, repeated), and each page has its place there: that
        many bytes after its offset in RAM. Pages that become zero become holes; the caller has
        emptied the file, which is made as large as RAM needs. The file's position moves.

        Raises:
            OSError: Memory, a thread or a file descriptor is not available.
        """
        self._ram = ram  # keeps the mapping alive, which the threads use
        self._channels = len(fds)
        _unblock(fds)
        self._ptr = lib.sender_new(
            ffi.NULL if engine is None else engine.pointer,
            ram.address,
            ram.pages,
            ram.fd,
            list(fds),
            len(fds),
            _base(mapped),
        )
        if not self._ptr:
            raise OSError(ffi.errno, f"cannot send RAM: {os.strerror(ffi.errno)}")

    def close(self) -> None:
        """End all threads and free the sender. Blocks for about a millisecond.

        No other thread may be in a method of the sender.
        """
        ptr, self._ptr = self._ptr, None  # a later call fails instead of using freed memory
        if ptr:
            lib.sender_free(ptr)

    def fileno(self) -> int:
        """Return an eventfd, readable when a pass is done and when a channel failed or stopped."""
        return int(lib.sender_notify_fd(self._ptr))

    def acknowledge(self) -> None:
        """Make the eventfd unreadable; look at `busy` and `states()` afterwards."""
        _acknowledge(self.fileno())

    def add(self, bitmap: bytes | bytearray) -> None:
        """Add dirty pages to send: one bit a page, lowest first, as `Engine.take_bitmap` has them.

        Any thread, also during a pass. Never blocks.

        Raises:
            ValueError: The bitmap has not the length that RAM's has.
        """
        length = (self._ram.pages + 63) // 64 * 8
        if len(bitmap) != length:
            raise ValueError(f"the bitmap has {len(bitmap)} bytes: RAM needs {length}")
        lib.sender_add(self._ptr, ffi.from_buffer("uint64_t[]", bitmap))

    def add_data(self) -> None:
        """Add all pages that have data; the others are zero, and holes in the memory file.

        Blocks for tens of milliseconds for each GiB of data, without the GIL. Any thread.

        Raises:
            OSError: The memory file cannot be searched.
        """
        if lib.sender_add_data(self._ptr) < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno))

    def begin_pass(self, *, sync: bool = False) -> None:
        """Have all threads send the pages that were added; return at once.

        With `sync` each channel ends with a SYNC frame, which tells the receiver that no page
        follows. `fileno()` becomes readable when the pass is done.

        Raises:
            OSError: A pass is under way, or a channel has failed or stopped.
        """
        if lib.sender_begin_pass(self._ptr, sync) < 0:
            raise OSError(ffi.errno, f"cannot begin a pass: {os.strerror(ffi.errno)}")

    @property
    def busy(self) -> bool:
        """Whether a pass is under way; it never ends if a channel fails."""
        return bool(self._read().busy)

    def guest_stopped(self) -> None:
        """Note that the guest stands still from now on: no page needs protection any more."""
        lib.sender_guest_stopped(self._ptr)

    def set_rate(self, bytes_per_second: int) -> None:
        """Limit the rate of all channels together; 0 is no limit.

        In effect at once, also on threads that wait for the former limit. Any thread.
        """
        lib.sender_set_rate(self._ptr, bytes_per_second)

    def stop(self) -> None:
        """Have all threads end within a millisecond, for good; return at once. Any thread."""
        lib.sender_stop(self._ptr)

    def counters(self) -> SenderCounters:
        """Return the counters of now. Any thread."""
        counters = self._read()
        return SenderCounters(
            counters.pending,
            counters.cold,
            counters.waiting,
            counters.pages,
            counters.zero_pages,
            counters.bytes,
        )

    def states(self) -> list[ChannelState]:
        """Return the state of each channel: idle, busy, failed or stopped."""
        return [ChannelState(lib.sender_state(self._ptr, i)) for i in range(self._channels)]

    def error(self) -> str | None:
        """Return the error of the first channel that has failed, if any."""
        for i, state in enumerate(self.states()):
            if state == ChannelState.FAILED:
                return str(ffi.string(lib.sender_error(self._ptr, i)), "utf-8", "replace")
        return None

    def _read(self) -> Any:
        counters = ffi.new("struct sender_counters *")
        lib.sender_read_counters(self._ptr, counters)
        return counters


class Receiver:
    """Threads that receive pages into RAM, one for each channel.

    Pages that are never sent keep their content.
    """

    def __init__(self, ram: Ram, fds: Sequence[int], *, mapped: int | None = None) -> None:
        """Create a receiver that reads `fds`: sockets, pipes or files, which stay the caller's.

        Sockets and pipes are made non-blocking. Blocks for tens of milliseconds for each GiB of
        data that RAM has already.

        With an offset `mapped`, `fds` are of one file (or are one descriptor, repeated) that a
        sender with the same offset has written. Each channel loads a part of RAM and ends in state
        SYNC; pages that are holes in the file are holes in RAM. The file's position moves.

        Raises:
            OSError: Memory, a thread or a file descriptor is not available.
        """
        self._ram = ram  # keeps the mapping alive, which the threads use
        self._channels = len(fds)
        _unblock(fds)
        self._ptr = lib.receiver_new(
            ram.address, ram.pages, ram.fd, list(fds), len(fds), _base(mapped)
        )
        if not self._ptr:
            raise OSError(ffi.errno, f"cannot receive RAM: {os.strerror(ffi.errno)}")

    def close(self) -> None:
        """End all threads and free the receiver. Blocks for about a millisecond.

        No other thread may be in a method of the receiver.
        """
        ptr, self._ptr = self._ptr, None  # a later call fails instead of using freed memory
        if ptr:
            lib.receiver_free(ptr)

    def fileno(self) -> int:
        """Return an eventfd, readable when a channel has ended; `states()` says how."""
        return int(lib.receiver_notify_fd(self._ptr))

    def acknowledge(self) -> None:
        """Make the eventfd unreadable; look at `states()` afterwards."""
        _acknowledge(self.fileno())

    def start(self, channel: int) -> None:
        """Have a channel receive until SYNC, CONTROL, the end of the stream, or an error.

        After CONTROL the descriptor is at the first of the payload's `control_bytes(channel)`
        bytes, which the caller reads before it starts the channel again. Returns at once.

        Raises:
            IndexError: There is no such channel.
            OSError: The channel receives already, or has failed or stopped.
        """
        self._check(channel)
        if lib.receiver_start(self._ptr, channel) < 0:
            raise OSError(ffi.errno, f"cannot receive RAM: {os.strerror(ffi.errno)}")

    def stop(self) -> None:
        """Have all threads end within a millisecond, for good; return at once. Any thread."""
        lib.receiver_stop(self._ptr)

    def counters(self) -> ReceiverCounters:
        """Return the counters of now. Any thread."""
        counters = ffi.new("struct receiver_counters *")
        lib.receiver_read_counters(self._ptr, counters)
        return ReceiverCounters(counters.pages, counters.zero_pages, counters.bytes)

    def states(self) -> list[ChannelState]:
        """Return the state of each channel."""
        return [ChannelState(lib.receiver_state(self._ptr, i)) for i in range(self._channels)]

    def control_bytes(self, channel: int) -> int:
        """Return the length of the payload that follows, in state CONTROL.

        Raises:
            IndexError: There is no such channel.
        """
        self._check(channel)
        return int(lib.receiver_control_bytes(self._ptr, channel))

    def error(self) -> str | None:
        """Return the error of the first channel that has failed, if any."""
        for i, state in enumerate(self.states()):
            if state == ChannelState.FAILED:
                return str(ffi.string(lib.receiver_error(self._ptr, i)), "utf-8", "replace")
        return None

    def _check(self, channel: int) -> None:
        if not 0 <= channel < self._channels:
            raise IndexError(f"there is no channel {channel} of {self._channels}")


def _base(mapped: int | None) -> int:
    return -1 if mapped is None else mapped


def _unblock(fds: Sequence[int]) -> None:
    for fd in fds:
        os.set_blocking(fd, False)


def _acknowledge(fd: int) -> None:
    with suppress(BlockingIOError):
        os.eventfd_read(fd)
