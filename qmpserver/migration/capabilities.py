"""The capabilities of a migration: their names, the rules between them, and the refusals.

Each capability of QEMU has a place here, including those that have no effect on this server: a
client may set them if QEMU, without the device that each needs, would let it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Literal, get_args

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Capability = Literal[
    "xbzrle",
    "rdma-pin-all",
    "auto-converge",
    "events",
    "postcopy-ram",
    "x-colo",
    "release-ram",
    "return-path",
    "pause-before-switchover",
    "multifd",
    "dirty-bitmaps",
    "postcopy-blocktime",
    "late-block-activate",
    "x-ignore-shared",
    "validate-uuid",
    "background-snapshot",
    "zero-copy-send",
    "postcopy-preempt",
    "switchover-ack",
    "dirty-limit",
    "mapped-ram",
]
"""A capability, in QEMU's order."""

CAPABILITIES: tuple[Capability, ...] = get_args(Capability)

IN_PROGRESS = "There's a migration process in progress"

_NOT_WITH_SNAPSHOT = (
    "postcopy-ram",
    "dirty-bitmaps",
    "postcopy-blocktime",
    "late-block-activate",
    "return-path",
    "multifd",
    "pause-before-switchover",
    "auto-converge",
    "release-ram",
    "rdma-pin-all",
    "xbzrle",
    "validate-uuid",
    "zero-copy-send",
)


class Capabilities(Mapping[str, bool]):
    """The capabilities of one machine's migrations; all are off at first.

    Args:
        names: Their names; another release of QEMU has other ones, which no rule is about.
    """

    def __init__(self, names: Iterable[str] = CAPABILITIES) -> None:
        self._states: dict[str, bool] = dict.fromkeys(names, False)

    def __getitem__(self, name: str) -> bool:
        return self._states[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def query(self) -> list[dict[str, object]]:
        """Return all capabilities as `query-migrate-capabilities` does."""
        return [{"capability": name, "state": state} for name, state in self._states.items()]

    def set(
        self,
        states: Mapping[str, bool],
        *,
        ring: bool,
        under_way: bool,
        awaited: bool = False,
        plain: bool = True,
    ) -> None:
        """Change capabilities: all of them, or none if one is refused.

        Args:
            states: The new states, by name.
            ring: Whether the accelerator has dirty rings.
            under_way: Whether an outgoing migration is in progress.
            awaited: Whether an incoming migration has been started.
            plain: Whether the parameters ask for neither compression nor TLS.

        Raises:
            CommandError: A migration is in progress, or a rule forbids the new states.
        """
        if under_way:
            raise CommandError(IN_PROGRESS)
        new = {**self._states, **states}
        added = {name for name in new if new[name] and not self._states[name]}
        known: dict[str, bool] = {**dict.fromkeys(CAPABILITIES, False), **new}
        if message := _refusal(known, added if awaited else set(), ring, plain):
            raise CommandError(message)
        self._states = new


def _refusal(new: Mapping[str, bool], late: Set[str], ring: bool, plain: bool) -> str:
    """Return the message that refuses the states `new`, or "".

    The rules are in QEMU's order: the first broken one names the error. Capabilities that the
    channels of an incoming migration depend on must not be `late`.
    """
    if new["x-colo"] and not new["return-path"]:
        return "Capability 'x-colo' requires capability 'return-path'"
    if new["postcopy-ram"] and new["x-ignore-shared"]:
        return "Postcopy is not compatible with ignore-shared"
    if new["background-snapshot"]:
        for other in _NOT_WITH_SNAPSHOT:
            if new[other]:
                return f"Background-snapshot is not compatible with {other}"
    if new["zero-copy-send"] and not (new["multifd"] and not new["xbzrle"] and plain):
        return "Zero copy only available for non-compressed non-TLS multifd migration"
    if new["postcopy-preempt"] and not new["postcopy-ram"]:
        return "Postcopy preempt requires postcopy-ram"
    if "postcopy-preempt" in late:
        return "Postcopy preempt must be set before incoming starts"
    if "multifd" in late:
        return "Multifd must be set before incoming starts"
    if new["switchover-ack"] and not new["return-path"]:
        return "Capability 'switchover-ack' requires capability 'return-path'"
    if new["dirty-limit"] and new["auto-converge"]:
        return "dirty-limit conflicts with auto-converge either of then available currently"
    if new["dirty-limit"] and not ring:
        return "dirty-limit requires KVM with accelerator property 'dirty-ring-size' set"
    if new["multifd"] and new["xbzrle"]:
        return "Multifd is not compatible with xbzrle"
    if new["mapped-ram"] and new["xbzrle"]:
        return "Mapped-ram migration is incompatible with xbzrle"
    if new["mapped-ram"] and new["postcopy-ram"]:
        return "Mapped-ram migration is incompatible with postcopy"
    return ""
