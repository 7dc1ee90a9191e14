"""Handlers of `schema/qmpserver.json`: the commands that QEMU does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.accel.engine import Engine
    from qmpserver.vm.commands.types import DirtyRing, Reaper, VcpuDirtyRing
    from qmpserver.vm.machine.machine import Machine


def _reaper(engine: Engine) -> Reaper:
    reaper = engine.reaper()
    return {
        "thread-id": reaper.thread_id,
        "state": "reaping" if reaper.reaping else "idle",
        "turns": reaper.turns,
        "kicks": reaper.kicks,
        "wakes": reaper.wakes,
        "coalesced-kicks": reaper.coalesced_kicks,
        "fallback-turns": reaper.fallback_turns,
        "last-kick-time": reaper.last_kick,
        "last-wake-time": reaper.last_wake,
        "last-idle-wake-time": reaper.last_idle_wake,
        "last-cancel-time": engine.last_cancel,
        "kick-to-wake": reaper.kick_to_wake,
        "cancel-to-wake": reaper.cancel_to_wake,
    }


def _vcpu(engine: Engine, index: int) -> VcpuDirtyRing:
    vcpu = engine.vcpu(index)
    return {
        "cpu-index": index,
        "ring-size": vcpu.ring_size,
        "waiting": vcpu.waiting,
        "full-exits": vcpu.full_exits,
        "pages-harvested": vcpu.harvested,
        "overflows": vcpu.overflows,
        "throttle-time": vcpu.throttle_time,
        "longest-pause": vcpu.longest_pause,
        "last-resume-time": vcpu.last_resume,
        "throttled": vcpu.throttled,
    }


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""
    engine = machine.accel.engine

    @registry.command("__org.qmpserver_query-dirty-ring")
    def query_dirty_ring() -> DirtyRing:
        vcpus = [_vcpu(engine, index) for index in range(engine.vcpus)]
        rates = machine.tracking.current_rates()
        if rates is not None:
            for vcpu, rate in zip(vcpus, rates, strict=True):
                vcpu["current-rate"] = rate
        return {
            "mode": engine.reaper().mode,
            "tracking": engine.tracking,
            "in-service": engine.limit_in_service,
            "reaper": _reaper(engine),
            "resets": engine.resets,
            "reset-shortfalls": engine.reset_shortfalls,
            "vcpus": vcpus,
        }
