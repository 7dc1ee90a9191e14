"""What can be seen of a server's vCPUs without disturbing it: rates, limits, rings.

Nothing here starts a measurement. Where a rate comes from, and how old it is, is told with it.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qemu.qmp import ExecuteError

from qmpserver.bench.vm import EXTENSION
from qmpserver.tools.client import connected, execute
from qmpserver.tools.errors import sensible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from qemu.qmp import QMPClient

    from qmpserver.tools.address import ServerAddress

HISTORY = 24
PATIENCE_S = 5.0
_MIB = 1 << 20
_PAGE = 4096


@dataclass(slots=True)
class Vcpu:
    """One virtual CPU at one moment; None is what the server does not tell."""

    server: str
    index: int
    rate: float | None = None  # MB/s
    source: str = ""  # "limit", "ring" or "measured"
    age: float | None = None  # seconds since the time that the rate is of ended
    limit: int | None = None  # MB/s
    throttled: float | None = None  # the part of the time that the limit held it paused
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))


@dataclass(slots=True)
class View:
    """One server at one moment."""

    status: str
    vcpus: list[Vcpu]
    ring: dict[str, Any] | None  # what the extension tells


class Watcher:
    """A connection to one server, open while the context lasts."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self.name = str(address)
        self._stack = AsyncExitStack()
        self._client: QMPClient | None = None
        self._commands: set[str] = set()
        self._last_ring: tuple[float, dict[str, Any]] | None = None
        self._history: dict[int, deque[float]] = {}
        self._seen: tuple[Any, float] | None = None  # a measurement, and when it was first seen

    async def __aenter__(self) -> Watcher:
        """Connect; raises ServerError."""
        self._client = await self._stack.enter_async_context(connected(self.address))
        try:
            with sensible(self.address, "query-commands"):
                self._commands = {c["name"] for c in await self.execute("query-commands")}
            with sensible(self.address, "query-name"):
                name = await self._ask("query-name") or {}
                if name.get("name"):
                    self.name = f"{name['name']} ({self.address})"
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        await self._stack.aclose()

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Execute a command; raises qemu.qmp.ExecuteError and ServerError."""
        assert self._client is not None
        return await execute(self._client, self.address, command, arguments, PATIENCE_S)

    async def _ask(self, command: str) -> Any:
        """Ask what not every server tells; None where it does not."""
        if command not in self._commands:
            return None
        try:
            return await self.execute(command)
        except ExecuteError:
            return None

    async def look(self) -> View:
        """Look once; raises ServerError."""
        with sensible(self.address, "a query"):
            return await self._look()

    async def _look(self) -> View:
        status = await self._ask("query-status") or {}
        indexes = [cpu["cpu-index"] for cpu in await self._ask("query-cpus-fast") or ()]
        vcpus = {i: Vcpu(self.name, i) for i in indexes}
        self._from_measurement(vcpus, await self._ask("query-dirty-rate") or {})
        ring = await self._ask(EXTENSION)
        if ring is not None:
            self._from_ring(vcpus, ring)
        for limit in await self._ask("query-vcpu-dirty-limit") or ():
            if vcpu := vcpus.get(limit["cpu-index"]):
                vcpu.limit = limit["limit-rate"]
                vcpu.rate, vcpu.source, vcpu.age = limit["current-rate"], "limit", 0.0
        for index, vcpu in vcpus.items():
            vcpu.history = self._history.setdefault(index, vcpu.history)
            if vcpu.rate is not None and vcpu.source != "measured":
                vcpu.history.append(vcpu.rate)
        return View(status.get("status", "?"), list(vcpus.values()), ring)

    def _from_measurement(self, vcpus: dict[int, Vcpu], info: dict[str, Any]) -> None:
        """Take the last measurement that somebody has asked for."""
        if info.get("status") != "measured":
            return
        which = (info["start-time"], info.get("vcpu-dirty-rate"))
        if self._seen is None or self._seen[0] != which:
            self._seen = (which, time.monotonic())
        age = time.monotonic() - self._seen[1]  # at the least
        if isinstance(self.address.where, str):
            # Its clock is this machine's, in whole seconds.
            since = time.monotonic() - info["start-time"] - info["calc-time"]
            age = max(age, since)
        for rate in info.get("vcpu-dirty-rate", ()):
            if vcpu := vcpus.get(rate["id"]):
                vcpu.rate, vcpu.source, vcpu.age = rate["dirty-rate"], "measured", age

    def _from_ring(self, vcpus: dict[int, Vcpu], ring: dict[str, Any]) -> None:
        """Take what has passed through the rings since the last look."""
        now = time.monotonic()
        last, self._last_ring = self._last_ring, (now, ring)
        if last is None:
            return
        then, before = last
        seconds = now - then
        earlier = {one["cpu-index"]: one for one in before["vcpus"]}
        for one in ring["vcpus"]:
            vcpu, old = vcpus.get(one["cpu-index"]), earlier.get(one["cpu-index"])
            if vcpu is None or old is None:
                continue
            share = (one["throttle-time"] - old["throttle-time"]) / 1e9 / seconds
            vcpu.throttled = min(max(share, 0.0), 1.0)
            if ring["tracking"] and before["tracking"]:
                pages = sum(one[k] - old[k] for k in ("pages-harvested", "waiting"))
                vcpu.rate = max(pages, 0) * _PAGE / _MIB / seconds
                vcpu.source, vcpu.age = "ring", 0.0


COLUMNS = ("server", "vCPU", "MB/s", "from", "limit", "throttled", "course")
SORTS: dict[str, Callable[[Vcpu], Any]] = {
    "server": lambda vcpu: (vcpu.server, vcpu.index),
    "rate": lambda vcpu: -1.0 if vcpu.rate is None else -vcpu.rate,
    "limit": lambda vcpu: float("inf") if vcpu.limit is None else vcpu.limit,
    "throttled": lambda vcpu: -(vcpu.throttled or 0.0),
}


def cells(vcpu: Vcpu) -> tuple[str, ...]:
    """Return a row's texts, but for the course."""
    source = vcpu.source
    if vcpu.source == "measured" and vcpu.age is not None:
        source = f"measured {vcpu.age:.0f} s ago"
    return (
        vcpu.server,
        str(vcpu.index),
        "-" if vcpu.rate is None else f"{vcpu.rate:.0f}",
        source or "-",
        "-" if vcpu.limit is None else str(vcpu.limit),
        "-" if vcpu.throttled is None else f"{vcpu.throttled:.0%}",
    )


