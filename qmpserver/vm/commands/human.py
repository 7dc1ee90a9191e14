"""The human monitor's commands: their table, and QMP's results in QEMU's words for people."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from qmpserver.monitor.hmp import HumanCommand, LineError, complete, help_text, parse, table
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qmpserver.monitor import Registry
    from qmpserver.vm.commands import types

_LIMIT_SET = "[Please use 'info vcpu_dirty_limit' to query dirty limit for virtual CPU]\n"
_ALL_CPUS = -1


class HumanMonitor:
    """One human monitor: executes lines by way of the QMP commands of *registry*.

    Use from the event loop's thread only.

    Attributes:
        cpu_index: the vCPU that commands are about which do not name one.
        history: the lines entered before, where somebody keeps them.

    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.cpu_index = 0
        self.history: Sequence[str] = ()

    async def execute(self, line: str, history: Sequence[str] = ()) -> str | None:
        """Execute one line and return what to show; None where no prompt is to follow."""
        self.history = history
        try:
            parsed = parse(COMMANDS, line)
            if parsed is None:
                return ""
            command, arguments = parsed
            return await command.run(self, **arguments)
        except LineError as error:
            return str(error)
        except CommandError as error:
            return f"Error: {error.desc}\n"

    def complete(self, line: str) -> tuple[str, list[str]]:
        """Return the last word of *line*, and what it could become."""
        return complete(COMMANDS, line)

    async def qmp(self, name: str, /, **arguments: object) -> Any:
        """Execute a QMP command; arguments that are None are left out.

        Raises:
            CommandError: It failed.

        """
        given = {key.replace("_", "-"): one for key, one in arguments.items() if one is not None}
        bound = self._registry.find(name)
        result = self._registry.call(bound, given, None)
        return await result if inspect.isawaitable(result) else result

    async def select_cpu(self, index: int) -> bool:
        """Make vCPU *index* the one that commands are about; False where there is none."""
        cpus: list[types.CpuInfoFast] = await self.qmp("query-cpus-fast")
        exists = any(cpu["cpu-index"] == index for cpu in cpus)
        if exists:
            self.cpu_index = index
        return exists


def _silent(name: str) -> Callable[[HumanMonitor], Awaitable[str]]:
    """Return what executes a QMP command that has nothing to tell."""

    async def run(monitor: HumanMonitor) -> str:
        await monitor.qmp(name)
        return ""

    return run


async def _help(monitor: HumanMonitor, name: str = "") -> str:
    return help_text(COMMANDS, name)


async def _info(monitor: HumanMonitor) -> str:
    return help_text(COMMANDS, "info")


async def _quit(monitor: HumanMonitor) -> None:
    await monitor.qmp("quit")


async def _cpu(monitor: HumanMonitor, index: int) -> str:
    return "" if await monitor.select_cpu(index) else "invalid CPU index\n"


async def _set_vcpu_dirty_limit(
    monitor: HumanMonitor, dirty_rate: int, cpu_index: int = _ALL_CPUS
) -> str:
    cpu = None if cpu_index == _ALL_CPUS else cpu_index
    await monitor.qmp("set-vcpu-dirty-limit", dirty_rate=dirty_rate, cpu_index=cpu)
    return _LIMIT_SET


async def _cancel_vcpu_dirty_limit(monitor: HumanMonitor, cpu_index: int = _ALL_CPUS) -> str:
    cpu = None if cpu_index == _ALL_CPUS else cpu_index
    await monitor.qmp("cancel-vcpu-dirty-limit", cpu_index=cpu)
    return _LIMIT_SET


async def _calc_dirty_rate(
    monitor: HumanMonitor,
    second: int,
    sample_pages_per_GB: int = -1,  # noqa: N803 - QEMU's name
    dirty_ring: bool = False,
    dirty_bitmap: bool = False,
) -> str:
    if second == 0:
        return "Incorrect period length specified!\n"
    if dirty_ring and dirty_bitmap:
        return "Either dirty ring or dirty bitmap can be specified!\n"
    await monitor.qmp(
        "calc-dirty-rate",
        calc_time=second,
        sample_pages=None if sample_pages_per_GB == -1 else sample_pages_per_GB,
        mode="dirty-bitmap" if dirty_bitmap else "dirty-ring" if dirty_ring else "page-sampling",
    )
    return (
        f"Starting dirty rate measurement with period {second} seconds\n"
        "[Please use 'info dirty_rate' to check results]\n"
    )


async def _info_accelerators(monitor: HumanMonitor) -> str:
    info: types.AcceleratorInfo = await monitor.qmp("query-accelerators")
    names = (f"[{one}]" if one == info["enabled"] else one for one in info["present"])
    return " ".join(names) + "\n"


async def _info_cpus(monitor: HumanMonitor) -> str:
    cpus: list[types.CpuInfoFast] = await monitor.qmp("query-cpus-fast")
    return "".join(
        f"{'*' if cpu['cpu-index'] == monitor.cpu_index else ' '} CPU #{cpu['cpu-index']}:"
        f" thread_id={cpu['thread-id']}\n"
        for cpu in cpus
    )


