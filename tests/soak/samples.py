"""Samples of the programs under load, and whether they are flat.

A series is flat if it has no upward trend, or one that stays within a tolerance over the whole run;
`tests.fuzz.trend.growth` says how a trend is told from noise.
"""

import asyncio
import os
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.trend import growth
from tests.soak.programs import PATIENCE, Program
from tests.standin.conftest import Raw

ROUND_TRIPS = 100
SETTLED = 20  # equal looks in a row


class Kind(NamedTuple):
    """A kind of measurement: how much it may grow in a run, as a number and as a part of it."""

    name: str
    unit: str
    most: float
    part: float


KINDS = (
    Kind("memory", "KiB", 1024, 0.05),
    Kind("threads", "", 0.99, 0),
    Kind("descriptors", "", 0.99, 0),
    Kind("latency", "us", 20, 0.5),
)


class Verdict(NamedTuple):
    """A series, and whether it is flat."""

    program: str
    kind: Kind
    values: Sequence[float]

    @property
    def growth(self) -> float:
        """By how much it grew."""
        return growth(self.values)

    @property
    def allowed(self) -> float:
        """By how much it may grow."""
        return max(self.kind.most, self.kind.part * statistics.median(self.values))

    @property
    def flat(self) -> bool:
        """Whether it is flat."""
        return self.growth <= self.allowed

    def __str__(self) -> str:
        values = self.values
        return (
            f"{self.program:9} {self.kind.name:12} {values[0]:8.0f}"
            f" {statistics.median(values):8.0f} {max(values):8.0f} {values[-1]:8.0f}"
            f" {self.growth:+8.0f} {self.allowed:8.1f}"
            f"  {'flat' if self.flat else 'GROWS'} {self.kind.unit}"
        )


HEADER = (
    f"{'program':9} {'':12} {'first':>8} {'median':>8} {'most':>8} {'last':>8} {'growth':>8} "
    f"{'allowed':>8}"
)


class Samples:
    """Samples of a program, taken while nobody but one client is connected."""

    def __init__(self, program: Program, client: Raw) -> None:
        self._program = program
        self._client = client
        self.times: list[float] = []
        self.values: dict[str, list[float]] = {kind.name: [] for kind in KINDS}

    async def take(self) -> None:
        """Wait until the last clients are gone, then measure."""
        await self._settle()
        times = []
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            await self._client.execute("query-status")
            times.append(time.perf_counter() - began)
        self.times.append(time.monotonic())
        threads, descriptors = self._counts()
        for name, value in (
            ("memory", self._memory()),
            ("threads", threads),
            ("descriptors", descriptors),
            ("latency", statistics.median(times) * 1e6),
        ):
            self.values[name].append(value)

    @property
    def _pid(self) -> int:
        return self._program.pid

    def _memory(self) -> float:
        """Return the memory of its own, without the guest's, in KiB."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found
        return float(found[1])

    def _counts(self) -> tuple[int, int]:
        return len(os.listdir(f"/proc/{self._pid}/task")), len(os.listdir(f"/proc/{self._pid}/fd"))

    async def _settle(self) -> None:
        """Wait until threads and descriptors stay the same for a while."""
        same, last = 0, (0, 0)
        async with asyncio.timeout(PATIENCE):
            while same < SETTLED:
                now = self._counts()
                same = same + 1 if now == last else 0
                last = now
                await asyncio.sleep(0.002)

    def verdicts(self) -> list[Verdict]:
        """Return the verdict on each kind."""
        return [Verdict(self._program.name, kind, self.values[kind.name]) for kind in KINDS]


def draw(samples: Sequence[Samples], names: Sequence[str], path: str) -> None:
    """Draw all series into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(KINDS), 1, sharex=True, figsize=(9, 9))
    for axis, kind in zip(axes, KINDS, strict=True):
        for one, name in zip(samples, names, strict=True):
            start = one.times[0]
            axis.plot([at - start for at in one.times], one.values[kind.name], label=name)
        axis.set_ylabel(f"{kind.name} ({kind.unit})" if kind.unit else kind.name)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, bbox_inches="tight")
