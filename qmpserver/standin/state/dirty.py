"""The dirty limit and the dirty rate of a guest with a constant dirty rate.

A stand-in on KVM always has a dirty ring; one on TCG has none, and no limit.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

RATE = 1000  # MB/s, of a vCPU without a limit
# The bounds of `calc-dirty-rate`.
MIN_CALC_MS, MAX_CALC_MS = 50, 60_000
MIN_SAMPLE_PAGES, MAX_SAMPLE_PAGES = 128, 16384
DEFAULT_SAMPLE_PAGES = 512
_NO_RING = "dirty page limit feature requires KVM with accelerator property 'dirty-ring-size' set'"


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    limits: dict[int, int] = {}
    has_ring = state.machine.accel == "kvm"

    def which(index: int | None) -> list[int]:
        cpus = sorted(state.cpus.paths)
        if index is None:
            return cpus
        if index not in cpus:
            raise CommandError("incorrect cpu index specified")
        return [index]

    def rate(index: int) -> int:
        if not state.running:
            return 0
        limit = limits.get(index, 0)
        return min(RATE, limit) if limit and not state.has_fault("limit-ignored") else RATE

    @registry.command("set-vcpu-dirty-limit")
    def set_vcpu_dirty_limit(dirty_rate: int, cpu_index: int | None = None) -> None:
        if not has_ring:
            raise CommandError(_NO_RING)
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
        calc_time: int,
        sample_pages: int | None = None,
        mode: str = "page-sampling",
        calc_time_unit: str = "second",
    ) -> None:
        if measured.get("status") == "measuring":
            raise CommandError("the dirty rate is already being measured.")
        milliseconds = calc_time * (1000 if calc_time_unit == "second" else 1)
        if not MIN_CALC_MS <= milliseconds <= MAX_CALC_MS:
            bounds = f"[{MIN_CALC_MS}ms, {MAX_CALC_MS}ms]"
            raise CommandError(f"Calculation time is out of range {bounds}.")
        if sample_pages is not None and mode != "page-sampling":
            raise CommandError("sample-pages is used only in page-sampling mode")
        if sample_pages is not None and not MIN_SAMPLE_PAGES <= sample_pages <= MAX_SAMPLE_PAGES:
            bounds = f"[{MIN_SAMPLE_PAGES}, {MAX_SAMPLE_PAGES}]"
            raise CommandError(f"sample-pages is out of range{bounds}.")
        if mode == ("dirty-bitmap" if has_ring else "dirty-ring"):
            raise CommandError(f"mode {mode} is not enabled, use other method instead.")
        measured.clear()
        measured.update(
            {
                "status": "measuring",
                "start-time": int(time.time()),
                "calc-time": milliseconds,
                "sample-pages": DEFAULT_SAMPLE_PAGES if sample_pages is None else sample_pages,
                "mode": mode,
            }
        )
        state.later(milliseconds / 1000, done)

    def done() -> None:
        rates = [rate(index) for index in sorted(state.cpus.paths)]
        measured.update({"status": "measured", "dirty-rate": sum(rates)})
        if measured["mode"] != "page-sampling":
            measured["sample-pages"] = 0
        if measured["mode"] == "dirty-ring":
            measured["vcpu-dirty-rate"] = [
                {"id": index, "dirty-rate": one} for index, one in enumerate(rates)
            ]

    @registry.command("query-dirty-rate")
    def query_dirty_rate(calc_time_unit: str = "second") -> Any:
        last = {"status": "unstarted", "start-time": 0, "calc-time": 0, "sample-pages": 0,
                "mode": "page-sampling", **measured}  # fmt: skip
        if calc_time_unit == "second":
            last["calc-time"] //= 1000
        return {**last, "calc-time-unit": calc_time_unit}
