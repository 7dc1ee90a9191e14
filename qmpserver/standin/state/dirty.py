"""The dirty limit and the dirty rate of a guest with a constant dirty rate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

RATE = 1000  # MB/s, of a vCPU without a limit


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    limits: dict[int, int] = {}
    cpus = range(state.machine.cpus)

    def which(index: int | None) -> range:
        if index is None:
            return cpus
        if index not in cpus:
            raise CommandError("incorrect cpu index specified")
        return range(index, index + 1)

    def rate(index: int) -> int:
        if not state.running:
            return 0
        limit = limits.get(index, 0)
        return min(RATE, limit) if limit and not state.has_fault("limit-ignored") else RATE

    @registry.command("set-vcpu-dirty-limit")
    def set_vcpu_dirty_limit(dirty_rate: int, cpu_index: int | None = None) -> None:
        for index in which(cpu_index):
            if dirty_rate:
                limits[index] = dirty_rate
            else:
                limits.pop(index, None)

    @registry.command("cancel-vcpu-dirty-limit")
    def cancel_vcpu_dirty_limit(cpu_index: int | None = None) -> None:
        for index in which(cpu_index):
            limits.pop(index, None)

    @registry.command("query-vcpu-dirty-limit")
    def query_vcpu_dirty_limit() -> Any:
        return [
            {"cpu-index": index, "limit-rate": limits[index], "current-rate": rate(index)}
            for index in sorted(limits)
        ]

    measured: dict[str, Any] = {}

    @registry.command("calc-dirty-rate")
    def calc_dirty_rate(
        calc_time: int, mode: str = "page-sampling", calc_time_unit: str = "second", **_: Any
    ) -> None:
        if measured.get("status") == "measuring":
            raise CommandError("the dirty rate is already being measured")
        seconds = calc_time / (1000 if calc_time_unit == "millisecond" else 1)
        measured.clear()
        measured.update(
            {
                "status": "measuring",
                "start-time": int(time.clock_gettime(time.CLOCK_MONOTONIC)),
                "calc-time": calc_time,
                "calc-time-unit": calc_time_unit,
                "sample-pages": 512 if mode == "page-sampling" else 0,
                "mode": mode,
            }
        )
        state.later(seconds, done)

    def done() -> None:
        rates = [rate(index) for index in cpus]
        measured.update({"status": "measured", "dirty-rate": sum(rates)})
        if measured["mode"] == "dirty-ring":
            measured["vcpu-dirty-rate"] = [
                {"id": index, "dirty-rate": one} for index, one in enumerate(rates)
            ]

    @registry.command("query-dirty-rate")
    def query_dirty_rate(**_: Any) -> Any:
        return measured or {"status": "unstarted", "mode": "page-sampling"}