def summary(name: str, view: View) -> str:
    """Return a line on a server: how it is, and its ring and reaper where it tells of them."""
    text = f"{name}: {view.status}, {len(view.vcpus)} vCPU{'s' * (len(view.vcpus) != 1)}"
    if view.ring is not None:
        ring, reaper = view.ring, view.ring["reaper"]
        text += f" | reaper {ring['mode']}, {reaper['state']}: {reaper['turns']} turns"
        text += f", {reaper['kicks']} kicks | tracking {'on' if ring['tracking'] else 'off'}"
        text += f", limit {'in force' if ring['in-service'] else 'off'}"
        full = sum(vcpu["full-exits"] for vcpu in ring["vcpus"])
        text += f" | ring full {full} times"
        lost = ring["reset-shortfalls"] + sum(vcpu["overflows"] for vcpu in ring["vcpus"])
        text += f", {lost} overflows" if lost else ""
    return text


def chosen(vcpus: Sequence[Vcpu], sort: str, only: str) -> list[Vcpu]:
    """Return the rows to show: those whose server or number contains `only`, in order."""
    shown = [v for v in vcpus if only.lower() in f"{v.server} vcpu {v.index}".lower()]
    return sorted(shown, key=SORTS[sort])


def sparkline(values: deque[float]) -> str:
    """Return the course of a rate as a line of blocks, the newest last."""
    most = max(values, default=0.0) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(int(value / most * 8), 7)] for value in values)
