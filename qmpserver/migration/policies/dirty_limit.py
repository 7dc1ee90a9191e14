"""QEMU's dirty-limit: once rounds do not shrink, one constant limit on all vCPUs.

QEMU's limiter measures rates each `x-vcpu-dirty-limit-period`; an exact limiter has no use for it,
and neither has the policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.migration.policies.precopy import Precopy
from qmpserver.migration.policies.trigger import Trigger

if TYPE_CHECKING:
    from qmpserver.migration.policies.policy import Decision, Look


class DirtyLimit:
    """Limits all vCPUs to one rate, blind to the link, to what remains and to the pause.

    Args:
        limit: `vcpu-dirty-limit`, MB/s.
        trigger_threshold: `throttle-trigger-threshold`, percent.

    Attributes:
        limit: May be changed during the migration.
    """

    def __init__(self, limit: int = 1, *, trigger_threshold: int = 50) -> None:
        self._precopy = Precopy()
        self.limit = limit
        self._trigger = Trigger(trigger_threshold)
        self._limits_vcpus = False

    def decide(self, look: Look) -> Decision:
        """Return the answer to a look."""
        self._limits_vcpus |= self._trigger.fires(look)
        limit = self.limit if self._limits_vcpus else 0
        return self._precopy.answer(look, look.downtime_limit, limits=(limit,) * len(look.rates))
