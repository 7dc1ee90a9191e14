"""Handlers of the commands that pass file descriptors; they are the same for every machine.

They are bound where the other commands of their machine are, each with `client=True`.
"""

from collections.abc import Callable
from typing import Any

from qmpserver.monitor.client import Client
from qmpserver.monitor.fds import SetMember

__all__ = ["HANDLERS", "add_fd", "closefd", "getfd", "query_fdsets", "remove_fd"]


def getfd(client: Client, fdname: str) -> None:
    """Keep the descriptor that came with the command under a name."""
    client.server.fds.keep(client.monitor, fdname, client.take_fd())


def closefd(client: Client, fdname: str) -> None:
    """Close a named descriptor."""
    client.server.fds.drop(client.monitor, fdname)


def add_fd(
    client: Client, fdset_id: int | None = None, opaque: str | None = None
) -> dict[str, int]:
    """Add the descriptor that came with the command to a set."""
    fd = client.take_fd()
    return {"fdset-id": client.server.fds.add(fd, fdset_id, opaque), "fd": fd}


def remove_fd(client: Client, fdset_id: int, fd: int | None = None) -> None:
    """Close a set, or one descriptor in it."""
    client.server.fds.remove(fdset_id, fd)


def query_fdsets(client: Client) -> list[dict[str, Any]]:
    """Return all sets."""
    return [
        {"fdset-id": number, "fds": [_member_info(member) for member in members]}
        for number, members in client.server.fds.sets.items()
    ]


HANDLERS: dict[str, Callable[..., Any]] = {
    "getfd": getfd,
    "closefd": closefd,
    "add-fd": add_fd,
    "remove-fd": remove_fd,
    "query-fdsets": query_fdsets,
}


def _member_info(member: SetMember) -> dict[str, Any]:
    if member.opaque is None:
        return {"fd": member.fd}
    return {"fd": member.fd, "opaque": member.opaque}
