"""OpenStack nova's way: the allowed pause grows in steps over time.

After the descriptions of nova's options `live_migration_downtime`, `_downtime_steps`,
`_downtime_delay`, `_completion_timeout` and `_timeout_action`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.migration.policies.precopy import Precopy

if TYPE_CHECKING:
    from qmpserver.migration.policies.policy import Decision, Look

GIB = 1 << 30
LEAST_GIB = 2  # smaller guests count as so large


class SteppedDowntime:
    """Begins with a part of the allowed pause and adds to it, a step each so many seconds a GiB.

    The downtime limit of the migration is the longest pause, 500 ms in nova.

    Args:
        steps: Increases until the longest pause is allowed; the first pause is this part of it.
        delay: Seconds a GiB between two increases.
        timeout: Seconds a GiB until the migration ends in any case; 0: none.
        force: It ends by switching over with any pause, not by giving up.
    """

    def __init__(
        self, *, steps: int = 10, delay: float = 75, timeout: float = 800, force: bool = False
    ) -> None:
        self._precopy = Precopy()
        self._steps = steps
        self._delay = delay
        self._timeout = timeout
        self._force = force
        self._gib = 0.0

    def decide(self, look: Look) -> Decision:
        """Return the answer to a look."""
        self._gib = self._gib or max(LEAST_GIB, look.pending / GIB)
        step = min(self._steps, int(look.time / (self._delay * self._gib)))
        first = look.downtime_limit / self._steps
        decision = self._precopy.answer(
            look, first + step * (look.downtime_limit - first) / self._steps
        )
        if decision.switch_over or not 0 < self._timeout * self._gib <= look.time:
            return decision
        return decision._replace(switch_over=self._force, abort=not self._force)
