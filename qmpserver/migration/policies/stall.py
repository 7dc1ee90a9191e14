"""KubeVirt's stall detection: when rounds have stopped shrinking, switch over at a good moment.

After KubeVirt's enhancement proposal 248, for migrations by precopy alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qmpserver.migration.policies.precopy import Precopy

if TYPE_CHECKING:
    from qmpserver.migration.policies.policy import Decision, Look

GIB = 1 << 30
MARGIN = 0.04  # a rest that is larger by so much is as good
SMOOTHING = 0.4  # weight of a new sample of the bandwidth
HOPELESS = 1.5  # times the longest pause: it is not worth waiting
PATIENCE_DECAY = 0.5


class StallDetection:
    """Waits for the least rest that it has seen since the stall began, then allows a longer pause.

    The migration's downtime limit is the longest pause that is acceptable then; the proposal has
    900 ms.

    Args:
        target: Seconds of pause that are allowed before a stall.
        progress_timeout: Seconds without progress that are a stall.
        completion_timeout: Seconds a GiB until it gives up.
    """

    def __init__(
        self,
        *,
        target: float = 0.3,
        progress_timeout: float = 60,
        completion_timeout: float = 150,
    ) -> None:
        self._precopy = Precopy()
        self._target = target
        self._progress_timeout = progress_timeout
        self._completion_timeout = completion_timeout
        self._gib = 0.0
        self._bandwidth = 0.0
        self._rounds = 1
        self._rests: list[tuple[float, int]] = []  # the start of each round, and its bytes
        self._history: list[int] = []  # those since the stall, the least first
        self._best: float | None = None  # the rest to wait for; None: not stalled
        self._patience = progress_timeout
        self._waits_since = 0.0
        self._deadline = math.inf

    def decide(self, look: Look) -> Decision:
        """Return the answer to a look."""
        self._gib = self._gib or look.pending / GIB
        before = self._bandwidth or look.bandwidth
        self._bandwidth = SMOOTHING * look.bandwidth + (1 - SMOOTHING) * before
        pause = min(self._target, look.downtime_limit)
        abort = look.time >= min(self._deadline, self._completion_timeout * self._gib)
        if look.rounds != self._rounds:
            self._rounds = look.rounds
            self._take_round(look)
            if self._best is not None and look.pending <= self._best * (1 + MARGIN):
                implied = look.pending / self._bandwidth if self._bandwidth else math.inf
                if implied <= look.downtime_limit:
                    self._deadline = min(self._deadline, look.time + self._progress_timeout)
                abort |= implied >= HOPELESS * look.downtime_limit
        if self._deadline < math.inf:
            pause = look.downtime_limit
        decision = self._precopy.answer(look, pause)
        return decision._replace(abort=abort and not decision.switch_over)

    def _take_round(self, look: Look) -> None:
        """Note the rest at the start of a round; detect a stall, or wait for a lesser goal."""
        rest, now = look.pending, look.time
        if self._best is None:
            old = [(size, at) for at, size in self._rests if at <= now - self._progress_timeout]
            self._rests.append((now, rest))
            if old and rest >= min(old)[0] * (1 - MARGIN):
                began = min(old)[1]
                self._history = sorted({size for at, size in self._rests if at >= began})
                self._best = self._history.pop(0)
                self._waits_since = now
            return
        self._history = sorted({*self._history, rest})
        if rest > self._best * (1 + MARGIN) and now - self._waits_since >= self._patience:
            self._best = self._history.pop(0)
            self._patience *= PATIENCE_DECAY
            self._waits_since = now
