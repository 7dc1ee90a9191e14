"""Files of images: their sizes, which are all that a stand-in reads of them."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.monitor.background import call_in_thread
from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import qcow2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from qmpserver.standin.state import State

FILES = ("file", "host_device", "host_cdrom")
"""The drivers whose images are files of the host."""

_MAX_RULES = 1 << 20
SECTOR = 512


class Image(NamedTuple):
    """A file.

    Attributes:
        size: Its bytes, in whole sectors; None for a file that has no size, and for one that is
            not there.
        format: `qcow2` or `raw`; None for a file that cannot be read.
        disk_size: The bytes of the disk that is in it.
        backing: The name of the backing file that a qcow2 image has in its header, or "".
        backing_format: The format of that file there, or "".
        error: Why it cannot be opened.
    """

    size: int | None = None
    format: str | None = None
    disk_size: int | None = None
    backing: str = ""
    backing_format: str = ""
    error: str | None = None


Images = dict[str, Image]


def names(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the files in the options of a node."""
    filename = options.get("filename")
    if options.get("driver") in FILES and isinstance(filename, str):
        yield filename
    for one in options.values():
        if isinstance(one, dict):
            yield from names(one)


def read(files: Iterable[str]) -> Images:
    """Read what is to be known of some files."""
    return {name: _read(name) for name in files}


async def look(files: Iterable[str]) -> Images:
    """Read what is to be known of some files, in a thread: a file system can be slow."""
    listed = list(files)
    if not listed:
        return {}
    return await call_in_thread("read-images", partial(read, listed), lambda _: None)


def check(state: State, images: Images) -> None:
    """Check that files can be opened, if the scenario wants them to exist.

    Raises:
        CommandError: One cannot.
    """
    for image in images.values():
        if image.error is not None and state.machine.images:
            raise CommandError(image.error)


async def read_rules(path: str) -> None:
    """Wait for the writer of a file of rules if it is a pipe; nothing here acts on the rules.

    Raises:
        CommandError: It cannot be opened.
    """
    try:
        await call_in_thread("read-rules", partial(_read_rules, path), lambda _: None)
    except OSError as error:
        raise CommandError(f"Could not open '{path}': {error.strerror}") from None


def _read_rules(path: str) -> None:
    with open(path, "rb") as file:
        file.read(_MAX_RULES)


def _read(name: str) -> Image:
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            return Image(error=f"'file' driver requires '{name}' to be a regular file")
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            return Image()  # to open another file, such as a pipe or a tape, can have an effect
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a zero byte in the name
        return Image(error=f"Could not open '{name}': No such file or directory")
    except OSError as error:
        return Image(error=f"Could not open '{name}': {error.strerror}")
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        header = qcow2.read(fd)
    except OSError as error:
        return Image(error=f"Could not read '{name}': {error.strerror}")
    finally:
        os.close(fd)
    size = -(-size // SECTOR) * SECTOR
    if header is None:
        return Image(size, "raw", size)
    return Image(size, "qcow2", header.size, header.backing, header.backing_format)
