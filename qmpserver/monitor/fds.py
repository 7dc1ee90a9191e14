"""File descriptors that clients passed and that no command has used yet.

Named ones belong to a monitor, whoever is connected to it; sets of them, numbered, are
everybody's.  Whatever is here is closed when it is removed or replaced, at the latest by `close`.
"""

import os
from typing import NamedTuple

from qmpserver.qmp import QMPError

__all__ = ["FileDescriptors", "Member"]


class Member(NamedTuple):
    """A descriptor in a set, and what the client remembers it by."""

    fd: int
    opaque: str | None


class FileDescriptors:
    """Owns what it is given, also where it raises.  Use from the event loop's thread only."""

    def __init__(self) -> None:
        self._named: dict[tuple[str, str], int] = {}
        self._sets: dict[int, list[Member]] = {}

    @property
    def sets(self) -> dict[int, list[Member]]:
        """The sets by number, the highest first, each in the order it grew."""
        return dict(sorted(self._sets.items(), reverse=True))

    def keep(self, monitor: str, name: str, fd: int) -> None:
        """Keep *fd* for *monitor* under *name*, in place of what had that name.

        Raises:
            QMPError: a digit comes first, as in a descriptor's number.

        """
        if name[:1].isascii() and name[:1].isdigit():
            os.close(fd)
            raise QMPError("Parameter 'fdname' expects a name not starting with a digit")
        replaced = self._named.get((monitor, name))
        self._named[monitor, name] = fd
        if replaced is not None:
            os.close(replaced)

    def drop(self, monitor: str, name: str) -> None:
        """Close what *monitor* has under *name*.

        Raises:
            QMPError: there is no such thing.

        """
        fd = self._named.pop((monitor, name), None)
        if fd is None:
            raise _not_found(name)
        os.close(fd)

    def add(self, fd: int, number: int | None, opaque: str | None) -> int:
        """Add *fd* to set *number*, by default a new one, and return the set's number.

        Raises:
            QMPError: the number is negative.

        """
        if number is None:
            number = next(free for free in range(len(self._sets) + 1) if free not in self._sets)
        elif number < 0:
            os.close(fd)
            raise QMPError("Parameter 'fdset-id' expects a non-negative value")
        self._sets.setdefault(number, []).append(Member(fd, opaque))
        return number

    def remove(self, number: int, fd: int | None = None) -> None:
        """Close set *number*, or only *fd* in it.

        Raises:
            QMPError: there is no such set, or no such descriptor in it.

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

    def remove_sets(self) -> None:
        """Close all sets, as is due when the last client of all monitors has left."""
        for number in list(self._sets):
            self.remove(number)

    def close(self) -> None:
        """Close everything."""
        self.remove_sets()
        for monitor, name in list(self._named):
            self.drop(monitor, name)


def _not_found(name: str) -> QMPError:
    return QMPError(f"File descriptor named '{name}' not found")
