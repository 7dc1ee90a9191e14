"""QEMU's sign that rounds do not converge; `auto_converge` and `dirty_limit` act on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.migration.policies.policy import Look

PERIOD = 1.0  # s: the shortest time between two checks


class Trigger:
    """Compares, after harvests, the bytes that the guest dirtied with the bytes that were sent.

    Args:
        threshold: QEMU's `throttle-trigger-threshold`: a check is bad if the guest dirtied more
            than this percentage of the bytes that were sent since the check before.

    Attributes:
        excess: Dirtied bytes over allowed ones, at the last check.
    """

    def __init__(self, threshold: int = 50) -> None:
        self.excess = 0.0
        self._threshold = threshold
        self._last: Look | None = None  # of the last check
        self._rounds = 0
        self._bad = 0

    def fires(self, look: Look) -> bool:
        """Return whether the guest must be slowed further: at each second bad check."""
        last = self._last
        if last is None:
            self._last, self._rounds = look, look.rounds
            return False
        if look.rounds == self._rounds:
            return False
        self._rounds = look.rounds
        if look.time - last.time < PERIOD:
            return False
        self._last = look
        dirtied = look.added - last.added
        allowed = (look.sent - last.sent) * self._threshold / 100
        self.excess = dirtied / allowed if allowed else float(dirtied > 0)
        self._bad += dirtied > allowed
        if self._bad < 2:
            return False
        self._bad = 0
        return True
