"""File descriptors that clients passed and that no command has used yet.

Named descriptors belong to a monitor, whichever client is connected to it; numbered sets
belong to all monitors.  A descriptor is closed when it is removed or replaced, at the latest
by `FileDescriptors.close`.  The commands are in `fd_commands`.
"""

import errno
import fcntl
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from qmpserver.qmp import CommandError

__all__ = [
    "LAST_STANDARD",
    "MAX_KEPT",
    "MAX_TEXT",
    "FileDescriptors",
    "Passed",
    "SetMember",
    "is_set",
    "take_inherited",
]

MAX_KEPT = 1024
"""Descriptors of all clients."""

MAX_TEXT = 1024
"""Letters of a descriptor's name, or of the note on it."""

LAST_STANDARD = 2
"""The last of the standard descriptors, which are no client's."""


class SetMember(NamedTuple):
    """A descriptor in a set, and the client's note on it."""

    fd: int
    opaque: str | None


class Passed(NamedTuple):
    """Descriptors that were passed to a program, as addresses name them.

    Attributes:
        take: Returns the one with a name, as `FileDescriptors.take` does.
        duplicate: Returns a duplicate of one in a set, as `FileDescriptors.duplicate` does.
    """

    take: Callable[[str], int]
    duplicate: Callable[[str, int], int]


class FileDescriptors:
    """The descriptors of one server.

    Every method that takes a descriptor owns it from then on, also if the method raises.
    Use from the event loop's thread only.
    """

    def __init__(self) -> None:
        self._named: dict[tuple[str, str], int] = {}
        self._sets: dict[int, list[SetMember]] = {}

    @property
    def sets(self) -> dict[int, list[SetMember]]:
        """The sets by number, the highest first; members in the order of addition."""
        return dict(sorted(self._sets.items(), reverse=True))

    def keep(self, monitor: str, name: str, fd: int) -> None:
        """Keep `fd` for `monitor` under `name`; close the descriptor that had this name.

        Raises:
            CommandError: The name starts with a digit, as a descriptor's number does; or it is too
                long, or too many descriptors are kept.
        """
        self._check_room(fd, name)
        if name[:1].isascii() and name[:1].isdigit():
            os.close(fd)
            raise CommandError("Parameter 'fdname' expects a name not starting with a digit")
        replaced = self._named.get((monitor, name))
        self._named[monitor, name] = fd
        if replaced is not None:
            os.close(replaced)

    def drop(self, monitor: str, name: str) -> None:
        """Close the descriptor that `monitor` has under `name`.

        Raises:
            CommandError: There is no such descriptor.
        """
        fd = self._named.pop((monitor, name), None)
        if fd is None:
            raise _not_found(name)
        os.close(fd)

    def take(self, monitor: str, name: str) -> int:
        """Return the descriptor that `monitor` has under `name`, which the caller owns then.

        Raises:
            CommandError: There is no such descriptor.
        """
        fd = self._named.pop((monitor, name), None)
        if fd is None:
            raise CommandError(f"File descriptor named '{name}' has not been found")
        return fd

    def take_named(self, name: str) -> int:
        """Return the descriptor that any monitor has under `name`, as `take` does."""
        monitor = next((monitor for monitor, one in self._named if one == name), "")
        return self.take(monitor, name)

    def add(self, fd: int, number: int | None, opaque: str | None) -> int:
        """Add `fd` to set `number`, by default to a new set, and return the set's number.

        Raises:
            CommandError: The number is negative; or the note is too long, or too many descriptors
                are kept.
        """
        self._check_room(fd, opaque or "")
        if number is None:
            number = next(free for free in range(len(self._sets) + 1) if free not in self._sets)
        elif number < 0:
            os.close(fd)
            raise CommandError("Parameter 'fdset-id' expects a non-negative value")
        self._sets.setdefault(number, []).append(SetMember(fd, opaque))
        return number

    def _check_room(self, fd: int, text: str) -> None:
        """Close `fd` and raise unless it can be kept with a name or note `text`."""
        if len(text) > MAX_TEXT:
            os.close(fd)
            raise CommandError(f"a descriptor's name or note has at most {MAX_TEXT} letters")
        if len(self._named) + sum(map(len, self._sets.values())) >= MAX_KEPT:
            os.close(fd)
            raise CommandError(f"no more than {MAX_KEPT} file descriptors are kept")

    def remove(self, number: int, fd: int | None = None) -> None:
        """Close set `number`, or only `fd` in it.

        Raises:
            CommandError: There is no such set, or no such descriptor in it.
        """
        members = self._sets.get(number, [])
        removed = [member for member in members if fd in (None, member.fd)]
        if not removed:
            raise _not_found(f"fdset-id:{number}" + ("" if fd is None else f", fd:{fd}"))
        for member in removed:
            members.remove(member)
            os.close(member.fd)
        if not members:
            del self._sets[number]

    def duplicate(self, path: str, flags: int) -> int:
        """Return a duplicate of a member of the set that `/dev/fdset/N` names.

        It is the first member that was opened for what `flags`, those of `os.open`, ask for.

        Raises:
            OSError: There is no such set, or no such member in it; the text is QEMU's.
        """
        found = _SET.fullmatch(path)
        if found is None:
            raise OSError(errno.EINVAL, f"Could not parse fdset {path}")
        members = self._sets.get(int(found[1]))
        if members is None:
            raise OSError(errno.ENOENT, f"Failed to find fdset {path}")
        for member in members:
            opened = fcntl.fcntl(member.fd, fcntl.F_GETFL)
            if opened & os.O_ACCMODE == flags & os.O_ACCMODE:
                return os.dup(member.fd)
        words = f"Failed to find file descriptor with matching flags={flags:#x}"
        raise OSError(errno.EACCES, words)

    def remove_sets(self) -> None:
        """Close all sets; in QEMU 7.2, this happens when the last client of all monitors leaves."""
        for number in list(self._sets):
            self.remove(number)

    def close(self) -> None:
        """Close all descriptors."""
        self.remove_sets()
        for monitor, name in list(self._named):
            self.drop(monitor, name)


def take_inherited(number: str) -> int:
    """Return the descriptor with a number, if this process has inherited it; no child will.

    What the program opens by itself is closed on exec, so no client gets hold of that.

    Raises:
        CommandError: It is none of those.
    """
    try:
        fd = int(number)
        if fd > LAST_STANDARD and os.get_inheritable(fd):
            os.set_inheritable(fd, False)
            return fd
    except (OSError, OverflowError):
        pass
    raise CommandError(f"File descriptor named '{number}' has not been found")


def is_set(path: str) -> bool:
    """Return whether the path of a file names a set of descriptors."""
    return path.startswith(_SETS)


_SETS = "/dev/fdset/"
_SET = re.compile(re.escape(_SETS) + "([0-9]{1,19})")


def _not_found(name: str) -> CommandError:
    return CommandError(f"File descriptor named '{name}' not found")
