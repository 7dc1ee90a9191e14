"""``/metrics``: the machine's own counters, in OpenMetrics.

A scrape reads them where they are.  It starts no measurement and switches nothing on: what is not
known while dirty pages are not tracked is not told.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, get_args

from aiohttp import web
from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.openmetrics.exposition import ALLOWUTF8, CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.utils import floatToGoString

from qmpserver._version import VERSION
from qmpserver.vm.machine.runstate import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client.core import Metric

    from qmpserver.monitor import Server
    from qmpserver.vm.accel.engine import ReaperCounters
    from qmpserver.vm.machine.machine import Machine

MB = 1 << 20
NS = 1e9  # in a second
FIRST_BUCKET = 10  # of those that are told, the one up to 1023 ns

# They have no types.
_generate: Callable[[CollectorRegistry, str], bytes] = generate_latest
_number: Callable[[float], str] = floatToGoString


class Metrics:
    """A collector over *machine* and its *server*."""

    def __init__(self, server: Server, machine: Machine) -> None:
        self._server = server
        self._machine = machine
        self._labels = [(str(index),) for index in range(machine.accel.engine.vcpus)]
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def add_routes(self, app: web.Application) -> None:
        """Serve ``/metrics``."""
        app.router.add_get("/metrics", self._scrape)

    async def _scrape(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def text(self) -> bytes:
        """Return what a scrape gets."""
        # No name here needs escaping; looking at each letter of each would take most of the time.
        return _generate(self._registry, ALLOWUTF8)

    def describe(self) -> Sequence[Metric]:
        """Return nothing: nobody else registers here, whose names could clash."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read all there is."""
        yield from self._about()
        yield from self._vcpus()
        yield from self._reaper()
        yield from self._monitors()

    def _about(self) -> Iterator[Metric]:
        machine = self._machine
        accel = machine.accel
        about = {
            "version": VERSION,
            "accelerator": accel.name,
            "dirty_ring_size": str(accel.dirty_ring_size),
            "reaper": accel.engine.reaper().mode,
        }
        yield InfoMetricFamily("qmpserver_build", "The program, and how it was started", about)
        yield StateSetMetricFamily(
            "qmpserver_run_state",
            "The machine's state, as query-status tells it",
            {state: state == machine.state for state in get_args(RunState)},
        )
        yield GaugeMetricFamily(
            "qmpserver_dirty_tracking",
            "Whether dirty pages are logged: only then dirty rates are known",
            accel.engine.tracking,
        )
        yield CounterMetricFamily(
            "qmpserver_dirty_ring_reset_shortfalls",
            "Resets of dirty rings that freed fewer entries than were harvested",
            accel.engine.reset_shortfalls,
        )
        yield CounterMetricFamily(
            "qmpserver_dirty_ring_overflows",
            "How often a dirty ring was overrun, so that all memory counted as dirty",
            accel.engine.overflows,
        )

    def _vcpus(self) -> Iterator[Metric]:
        engine = self._machine.accel.engine
        rates = self._machine.tracking.rates
        rate = _gauge("dirty_rate", "Memory dirtied in the last second, while pages are tracked")
        if rates.is_known:
            for labels, value in zip(self._labels, rates.bytes_per_second(), strict=True):
                rate.add_metric(labels, value)
        yield rate
        limit = _gauge("dirty_limit", "The limit of the dirty rate, where there is one")
        throttled = _counter("throttled", "Time that the dirty limit held the vCPU", "seconds")
        full = _counter("dirty_ring_full_exits", "Exits because the vCPU's dirty ring was full")
        harvested = _counter("harvested_pages", "Entries taken from the vCPU's dirty ring")
        for index, labels in enumerate(self._labels):
            vcpu = engine.vcpu(index)
            if vcpu.limit:
                limit.add_metric(labels, vcpu.limit * MB)
            throttled.add_metric(labels, vcpu.throttle_time / NS)
            full.add_metric(labels, vcpu.full_exits)
            harvested.add_metric(labels, vcpu.harvested)
        yield from (limit, throttled, full, harvested)

    def _reaper(self) -> Iterator[Metric]:
        reaper = self._machine.accel.engine.reaper()
        for name, text, value in (
            ("turns", "How often the dirty rings were harvested and reset in a turn", reaper.turns),
            ("fallback_turns", "Turns that no kick asked for", reaper.fallback_turns),
            ("kicks", "How often the reaper was asked to wake", reaper.kicks),
            ("coalesced_kicks", "Kicks that met one on its way", reaper.coalesced_kicks),
            ("wakes", "How often it woke because of a kick", reaper.wakes),
        ):
            yield CounterMetricFamily(f"qmpserver_reaper_{name}", text, value)
        yield HistogramMetricFamily(
            "qmpserver_reaper_kick_to_wake",
            "Time from the first kick that asked for a wake until the wake",
            _buckets(reaper),
            reaper.kick_to_wake_ns / NS,
            unit="seconds",
        )

    def _monitors(self) -> Iterator[Metric]:
        server = self._server
        clients = GaugeMetricFamily(
            "qmpserver_monitor_clients", "Clients that are connected", labels=("mode",)
        )
        clients.add_metric(("control",), server.clients)
        clients.add_metric(("readline",), server.human_clients)
        yield clients
        commands = CounterMetricFamily(
            "qmpserver_commands", "QMP commands executed", labels=("command", "result")
        )
        for command in server.registry.commands:
            if command.succeeded or command.failed:
                commands.add_metric((command.name, "success"), command.succeeded)
                commands.add_metric((command.name, "error"), command.failed)
        yield commands
        yield CounterMetricFamily(
            "qmpserver_commands_not_found",
            "QMP commands that there are not",
            server.registry.not_found,
        )


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(
        f"qmpserver_vcpu_{name}", text, labels=("vcpu",), unit="bytes_per_second"
    )


def _counter(name: str, text: str, unit: str = "") -> CounterMetricFamily:
    return CounterMetricFamily(f"qmpserver_vcpu_{name}", text, labels=("vcpu",), unit=unit)


def _buckets(reaper: ReaperCounters) -> list[tuple[str, float]]:
    """Return how many wakes took at most so long; the first bucket holds all that were quicker."""
    upto = list(accumulate(reaper.kick_to_wake))
    bounds = ((n, ((1 << n) - 1) / NS) for n in range(FIRST_BUCKET, len(upto) - 1))
    named = [(_number(bound), float(upto[n])) for n, bound in bounds]
    return [*named, ("+Inf", float(upto[-1]))]