async def _info_dirty_rate(monitor: HumanMonitor) -> str:
    info: types.DirtyRateInfo = await monitor.qmp("query-dirty-rate")
    rate = f"{info['dirty-rate']} (MB/s)" if "dirty-rate" in info else "(not ready)"
    lines = [
        f"Status: {info['status']}",
        f"Start Time: {info['start-time']} (ms)",
        f"Sample Pages: {info['sample-pages']} (per GB)",
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
    info: types.DirtyRing = await monitor.qmp("__org.qmpserver_query-dirty-ring")
    reaper = info["reaper"]
    lines = [
        f"tracking: {_on(info['tracking'])}, limit in service: {_on(info['in-service'])}",
        f"reaper: mode {info['mode']}, thread_id={reaper['thread-id']}, {reaper['state']},"
        f" turns {reaper['turns']}, kicks {reaper['kicks']}, wakes {reaper['wakes']}",
    ]
    lines += [
        f"vcpu[{vcpu['cpu-index']}], ring size {vcpu['ring-size']}, waiting {vcpu['waiting']},"
        f" full exits {vcpu['full-exits']}, harvested {vcpu['pages-harvested']} (pages),"
        f" overflows {vcpu['overflows']}, throttled {_on(vcpu['throttled'])}"
        for vcpu in info["vcpus"]
    ]
    return "\n".join(lines) + "\n"


def _on(flag: bool) -> str:
    return "on" if flag else "off"


async def _info_history(monitor: HumanMonitor) -> str:
    return "".join(f"{index}: '{line}'\n" for index, line in enumerate(monitor.history))


async def _info_kvm(monitor: HumanMonitor) -> str:
    info: types.KvmInfo = await monitor.qmp("query-kvm")
    if not info["present"]:
        return "kvm support: not compiled\n"
    return f"kvm support: {'enabled' if info['enabled'] else 'disabled'}\n"


async def _info_name(monitor: HumanMonitor) -> str:
    info: types.NameInfo = await monitor.qmp("query-name")
    return f"{info['name']}\n" if "name" in info else ""


async def _info_status(monitor: HumanMonitor) -> str:
    info: types.StatusInfo = await monitor.qmp("query-status")
    running, status = info["running"], info["status"]
    detail = "" if running or status == "paused" else f" ({status})"
    return f"VM status: {'running' if running else 'paused'}{detail}\n"


async def _trace_event(monitor: HumanMonitor, name: str, option: bool) -> str:
    try:
        await monitor.qmp("trace-event-set-state", name=name, enable=option)
    except CommandError as error:
        return f"{error.desc}\n"  # QEMU puts no "Error:" before these
    return ""


async def _info_trace_events(monitor: HumanMonitor, name: str = "*") -> str:
    try:
        events: list[types.TraceEventInfo]
        events = await monitor.qmp("trace-event-get-state", name=name)
    except CommandError as error:
        return f"{error.desc}\n"
    return "".join(f"{one['name']} : state {int(one['state'] == 'enabled')}\n" for one in events)


async def _info_uuid(monitor: HumanMonitor) -> str:
    info: types.UuidInfo = await monitor.qmp("query-uuid")
    return f"{info['UUID']}\n"


async def _info_vcpu_dirty_limit(monitor: HumanMonitor) -> str:
    limits: list[types.DirtyLimitInfo] = await monitor.qmp("query-vcpu-dirty-limit")
    if not limits:
        return "Dirty page limit not enabled!\n"
    return "".join(
        f"vcpu[{limit['cpu-index']}], limit rate {_signed(limit['limit-rate'])} (MB/s),"
        f" current rate {_signed(limit['current-rate'])} (MB/s)\n"
        for limit in limits
    )


def _signed(value: int) -> int:
    """Return an unsigned 64-bit number as QEMU shows it."""
    return value - (1 << 64) if value >> 63 else value


async def _info_version(monitor: HumanMonitor) -> str:
    info: types.VersionInfo = await monitor.qmp("query-version")
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
    HumanCommand("name", "", "", "show the current VM name", _info_name),
    HumanCommand("status", "", "", "show the current VM status (running|paused)", _info_status),
    HumanCommand(
        "trace-events",
        "name:s?",
        "[name]",
        "show available trace-events & their state (name: event name pattern)",
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

COMMANDS = table(
    HumanCommand(
        "calc_dirty_rate",
        "dirty_ring:-r,dirty_bitmap:-b,second:l,sample_pages_per_GB:l?",
        "[-r] [-b] second [sample_pages_per_GB]",
        "start a round of guest dirty rate measurement (using -r to"
        "\n\t\t\t specify dirty ring as the method of calculation and"
        "\n\t\t\t -b to specify dirty bitmap as method of calculation)",
        _calc_dirty_rate,
    ),
    HumanCommand(
        "cancel_vcpu_dirty_limit",
        "cpu_index:l?",
        "[cpu_index]",
        "cancel dirty page rate limit, use cpu_index to cancel"
        "\n\t\t\t\t\t limit on a specified virtual cpu",
        _cancel_vcpu_dirty_limit,
    ),
    HumanCommand("cont|c", "", "", "resume emulation", _silent("cont")),
    HumanCommand("cpu", "index:i", "index", "set the default CPU", _cpu),
    HumanCommand("help|?", "name:S?", "[cmd]", "show the help", _help),
    HumanCommand(
        "info",
        "",
        "[subcommand]",
        "show various information about the system state",
        _info,
        INFO,
    ),
    HumanCommand("quit|q", "", "", "quit the emulator", _quit),
    HumanCommand(
        "set_vcpu_dirty_limit",
        "dirty_rate:l,cpu_index:l?",
        "dirty_rate [cpu_index]",
        "set dirty page rate limit, use cpu_index to set limit"
        "\n\t\t\t\t\t on a specified virtual cpu",
        _set_vcpu_dirty_limit,
    ),
    HumanCommand("stop|s", "", "", "stop emulation", _silent("stop")),
    HumanCommand(
        "system_powerdown",
        "",
        "",
        "send system power down event",
        _silent("system_powerdown"),
    ),
    HumanCommand("system_reset", "", "", "reset the system", _silent("system_reset")),
    HumanCommand(
        "trace-event",
        "name:s,option:b",
        "name on|off",
        "changes status of a specific trace event",
        _trace_event,
    ),
)
