"""The state of a server's vCPUs, observed without disturbing it: rates, limits, rings.

Nothing here starts a measurement. Each rate comes with its source and its age.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qmpserver.tools.client import Client
from qmpserver.tools.errors import RefusedError, sensible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qmpserver.tools.address import ServerAddress

QUERY_RING = "__org.qmpserver_query-dirty-ring"  # this server's extension
HISTORY = 24
PATIENCE_S = 5.0
_OLDEST = 1_000_000_000  # in 2001; no host has been up for so many seconds
_MIB = 1 << 20
_PAGE = 4096


@dataclass(slots=True)
class Vcpu:
    """One virtual CPU at one moment; None stands for a value that the server does not report."""

    server: str
    index: int
    rate: float | None = None  # MB/s
    source: str = ""  # "limit", "ring" or "measured"
    age: float | None = None  # seconds since the end of the time that the rate was taken over
    limit: int | None = None  # MB/s
    throttled: float | None = None  # the part of the time that the limit paused it
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))


@dataclass(slots=True)
class View:
    """One server at one moment."""

    status: str
    vcpus: list[Vcpu]
    ring: dict[str, Any] | None  # the answer to `QUERY_RING`


class Watcher:
    """A connection to one server, open while the context lasts.

    Any thread may use it: one command is executed at a time.
    """

    def __init__(self, address: ServerAddress) -> None:
        """Connect.

        Raises:
            ServerError: The server cannot be reached, or does not speak QMP.
        """
        self.address = address
        self.name = str(address)
        self._lock = threading.Lock()
        self._client = Client(address, reply_s=PATIENCE_S)
        self._commands: set[str] = set()
        self._last_ring: tuple[float, dict[str, Any]] | None = None
        self._history: dict[int, deque[float]] = {}
        self._seen: tuple[Any, float] | None = None  # a measurement, and when it was first seen
        try:
            with sensible(address, "query-commands"):
                self._commands = {c["name"] for c in self.execute("query-commands")}
            with sensible(address, "query-name"):
                name = self._ask("query-name") or {}
                if name.get("name"):
                    self.name = f"{name['name']} ({address})"
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def interrupt(self) -> None:
        """End the connection; a thread that waits for an answer gets ServerError at once."""
        self._client.interrupt()

    def close(self) -> None:
        """End and close the connection."""
        self.interrupt()
        with self._lock:
            self._client.close()

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Execute a command and return its result; raise RefusedError and ServerError."""
        with self._lock:
            return self._client.execute(command, arguments)

    def _ask(self, command: str) -> Any:
        """Return the result of a query; None if the server does not have it, or refuses."""
        if command not in self._commands:
            return None
        try:
            return self.execute(command)
        except RefusedError:
            return None

    def look(self) -> View:
        """Return the present state; raise ServerError. One thread at a time may look."""
        with sensible(self.address, "a query"):
            return self._look()

    def _look(self) -> View:
        status = self._ask("query-status") or {}
        indexes = [cpu["cpu-index"] for cpu in self._ask("query-cpus-fast") or ()]
        vcpus = {i: Vcpu(self.name, i) for i in indexes}
        self._from_measurement(vcpus, self._ask("query-dirty-rate") or {})
        ring = self._ask(QUERY_RING)
        if ring is not None:
            self._from_ring(vcpus, ring)
        for limit in self._ask("query-vcpu-dirty-limit") or ():
            if vcpu := vcpus.get(limit["cpu-index"]):
                vcpu.limit = limit["limit-rate"]
                vcpu.rate, vcpu.source, vcpu.age = limit["current-rate"], "limit", 0.0
        for index, vcpu in vcpus.items():
            vcpu.history = self._history.setdefault(index, vcpu.history)
            if vcpu.rate is not None and vcpu.source != "measured":
                vcpu.history.append(vcpu.rate)
        return View(status.get("status", "?"), list(vcpus.values()), ring)

    def _from_measurement(self, vcpus: dict[int, Vcpu], info: dict[str, Any]) -> None:
        """Take the rates from the last measurement that any client has asked for."""
        if info.get("status") != "measured":
            return
        which = (info["start-time"], info.get("vcpu-dirty-rate"))
        if self._seen is None or self._seen[0] != which:
            self._seen = (which, time.monotonic())
        age = time.monotonic() - self._seen[1]  # or more
        if isinstance(self.address.where, str):
            # Its clocks are this machine's; the start is in whole seconds.
            age = max(age, _since(info["start-time"]) - info["calc-time"])
        for rate in info.get("vcpu-dirty-rate", ()):
            if vcpu := vcpus.get(rate["id"]):
                vcpu.rate, vcpu.source, vcpu.age = rate["dirty-rate"], "measured", age

    def _from_ring(self, vcpus: dict[int, Vcpu], ring: dict[str, Any]) -> None:
        """Take the rates from the pages that passed through the rings since the last look."""
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
    """Return the texts of a row, except for the course."""
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
    """Return a line on a server: its status, and its ring and reaper if it reports them."""
    text = f"{name}: {view.status}, {len(view.vcpus)} vCPU{'s' * (len(view.vcpus) != 1)}"
    if view.ring is not None:
        ring, reaper = view.ring, view.ring["reaper"]
        text += f" | reaper {ring['mode']}, {reaper['state']}: {reaper['turns']} turns"
        text += f", {reaper['kicks']} kicks | tracking {'on' if ring['tracking'] else 'off'}"
        text += f", limit {'in force' if ring['in-service'] else 'off'}"
        full = sum(vcpu["full-exits"] for vcpu in ring["vcpus"])
        text += f" | ring full {full} times"
        overflows = ring["reset-shortfalls"] + sum(vcpu["overflows"] for vcpu in ring["vcpus"])
        text += f", {overflows} overflows" if overflows else ""
    return text


def chosen(vcpus: Sequence[Vcpu], sort: str, only: str) -> list[Vcpu]:
    """Return the rows to show: those whose server or number contains `only`, in order."""
    shown = [v for v in vcpus if only.lower() in f"{v.server} vcpu {v.index}".lower()]
    return sorted(shown, key=SORTS[sort])


def sparkline(values: deque[float]) -> str:
    """Return the course of a rate as a line of blocks, the newest last."""
    most = max(values, default=0.0) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(int(value / most * 8), 7)] for value in values)


def _since(start: int) -> float:
    """Return the seconds since a `start-time`: since 1970, or as in old releases the uptime."""
    return (time.time() if start >= _OLDEST else time.monotonic()) - start
