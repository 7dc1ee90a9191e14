"""The figures of a migration at one moment, from the answer to `query-migrate`, and their texts.

No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MIB = 1 << 20
LIMITED = "dirty-limit-throttle-time-per-round"  # in the answer while the dirty limit throttles


@dataclass(frozen=True, slots=True)
class Figures:
    """A migration as its source reports it; a number that it does not report yet is 0."""

    status: str
    seconds: float = 0.0
    total: int = 0  # bytes of RAM
    remaining: int = 0  # bytes
    sent: int = 0  # bytes
    rate: float = 0.0  # MB/s, of the last moments; of a migration that has ended: of all of it
    dirtied: float = 0.0  # MB/s
    rounds: int = 0
    throttling: str = ""  # how the guest is slowed down; empty if it is not

    @property
    def progress(self) -> str:
        """The state of a migration under way in one line."""
        if not self.total:
            return "begins"
        text = f"{self.remaining / MIB:.0f} MB remain, {self.rate:.0f} MB/s"
        text += f", dirtied {self.dirtied:.0f} MB/s, round {self.rounds}"
        return f"{text}, {self.throttling}" if self.throttling else text


def read_figures(info: Mapping[str, Any], limits: Sequence[Mapping[str, Any]] = ()) -> Figures:
    """Return the figures in answers to `query-migrate` and `query-vcpu-dirty-limit`.

    Raises:
        AttributeError, LookupError, TypeError, ValueError: The answers make no sense.
    """
    ram = info.get("ram", {})
    return Figures(
        str(info.get("status", "none")),
        int(info.get("total-time", 0)) / 1e3,
        int(ram.get("total", 0)),
        int(ram.get("remaining", 0)),
        int(ram.get("transferred", 0)),
        float(ram.get("mbps", 0)) * 1e6 / 8 / MIB,
        int(ram.get("dirty-pages-rate", 0)) * int(ram.get("page-size", 4096)) / MIB,
        int(ram.get("dirty-sync-count", 0)),
        _throttling(info, [int(limit["limit-rate"]) for limit in limits]),
    )


def limit_text(limits: Sequence[int]) -> str:
    """Return the text on limits of vCPUs, in MB/s; there must be one."""
    least, most = min(limits), max(limits)
    return f"limit {least} to {most} MB/s" if most > least else f"limit {least} MB/s"


def _throttling(info: Mapping[str, Any], limits: Sequence[int]) -> str:
    """Return how the guest is slowed down; `limits` are those of its vCPUs, in MB/s."""
    if limits:
        return limit_text(limits)
    if LIMITED in info:
        return "dirty limit"
    percentage = int(info.get("cpu-throttle-percentage", 0))
    return f"vCPUs throttled {percentage} %" if percentage else ""
