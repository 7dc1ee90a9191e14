"""Files, named pipes and the null device: descriptors that make one channel."""

import asyncio
import os
from collections.abc import Callable

from qmpserver.monitor.channel import Channel
from qmpserver.monitor.device import Device
from qmpserver.monitor.fds import FileDescriptors, is_set
from qmpserver.monitor.sockets import DeviceError

__all__ = ["Descriptors", "open_file", "open_pipe"]


class Descriptors(Device):
    """Descriptors that are open from the start; the device owns them.

    Args:
        loop: The event loop.
        name: The device's name.
        kind: Its kind, for `query-chardev`.
        source: The descriptor to read from, -1 for none.
        sink: The descriptor to write to, -1 for none; may be the same.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, kind: str, source: int, sink: int
    ) -> None:
        super().__init__(loop, name, kind)
        self._source = source
        self._sink = sink
        self._channel: Channel | None = None
        self._closed = False
        self._connected.set()

    def stop(self) -> None:
        """Leave the descriptors to the client."""

    def close(self) -> None:
        """Close the descriptors."""
        if self._closed:
            return
        self._closed = True
        if self._channel is not None:
            self._channel.close()
        else:
            for fd in {self._source, self._sink} - {-1}:
                os.close(fd)

    def _start(self) -> None:
        for fd in {self._source, self._sink} - {-1}:
            os.set_blocking(fd, False)
        self._channel = Channel(self._loop, self._source, self._sink)
        self._hand_out(self._channel)


def open_file(path: str, append: bool, fds: FileDescriptors) -> int:
    """Return a descriptor to write to `path`, which may be a set of `fds`.

    It blocks while `path` is a FIFO without a reader.

    Raises:
        DeviceError: The file cannot be opened.
    """
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    return _open(path, flags, fds.duplicate if is_set(path) else _open_path)


def open_pipe(path: str) -> tuple[int, int]:
    """Return the descriptors to read from and to write to: `path.in`, `path.out`, or both `path`.

    Raises:
        DeviceError: They cannot be opened.
    """
    try:
        source = _open(f"{path}.in", os.O_RDWR)
    except DeviceError:
        return (both := _open(path, os.O_RDWR)), both
    try:
        return source, _open(f"{path}.out", os.O_RDWR)
    except DeviceError:
        os.close(source)
        return (both := _open(path, os.O_RDWR)), both


def _open_path(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, 0o666)


def _open(path: str, flags: int, opening: Callable[[str, int], int] = _open_path) -> int:
    try:
        return opening(path, flags)
    except OSError as error:
        raise DeviceError(f"Could not open '{path}': {os.strerror(error.errno or 0)}") from error
