"""The ways to converge that `converge` compares; a way is settings of the source, or a policy.

The policies of management layers change `downtime-limit` from outside, as in life. They are set to
times that suit a guest that moves in seconds: a step or an increase each second, and a stall after
five seconds without progress. Their longest pauses are their own, also if the goal's is shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qmpserver.migration.policies.ramp import Ramp
from qmpserver.migration.policies.stall import StallDetection
from qmpserver.migration.policies.stepped_downtime import SteppedDowntime
from qmpserver.tools.steering import cautious_promise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.migration.policies.policy import Policy

LIMITS = (20, 50, 80)  # MB/s, of the way `dirty-limit`


@dataclass(frozen=True, slots=True)
class Way:
    """One way to converge.

    Attributes:
        capabilities: To switch on.
        parameters: Of the source.
        policy: Makes the policy that drives the source from outside.
        longest: Seconds of pause that this policy may come to allow; 0: those of the goal.
        promises: It is told the total. A server that makes promises itself needs no `policy`.
    """

    capabilities: tuple[str, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    policy: Callable[[], Policy] | None = None
    longest: float = 0.0
    promises: bool = False


def _stepped() -> Policy:
    return SteppedDowntime(delay=0.5)  # it counts small guests as 2 GiB


def _ramp() -> Policy:
    return Ramp(cooldown=1)


def _stall() -> Policy:
    return StallDetection(progress_timeout=5)


WAYS: dict[str, Way] = {
    "precopy": Way(),
    "auto-converge": Way(("auto-converge",)),
    **{
        f"dirty-limit-{limit}": Way(("dirty-limit",), {"vcpu-dirty-limit": limit})
        for limit in LIMITS
    },
    "stepped-downtime": Way(policy=_stepped, longest=0.5),
    "ramp": Way(policy=_ramp, longest=1.05),
    "stall": Way(policy=_stall, longest=0.9),
    "promise": Way(policy=cautious_promise, promises=True),
}
