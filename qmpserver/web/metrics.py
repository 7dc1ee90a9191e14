"""`/metrics`: the machine's counters, in OpenMetrics.

A scrape only reads counters. It starts no measurement and enables nothing, so dirty rates are
missing while dirty pages are not tracked.

To add a metric, yield it in `_about`, `_vcpus`, `_reaper` or `_monitors`, and add it to the table
in `README.md`.
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
from qmpserver.migration.status import STATUSES
from qmpserver.vm.machine.runstate import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client.core import Metric

    from qmpserver.monitor import Server
    from qmpserver.vm.accel.engine import ReaperCounters
    from qmpserver.vm.machine.machine import Machine

MB = 1 << 20
NS = 1e9  # in a second
FIRST_BUCKET = 10  # the first exported bucket: up to 1023 ns

# These functions have no type annotations.
_generate: Callable[[CollectorRegistry, str], bytes] = generate_latest
_number: Callable[[float], str] = floatToGoString


class Metrics:
    """A collector of the metrics of `machine` and its `server`."""

    def __init__(self, server: Server, machine: Machine) -> None:
        self._server = server
        self._machine = machine
        self._labels = [(str(index),) for index in range(machine.accel.engine.vcpus)]
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def add_routes(self, app: web.Application) -> None:
        """Serve `/metrics`."""
        app.router.add_get("/metrics", self._scrape)

    async def _scrape(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def text(self) -> bytes:
        """Return the body of a scrape."""
        # No name needs escaping; checking each character would take most of the time.
        return _generate(self._registry, ALLOWUTF8)

    def describe(self) -> Sequence[Metric]:
        """Return nothing: no other collector uses this registry, so names cannot clash."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield from self._about()
        yield from self._vcpus()
        yield from self._reaper()
        yield from self._migration()
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
            "The run state, as in query-status",
            {state: state == machine.state for state in get_args(RunState)},
        )
        yield GaugeMetricFamily(
            "qmpserver_dirty_tracking",
            "Whether dirty pages are logged; dirty rates are known only then",
            accel.engine.tracking,
        )
        yield CounterMetricFamily(
            "qmpserver_dirty_ring_resets",
            "Resets of all dirty rings",
            accel.engine.resets,
        )
        yield CounterMetricFamily(
            "qmpserver_dirty_ring_reset_shortfalls",
            "Resets of dirty rings that freed fewer entries than were harvested",
            accel.engine.reset_shortfalls,
        )
        yield CounterMetricFamily(
            "qmpserver_dirty_ring_overflows",
            "Overflows of a dirty ring, after each of which all memory counted as dirty",
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
        limit = _gauge("dirty_limit", "The limit of the dirty rate, if there is one")
        throttled = _counter(
            "throttled", "Time for which the dirty limit paused the vCPU", "seconds"
        )
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
            (
                "turns",
                "Turns, in each of which the dirty rings are harvested and reset",
                reaper.turns,
            ),
            ("fallback_turns", "Turns that no kick caused", reaper.fallback_turns),
            ("kicks", "Requests to the reaper to wake", reaper.kicks),
            ("coalesced_kicks", "Kicks while another was pending", reaper.coalesced_kicks),
            ("wakes", "Wakes that a kick caused", reaper.wakes),
        ):
            yield CounterMetricFamily(f"qmpserver_reaper_{name}", text, value)
        yield HistogramMetricFamily(
            "qmpserver_reaper_kick_to_wake",
            "Time from the first kick to the wake that it causes",
            _buckets(reaper),
            reaper.kick_to_wake_ns / NS,
            unit="seconds",
        )

    def _migration(self) -> Iterator[Metric]:
        info = self._machine.migration.info()
        if not info:
            return
        yield StateSetMetricFamily(
            "qmpserver_migration_status",
            "The status of the last migration, as in query-migrate",
            {status: status == info["status"] for status in STATUSES},
        )
        ram = info.get("ram")
        if ram is None:
            return
        dirtied = ram["dirty-pages-rate"] * ram["page-size"]
        for name, text, value in (
            ("remaining_bytes", "Memory still to be sent", ram["remaining"]),
            ("transferred_bytes", "Bytes sent by the last migration", ram["transferred"]),
            ("dirtied_bytes_per_second", "Memory dirtied in its last round", dirtied),
            ("rounds", "Passes over the dirty memory", ram["dirty-sync-count"]),
        ):
            yield GaugeMetricFamily(f"qmpserver_migration_{name}", text, value)

    def _monitors(self) -> Iterator[Metric]:
        server = self._server
        clients = GaugeMetricFamily(
            "qmpserver_monitor_clients", "Connected clients", labels=("mode",)
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
            "Requests for commands that do not exist",
            server.registry.not_found,
        )


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(
        f"qmpserver_vcpu_{name}", text, labels=("vcpu",), unit="bytes_per_second"
    )


def _counter(name: str, text: str, unit: str = "") -> CounterMetricFamily:
    return CounterMetricFamily(f"qmpserver_vcpu_{name}", text, labels=("vcpu",), unit=unit)


def _buckets(reaper: ReaperCounters) -> list[tuple[str, float]]:
    """Return cumulative counts by upper bound in seconds; the first includes all shorter times."""
    upto = list(accumulate(reaper.kick_to_wake))
    bounds = ((n, ((1 << n) - 1) / NS) for n in range(FIRST_BUCKET, len(upto) - 1))
    named = [(_number(bound), float(upto[n])) for n, bound in bounds]
    return [*named, ("+Inf", float(upto[-1]))]
