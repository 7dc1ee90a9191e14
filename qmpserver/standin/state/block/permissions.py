"""Permissions: what the users of a block node need of it, and what they leave to other users.

A node's users are drives of devices, exports, mirrors that write to it, and the nodes above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block.graph import FORMATS, children_of
from qmpserver.standin.state.block.paths import qdev

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qmpserver.standin.state import State

_READ, _WRITE, _UNCHANGED, _RESIZE = "consistent read", "write", "write unchanged", "resize"
_ALL = (_READ, _WRITE, _UNCHANGED, _RESIZE)  # in the order in which QEMU names them
_UNNAMED = "an unnamed block device"


class _User(NamedTuple):
    """A user of a node.

    Attributes:
        birth: A number that is greater than that of each older user.
        name: What QEMU calls it.
        child: What the node is to it.
        needs: The permissions that it needs.
        leaves: The permissions that others may have.
    """

    birth: int
    name: str
    child: str
    needs: frozenset[str]
    leaves: frozenset[str]


def check(state: State, node: str) -> None:
    """Check that the users of a node, and of the nodes below it, can use it together.

    Raises:
        CommandError: One needs what another one does not leave to it, or writes to a node that is
            read-only.
    """
    graph = _Graph(state)
    left, checked = [node], set[str]()
    while left:
        one = left.pop()
        if one not in checked:
            checked.add(one)
            _check(one, graph.users(one))
            left += children_of(state, one).values()
            if state.nodes[one].get("read-only") and _WRITE in _needs(graph.users(one)):
                raise CommandError(f"Read-only block node '{one}' cannot support read-write users")


def _check(node: str, users: Sequence[_User]) -> None:
    needs = _needs(users)
    for one in users:
        if needs <= one.leaves:
            continue
        for other in users:
            taken = [name for name in _ALL if name in other.needs and name not in one.leaves]
            if taken and other is not one:
                needing, leaving = (
                    f"{user.name} (uses node '{node}' as '{user.child}' child)"
                    for user in (other, one)
                )
                raise CommandError(
                    f"Permission conflict on node '{node}': permissions '{', '.join(taken)}' are"
                    f" both required by {needing} and unshared by {leaving}."
                )


def _needs(users: Iterable[_User]) -> frozenset[str]:
    return frozenset[str]().union(*(one.needs for one in users))


class _Graph:
    """The users of all nodes."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._direct: dict[str, list[_User]] = {}
        self._above: dict[str, list[tuple[str, str]]] = {}
        self._known: dict[str, Sequence[_User]] = {}
        for key, drive in state.drives.items():
            if drive["device"] is not None and drive["node"] is not None:
                leaves = {*_ALL}
                if not state.devices[drive["device"]].get("share-rw"):
                    leaves.remove(_WRITE)
                name = f"block device '{drive['name'] or qdev(state, drive['device'])}'"
                needs = {_READ, _WRITE} if drive["writes"] else {_READ}
                self._add(drive["node"], state.drives.birth(key), name, needs, leaves)
        for name, export in state.exports.items():
            needs = {_READ, _WRITE} if export["writable"] else {_READ}
            self._add(export["node-name"], state.exports.birth(name), _UNNAMED, needs, {*_ALL})
        for name, job in state.jobs.items():
            if job["type"] == "mirror" and job["status"] != "concluded":
                self._add(job["target"], state.jobs.birth(name), _UNNAMED, {_WRITE}, {_UNCHANGED})
        for above in state.nodes:
            for child, below in children_of(state, above).items():
                self._above.setdefault(below, []).append((above, child))

    def _add(self, node: str, birth: int, name: str, needs: set[str], leaves: set[str]) -> None:
        user = _User(birth, name, "root", frozenset(needs), frozenset(leaves))
        self._direct.setdefault(node, []).append(user)

    def users(self, node: str) -> Sequence[_User]:
        """Return the users of a node, the newest one first."""
        if node not in self._known:
            above = [self._node(*one) for one in self._above.get(node, ())]
            users = self._direct.get(node, []) + above
            self._known[node] = sorted(users, key=lambda user: -user.birth)
        return self._known[node]

    def _node(self, name: str, child: str) -> _User:
        """Return a node as the user of one below it: its users' needs are its own, and more."""
        users, node = self.users(name), self._state.nodes[name]
        needs = _needs(users)
        leaves = frozenset(_ALL).intersection(*(one.leaves for one in users))
        if child == "backing":
            needs &= {_READ}
            leaves = leaves if _WRITE in leaves else frozenset({_READ, _UNCHANGED})
        elif node["driver"] in FORMATS:
            needs |= {_READ} if node.get("read-only") else {_READ, _WRITE, _RESIZE}
            leaves -= {_WRITE, _RESIZE}
        return _User(self._state.nodes.birth(name), f"node '{name}'", child, needs, leaves)
