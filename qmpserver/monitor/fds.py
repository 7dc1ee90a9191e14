"""File descriptors that clients passed and that no command has used yet.

Named ones belong to a monitor, whoever is connected to it; sets of them, numbered, are
everybody's.  Whatever is here is closed when it is removed or replaced, at the latest by `close`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor.registry import Registry
    from qmpserver.monitor.server import Client

__all__ = ["FileDescriptors", "SetMember", "register"]


class SetMember(NamedTuple):
    """A descriptor in a set, and what the client remembers it by."""

    fd: int
    opaque: str | None


class FileDescriptors:
    """Owns what it is given, also where it raises.  Use from the event loop's thread only."""

    def __init__(self) -> None:
        self._named: dict[tuple[str, str], int] = {}
        self._sets: dict[int, list[SetMember]] = {}

    @property
    def sets(self) -> dict[int, list[SetMember]]:
        """The sets by number, the highest first, each in the order it grew."""
        return dict(sorted(self._sets.items(), reverse=True))

    def keep(self, monitor: str, name: str, fd: int) -> None:
        """Keep *fd* for *monitor* under *name*, in place of what had that name.

        Raises:
            CommandError: a digit comes first, as in a descriptor's number.

        """
        if name[:1].isascii() and name[:1].isdigit():
            os.close(fd)
            raise CommandError("Parameter 'fdname' expects a name not starting with a digit")
        replaced = self._named.get((monitor, name))
        self._named[monitor, name] = fd
        if replaced is not None:
            os.close(replaced)

    def drop(self, monitor: str, name: str) -> None:
        """Close what *monitor* has under *name*.

        Raises:
            CommandError: there is no such thing.

        """
        fd = self._named.pop((monitor, name), None)
        if fd is None:
            raise _not_found(name)
        os.close(fd)

    def add(self, fd: int, number: int | None, opaque: str | None) -> int:
        """Add *fd* to set *number*, by default a new one, and return the set's number.

        Raises:
            CommandError: the number is negative.

        """
        if number is None:
            number = next(free for free in range(len(self._sets) + 1) if free not in self._sets)
        elif number < 0:
            os.close(fd)
            raise CommandError("Parameter 'fdset-id' expects a non-negative value")
        self._sets.setdefault(number, []).append(SetMember(fd, opaque))
        return number

    def remove(self, number: int, fd: int | None = None) -> None:
        """Close set *number*, or only *fd* in it.

        Raises:
            CommandError: there is no such set, or no such descriptor in it.

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


def register(registry: Registry) -> None:
    """Bind the commands that pass descriptors: they are the same for whatever is controlled."""

    @registry.command("getfd", client=True)
    def getfd(client: Client, fdname: str) -> None:
        client.server.fds.keep(client.monitor, fdname, client.take_fd())

    @registry.command("closefd", client=True)
    def closefd(client: Client, fdname: str) -> None:
        client.server.fds.drop(client.monitor, fdname)

    @registry.command("add-fd", client=True)
    def add_fd(
        client: Client, fdset_id: int | None = None, opaque: str | None = None
    ) -> dict[str, int]:
        fd = client.take_fd()
        return {"fdset-id": client.server.fds.add(fd, fdset_id, opaque), "fd": fd}

    @registry.command("remove-fd", client=True)
    def remove_fd(client: Client, fdset_id: int, fd: int | None = None) -> None:
        client.server.fds.remove(fdset_id, fd)

    @registry.command("query-fdsets", client=True)
    def query_fdsets(client: Client) -> list[dict[str, Any]]:
        return [
            {"fdset-id": number, "fds": [_shown(member) for member in members]}
            for number, members in client.server.fds.sets.items()
        ]


def _shown(member: SetMember) -> dict[str, Any]:
    if member.opaque is None:
        return {"fd": member.fd}
    return {"fd": member.fd, "opaque": member.opaque}


def _not_found(name: str) -> CommandError:
    return CommandError(f"File descriptor named '{name}' not found")
