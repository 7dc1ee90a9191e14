"""The tables of `qmpserver/migration/policies/README.md`.

`python -m tests.migration.policies.figures` prints them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qmpserver.migration.policies.auto_converge import AutoConverge
from qmpserver.migration.policies.dirty_limit import DirtyLimit
from qmpserver.migration.policies.precopy import Precopy
from qmpserver.migration.policies.promise import Promise
from qmpserver.migration.policies.ramp import Ramp
from qmpserver.migration.policies.stall import StallDetection
from qmpserver.migration.policies.stepped_downtime import SteppedDowntime
from tests.migration.policies.simulator import Migration, Vcpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.migration.policies.policy import Policy

LINK = 128.0


def greedy(size: float, first: float = 0) -> Vcpu:
    return Vcpu(size, lambda _time: 1500, first)


def promised(
    name: str,
    guest: Callable[[], list[Vcpu]],
    total: float,
    downtime: float,
    *,
    ram: float = 512,
    link: Callable[[float], float] = lambda _time: LINK,
) -> str:
    """Return a row: one promise, with a sender that sends by address, and cold pages first."""
    figures = []
    for cold_first in (False, True):
        vcpus = guest()
        outcome = Migration(ram, link, vcpus, downtime, total, cold_first=cold_first).run(Promise())
        told = "" if outcome.broken_at == math.inf else f" (told at {outcome.broken_at:.2f} s)"
        figures.append(f"{outcome.total:.2f} s{told} | {outcome.pause * 1000:.0f} ms")
        figures.append(f"{outcome.wrote:.0f}")
    bound = LINK - (ram - LINK * downtime) / total
    return f"| {name} | {' | '.join(figures)} | {bound:.0f} |"


def compared(name: str, policy: Policy, rate: float, downtime: float, total: float = 0) -> str:
    """Return a row: one policy on the guest that was measured with QEMU, or a slower one."""
    guest = [Vcpu(256, lambda _time: rate)]
    migration = Migration(262, lambda _time: LINK, guest, downtime, total, look=0.02)
    outcome = migration.run(policy)
    end = "given up" if outcome.aborted else "never (120 s)"
    if outcome.total < math.inf:
        end = f"{outcome.total:.1f} s | {outcome.pause * 1000:.0f} ms"
    else:
        end += " |"
    return f"| {name} | {end} | {outcome.sent:.0f} MB | {outcome.wrote:.0f} |"


def main() -> None:
    """Print the tables."""
    for total, downtime in [(5, 0.3), (5, 0.1), (5, 0.05), (5, 0.02), (10, 0.1), (20, 0.1)]:
        name = f"{total} s, {downtime * 1000:.0f} ms, one vCPU"
        print(promised(name, lambda: [greedy(256)], total, downtime))
    print(promised("5 s, 300 ms, two", lambda: [greedy(128), greedy(128, 128)], 5, 0.3))
    print(promised("2.6 s, 100 ms, 256 MB in all", lambda: [greedy(256)], 2.6, 0.1, ram=256))
    print(promised("5 s, 300 ms, working set 20 MB", lambda: [greedy(20, 100)], 5, 0.3))
    print(
        promised(
            "10 s, 300 ms, link halved at 5 s",
            lambda: [greedy(256)],
            10,
            0.3,
            link=lambda time: LINK if time < 5 else LINK / 2,
        )
    )
    print(
        promised(
            "5 s, 300 ms, link halved at 2.5 s",
            lambda: [greedy(256)],
            5,
            0.3,
            link=lambda time: LINK if time < 2.5 else LINK / 2,
        )
    )
    print()
    print(compared("precopy", Precopy(), 1500, 0.3))
    print(compared("auto_converge", AutoConverge(), 1500, 0.3))
    for limit in (20, 50, 80, 100):
        print(compared(f"dirty_limit, {limit} MB/s", DirtyLimit(limit), 1500, 0.3))
    print(compared("promise, 5 s", Promise(), 1500, 0.3, 5))
    print(compared("stall, 5 s without progress", StallDetection(progress_timeout=5), 1500, 0.9))
    print()
    print(compared("precopy, 100 ms", Precopy(), 120, 0.1))
    print(compared("stepped_downtime, 1 s a GiB, to 500 ms", SteppedDowntime(delay=1), 120, 0.5))
    print(compared("ramp, 1 s cooldown, to 1050 ms", Ramp(cooldown=1), 120, 1.05))
    print(
        compared(
            "stall, 5 s without progress, to 900 ms", StallDetection(progress_timeout=5), 120, 0.9
        )
    )
    print(compared("promise, 5 s, 100 ms", Promise(), 120, 0.1, 5))


if __name__ == "__main__":
    main()
