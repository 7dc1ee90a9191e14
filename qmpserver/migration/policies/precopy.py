"""No convergence: rounds until the rest fits the pause, as QEMU does it by default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.migration.policies.arithmetic import live_seconds
from qmpserver.migration.policies.policy import Decision

if TYPE_CHECKING:
    from qmpserver.migration.policies.policy import Look


class Precopy:
    """Switches over as soon as the rest fits the pause; never slows the guest."""

    def decide(self, look: Look) -> Decision:
        """Return the answer to a look."""
        return rounds(look, look.downtime_limit)


def rounds(
    look: Look, downtime: float, *, limits: tuple[int, ...] = (), throttle: int = 0
) -> Decision:
    """Return the answer of round-by-round precopy.

    A round sends everything that was pending when it began. The rings are harvested when what is
    left of it fits the pause: the harvest shows whether all of the rest does.

    Args:
        look: The figures.
        downtime: The pause that is allowed now.
        limits: Passed on.
        throttle: Passed on.
    """
    rest = look.sendable(downtime)
    fits = look.remaining <= rest
    live = live_seconds(look.remaining, rest, look.bandwidth, sum(look.rates))
    return Decision(
        limits=limits,
        throttle=throttle,
        harvest=not fits and look.pending <= rest and look.unharvested > 0,
        switch_over=fits,
        expected_total=look.time + live + look.pause(min(look.remaining, rest)),
        expected_downtime=look.pause(look.remaining),
    )
