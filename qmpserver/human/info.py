"""The subcommands of `info`: queries, and their results in QEMU's words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.human.migration import MIGRATION_INFO, on_off
from qmpserver.monitor.hmp import HumanCommand, table
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.human.monitor import HumanMonitor


async def _info_accelerators(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-accelerators")
    names = (f"[{one}]" if one == info["enabled"] else one for one in info["present"])
    return " ".join(names) + "\n"


async def _info_cpus(monitor: HumanMonitor) -> str:
    cpus = await monitor.qmp("query-cpus-fast")
    return "".join(
        f"{'*' if cpu['cpu-index'] == monitor.cpu_index else ' '} CPU #{cpu['cpu-index']}:"
        f" thread_id={cpu['thread-id']}{_model(cpu)}\n"
        for cpu in cpus
    )


def _model(cpu: dict[str, Any]) -> str:
    """Return the model of a vCPU, which older releases do not have."""
    return f" model={cpu['qom-type'].removesuffix('-x86_64-cpu')}" if "qom-type" in cpu else ""


async def _info_dirty_rate(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-dirty-rate")
    sampling = info["mode"] == "page-sampling" or monitor.release.always_samples
    rate = f"{info['dirty-rate']} (MB/s)" if "dirty-rate" in info else "(not ready)"
    lines = [
        f"Status: {info['status']}",
        f"Start Time: {info['start-time']} (ms)",
        *([f"Sample Pages: {info['sample-pages']} (per GB)"] if sampling else []),
        f"Period: {info['calc-time']} (sec)",
        f"Mode: {info['mode']}",
        f"Dirty rate: {rate}",
    ]
    lines += [
        f"vcpu[{vcpu['id']}], Dirty rate: {vcpu['dirty-rate']} (MB/s)"
        for vcpu in info.get("vcpu-dirty-rate", [])
    ]
    return "\n".join(lines) + "\n"


async def _info_dirty_ring(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("__org.qmpserver_query-dirty-ring")
    reaper = info["reaper"]
    lines = [
        f"tracking: {on_off(info['tracking'])}, limit in service: {on_off(info['in-service'])}",
        f"reaper: mode {info['mode']}, thread_id={reaper['thread-id']}, {reaper['state']},"
        f" turns {reaper['turns']}, kicks {reaper['kicks']}, wakes {reaper['wakes']}",
    ]
    lines += [
        f"vcpu[{vcpu['cpu-index']}], ring size {vcpu['ring-size']}, waiting {vcpu['waiting']},"
        f" full exits {vcpu['full-exits']}, harvested {vcpu['pages-harvested']} (pages),"
        f" overflows {vcpu['overflows']}, throttled {on_off(vcpu['throttled'])}"
        for vcpu in info["vcpus"]
    ]
    return "\n".join(lines) + "\n"


async def _info_history(monitor: HumanMonitor) -> str:
    return "".join(f"{index}: '{line}'\n" for index, line in enumerate(monitor.history))


async def _info_kvm(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-kvm")
    if not info["present"]:
        return "kvm support: not compiled\n"
    return f"kvm support: {'enabled' if info['enabled'] else 'disabled'}\n"


async def _info_name(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-name")
    return f"{info['name']}\n" if "name" in info else ""


async def _info_status(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-status")
    running, status = info["running"], info["status"]
    detail = "" if running or status == "paused" else f" ({status})"
    return f"VM status: {'running' if running else 'paused'}{detail}\n"


async def _info_trace_events(
    monitor: HumanMonitor, name: str = "*", vcpu: int | None = None
) -> str:
    given = {"vcpu": vcpu} if monitor.release.vcpu_events else {}
    try:
        events = await monitor.qmp("trace-event-get-state", name=name, **given)
    except CommandError as error:
        return f"{error.desc}\n"
    return "".join(f"{one['name']} : state {int(one['state'] == 'enabled')}\n" for one in events)


async def _info_uuid(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-uuid")
    return f"{info['UUID']}\n"


async def _info_vcpu_dirty_limit(monitor: HumanMonitor) -> str:
    limits = await monitor.qmp("query-vcpu-dirty-limit")
    if not limits:
        return "Dirty page limit not enabled!\n"
    return "".join(
        f"vcpu[{limit['cpu-index']}], limit rate {_signed(limit['limit-rate'])} (MB/s),"
        f" current rate {_signed(limit['current-rate'])} (MB/s)\n"
        for limit in limits
    )


def _signed(value: int) -> int:
    """Return an unsigned 64-bit number as QEMU shows it: as a signed one."""
    return value - (1 << 64) if value >> 63 else value


async def _info_version(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-version")
    release = info["qemu"]
    return f"{release['major']}.{release['minor']}.{release['micro']}{info['package']}\n"


INFO = table(
    HumanCommand(
        "accelerators", "", "", "show present and enabled information", _info_accelerators
    ),
    HumanCommand("cpus", "", "", "show infos for each CPU", _info_cpus),
    HumanCommand("dirty_rate", "", "", "show dirty rate information", _info_dirty_rate),
    HumanCommand("dirty_ring", "", "", "show dirty ring and reaper information", _info_dirty_ring),
    HumanCommand("history", "", "", "show the command line history", _info_history),
    HumanCommand("kvm", "", "", "show KVM information", _info_kvm),
    *MIGRATION_INFO,
    HumanCommand("name", "", "", "show the current VM name", _info_name),
    HumanCommand("status", "", "", "show the current VM status (running|paused)", _info_status),
    HumanCommand(
        "trace-events",
        "name:s?,vcpu:i?",
        "[name] [vcpu]",
        "show available trace-events & their state"
        " (name: event name pattern; vcpu: vCPU to query, default is any)",
        _info_trace_events,
    ),
    HumanCommand("uuid", "", "", "show the current VM UUID", _info_uuid),
    HumanCommand(
        "vcpu_dirty_limit",
        "",
        "",
        "show dirty page limit information of all vCPU",
        _info_vcpu_dirty_limit,
    ),
    HumanCommand("version", "", "", "show the version of QEMU", _info_version),
)
