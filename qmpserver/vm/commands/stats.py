"""Handlers of `schema/stats.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.vm.machine.qom import vcpu_path

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.accel.stats import Stat, StatsSource
    from qmpserver.vm.commands.types import (
        Stats,
        StatsProvider,
        StatsRequest,
        StatsResult,
        StatsSchema,
        StatsSchemaValue,
        StatsTarget,
    )
    from qmpserver.vm.machine.machine import Machine

# QEMU builds all these lists (statistics, histograms, vCPUs) from their ends, so each of them is in
# the reverse of the kernel's order.


def _values(source: StatsSource, names: list[str] | None) -> list[Stats]:
    return [
        {"name": stat.name, "value": value[::-1] if isinstance(value, list) else value}
        for stat, value in zip(reversed(source.stats), reversed(source.read()), strict=True)
        if names is None or stat.name in names
    ]


def _meaning(stat: Stat) -> StatsSchemaValue:
    meaning: StatsSchemaValue = {
        "name": stat.name,
        "type": stat.type,
        "exponent": stat.exponent,
    }
    if stat.unit is not None:
        meaning["unit"] = stat.unit
    if stat.exponent:
        meaning["base"] = stat.base
    if stat.type == "linear-histogram":
        meaning["bucket-size"] = stat.bucket_size
    return meaning


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""
    statistics = machine.accel.statistics

    @registry.command("query-stats")
    def query_stats(
        *,
        target: StatsTarget,
        providers: list[StatsRequest] | None = None,
        vcpus: list[str] | None = None,
    ) -> list[StatsResult]:
        if statistics is None:
            return []
        results: list[StatsResult] = []
        everything: list[StatsRequest] = [{"provider": statistics.provider}]
        for request in everything if providers is None else providers:
            if request["provider"] != statistics.provider:
                continue
            names = request.get("names")
            if target == "vm" and (stats := _values(statistics.machine, names)):
                results.append({"provider": statistics.provider, "stats": stats})
            elif target == "vcpu":
                for index, source in enumerate(statistics.vcpus):
                    path = vcpu_path(index)
                    if vcpus is not None and path not in vcpus:
                        continue
                    if stats := _values(source, names):
                        results.append(
                            {
                                "provider": statistics.provider,
                                "qom-path": path,
                                "stats": stats,
                            }
                        )
        results.reverse()
        return results

    @registry.command("query-stats-schemas")
    def query_stats_schemas(*, provider: StatsProvider | None = None) -> list[StatsSchema]:
        if statistics is None or provider not in (None, statistics.provider):
            return []
        sources: list[tuple[StatsTarget, StatsSource]] = [
            ("vcpu", statistics.vcpus[0]),
            ("vm", statistics.machine),
        ]
        return [
            {
                "provider": statistics.provider,
                "target": target,
                "stats": [_meaning(stat) for stat in reversed(source.stats)],
            }
            for target, source in sources
        ]
