"""No convergence: rounds until the rest fits the pause, as QEMU does it by default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.migration.policies.arithmetic import live_seconds
from qmpserver.migration.policies.policy import Decision

if TYPE_CHECKING:
    from qmpserver.migration.policies.policy import Look


ROUND_END = 0.002  # s of the link: a round with no more left is at its end
SHRINKS = 0.8  # of the link: a guest that dirties less leaves less at the end of the round


class Precopy:
    """Switches over when the rest fits the pause and will not be less soon; never slows the guest.

    A round whose rest fits the pause is sent to its end while the guest runs, unless the guest
    dirties as much meanwhile.
    """

    def __init__(self) -> None:
        self._round = 0
        self._size = 0  # bytes that were pending when this round began

    def decide(self, look: Look) -> Decision:
        """Return the answer to a look."""
        return self.answer(look, look.downtime_limit)

    def answer(
        self, look: Look, downtime: float, *, limits: tuple[int, ...] = (), throttle: int = 0
    ) -> Decision:
        """Return the answer for a pause of at most `downtime` seconds.

        A round sends everything that was pending when it began. The rings are harvested when the
        part that is left fits the pause: the harvest shows whether all of the rest does.

        Args:
            look: The figures.
            downtime: The pause that is allowed now.
            limits: Passed on.
            throttle: Passed on.
        """
        if look.rounds != self._round:
            self._round, self._size = look.rounds, look.pending
        rest = look.sendable(downtime)
        fits = look.remaining <= rest
        return Decision(
            limits=limits,
            throttle=throttle,
            harvest=not fits and look.pending <= rest and look.unharvested > 0,
            switch_over=fits and not self._would_shrink(look),
            expected_total=look.time + self._expected(look, rest),
            expected_downtime=look.pause(look.remaining),
        )

    def _would_shrink(self, look: Look) -> bool:
        """Return whether the pause gets shorter if the guest runs to the end of this round.

        If the guest's rates are not known, it is not worth trying.
        """
        ends = look.pending <= look.bandwidth * ROUND_END
        is_slow = bool(look.rates) and sum(look.rates) < SHRINKS * look.bandwidth
        return is_slow and not ends

    def _expected(self, look: Look, rest: float) -> float:
        """Return the seconds to the end, if each round shrinks as much as this one."""
        left = live_seconds(look.pending, 0, look.bandwidth, 0)
        dirty = look.unharvested + (sum(look.rates) * left if look.bandwidth else 0)
        if look.remaining <= rest:
            return look.pause(look.remaining)
        shrinks_to = dirty / self._size if self._size else 1.0
        later = live_seconds(dirty, rest, look.bandwidth, shrinks_to * look.bandwidth)
        return left + later + look.pause(rest)
