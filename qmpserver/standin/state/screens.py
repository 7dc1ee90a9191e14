"""Screens, and pictures of them: they are black."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import struct
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

from qmpserver.monitor.background import call_in_thread
from qmpserver.monitor.fds import is_set
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

WIDTH, HEIGHT = 640, 480
"""Pixels of a screen that no guest has set up."""

_DISPLAYS = re.compile(r"vga|gpu|display|ramfb|qxl|sm501", re.IGNORECASE)  # in names of types
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("screendump")
    async def screendump(
        filename: str,
        device: str | None = None,
        head: int | None = None,
        format: str = "ppm",  # noqa: A002 -- the schema's name
    ) -> None:
        _check(state, device, head)
        picture = _png() if format == "png" else _ppm()
        try:
            if is_set(filename):
                fd = state.host.fds.duplicate(filename, _FLAGS)
            else:  # a pipe waits for its reader
                opening = partial(os.open, filename, _FLAGS, 0o666)
                fd = await call_in_thread("screendump", opening, os.close)
        except ValueError:  # a zero byte in the name
            raise _refused(state, filename, OSError(errno.ENOENT, "")) from None
        except OSError as error:
            raise _refused(state, filename, error) from None
        try:
            await call_in_thread("screendump", partial(_write, fd, picture), lambda _: None)
        except OSError as error:
            _remove(filename)
            verb = (
                "PNG creation failed. Unable to close" if format == "png" else "Unable to write to"
            )
            raise CommandError(f"{verb} file: {error.strerror}") from None


def _refused(state: State, filename: str, error: OSError) -> CommandError:
    """Return the refusal of a file that cannot be opened."""
    why = os.strerror(error.errno or 0)
    if state.release.opens_pictures:
        return CommandError(f"failed to open file '{filename}': {why}")
    if is_set(filename):
        return CommandError(error.strerror or why)
    return CommandError(f"Could not create '{filename}': {why}")


def _check(state: State, device: str | None, head: int | None) -> None:
    """Check that there is a screen: that of a device, or any.

    Raises:
        CommandError: There is none, or the head is of no device.
    """
    if device is None:
        if head is not None:
            raise CommandError("'head' must be specified together with 'device'")
        if not any(map(_heads, state.devices.values())):
            raise CommandError("There is no console to take a screendump from")
        return
    one = state.devices.get(device)
    if one is None or not one["named"]:
        raise CommandError(f"Device '{device}' not found", "DeviceNotFound")
    if not 0 <= (head or 0) < _heads(one):
        raise CommandError(f"Device {device} (head {head or 0}) is not bound to a QemuConsole")


def _heads(device: dict[str, Any]) -> int:
    """Return the number of screens that a device has."""
    if not _DISPLAYS.search(device["driver"]):
        return 0
    heads = device.get("max_outputs", 1)
    return heads if isinstance(heads, int) else 1


def _write(fd: int, picture: bytes) -> None:
    """Write a picture, and close the file.

    Raises:
        OSError: It cannot be written.
    """
    with open(fd, "wb", buffering=0) as file:
        left = memoryview(picture)
        while left:
            left = left[file.write(left) :]


def _remove(path: str) -> None:
    """Remove a picture that is not complete; a device or a pipe stays."""
    with contextlib.suppress(OSError):
        if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFLNK):
            os.unlink(path)


def _ppm() -> bytes:
    return b"P6\n%d %d\n255\n" % (WIDTH, HEIGHT) + bytes(3 * WIDTH * HEIGHT)


def _png() -> bytes:
    header = struct.pack(
        ">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0
    )  # 8 bits each of red, green, blue
    rows = zlib.compress(bytes((1 + 3 * WIDTH) * HEIGHT))  # each begins with the filter: none
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
