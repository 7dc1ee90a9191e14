"""The subcommands of `info` for the state that only a stand-in has, in QEMU's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from qmpserver.monitor.hmp import HumanCommand
from qmpserver.standin.state.devices import memory, nics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qmpserver.human import HumanMonitor
    from qmpserver.standin.state import State


async def _balloon(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-balloon")
    return f"balloon: actual={info['actual'] >> 20}\n"


async def _block(
    monitor: HumanMonitor, nodes: bool = False, verbose: bool = False, device: str | None = None
) -> str:
    del verbose  # no image is read
    shown: list[str] = []
    for one in [] if nodes else await monitor.qmp("query-block"):
        # An empty line is between two drives, also if the first one is not shown.
        text = _drive(one) if device in (None, one["device"], one.get("qdev")) else ""
        shown.append(f"\n{text}" if shown and text else text)
    if any(shown):
        return "".join(shown)
    if nodes or device is not None:
        for one in await monitor.qmp("query-named-block-nodes"):
            if device in (None, one["node-name"]):
                text = _title(one, one["node-name"]) + _details(one)
                shown.append(f"\n{text}" if any(shown) or device is not None else text)
    return "".join(shown)


def _drive(drive: dict[str, Any]) -> str:
    name, node = drive["device"], drive.get("inserted")
    if node is None:
        text = f"{name or drive.get('qdev', '')}: [not inserted]\n"
    else:
        text = _title(node, f"{name} ({node['node-name']})" if name else node["node-name"])
    if drive.get("qdev"):
        text += f"    Attached to:      {drive['qdev']}\n"
    if drive["removable"]:
        locked = "locked" if drive["locked"] else "not locked"
        tray = "open" if drive.get("tray_open") else "closed"
        text += f"    Removable device: {locked}, tray {tray}\n"
    return text if node is None else text + _details(node)


def _title(node: dict[str, Any], title: str) -> str:
    read_only = ", read-only" if node["ro"] else ""
    return f"{title}: {node['file']} ({node['drv']}{read_only})\n"


def _details(node: dict[str, Any]) -> str:
    text = _cache(node)
    if node["detect_zeroes"] != "off":
        text += f"    Detect zeroes:    {node['detect_zeroes']}\n"
    if "backing_file" in node:
        depth = node["backing_file_depth"]
        text += f"    Backing file:     {node['backing_file']} (chain depth: {depth})\n"
    if "group" in node:
        limits = " ".join(f"{name}={node.get(name, 0)}" for name in _LIMITS)
        text += f"    I/O throttling:   {limits} group={node['group']}\n"
    return text


_LIMITS = (
    "bps", "bps_rd", "bps_wr", "bps_max", "bps_rd_max", "bps_wr_max", "iops", "iops_rd", "iops_wr",
    "iops_max", "iops_rd_max", "iops_wr_max", "iops_size",
)  # fmt: skip


def _cache(node: dict[str, Any]) -> str:
    cache = node["cache"]
    mode = "writeback" if cache["writeback"] else "writethrough"
    more = ", direct" if cache["direct"] else ""
    more += ", ignore flushes" if cache["no-flush"] else ""
    return f"    Cache mode:       {mode}{more}\n"


async def _block_jobs(monitor: HumanMonitor) -> str:
    jobs = await monitor.qmp("query-block-jobs")
    lines = [
        f"Type {job['type']}, device {job['device']}: Completed {job['offset']} of {job['len']}"
        f" bytes, speed limit {job['speed']} bytes/s\n"
        for job in jobs
    ]
    return "".join(lines) or "No active jobs\n"


async def _blockstats(monitor: HumanMonitor) -> str:
    drives = await monitor.qmp("query-blockstats")
    if monitor.release.statistics_in_lines:
        return "".join(_statistics_line(one) for one in drives if one.get("device"))
    return "\n".join(_statistics(one) for one in drives if one.get("device"))


def _statistics_line(drive: dict[str, Any]) -> str:
    stats = {"idle_time_ns": 0, **drive["stats"]}
    return f"{drive['device']}: {' '.join(f'{name}={stats[name]}' for name in _IN_LINE)}\n"


_IN_LINE = (
    "rd_bytes", "wr_bytes", "rd_operations", "wr_operations", "flush_operations",
    "wr_total_time_ns", "rd_total_time_ns", "flush_total_time_ns", "rd_merged", "wr_merged",
    "idle_time_ns",
)  # fmt: skip


def _statistics(drive: dict[str, Any]) -> str:
    stats = drive["stats"]
    idle = f" idle_time_ns={stats.get('idle_time_ns', 0)}"

    def row(name: str, *values: object) -> str:
        size, operations, time, merged = values
        return f"{name:7}{size:>24}{operations:>17}{time:>25}{merged:>11}".rstrip() + "\n"

    return (
        f"{drive['device']}:{idle}\n"
        + row("", "bytes", "operations", "total_time_ns", "merged")
        + "".join(
            row(name, *(stats[f"{key}_{one}"] for one in _COLUMNS))
            for name, key in (("Read:", "rd"), ("Write:", "wr"))
        )
        + row("Flush:", "", stats["flush_operations"], stats["flush_total_time_ns"], "")
    )


_COLUMNS = ("bytes", "operations", "total_time_ns", "merged")


async def _chardev(monitor: HumanMonitor) -> str:
    found = await monitor.qmp("query-chardev")
    return "".join(f"{one['label']}: filename={one['filename']}\n" for one in found)


async def _hotpluggable_cpus(monitor: HumanMonitor) -> str:
    text = "Hotpluggable CPUs:\n"
    for cpu in await monitor.qmp("query-hotpluggable-cpus"):
        text += f'  type: "{cpu["type"]}"\n  vcpus_count: "{cpu["vcpus-count"]}"\n'
        if "qom-path" in cpu:
            text += f'  qom_path: "{cpu["qom-path"]}"\n'
        text += "  CPUInstance Properties:\n"
        text += "".join(
            f'    {name}: "{cpu["props"][name]}"\n' for name in _PLACES if name in cpu["props"]
        )
    return text


_PLACES = (
    "node-id", "drawer-id", "book-id", "socket-id", "die-id", "cluster-id", "module-id", "core-id",
    "thread-id",
)  # fmt: skip


async def _iothreads(monitor: HumanMonitor) -> str:
    return "".join(
        f"{one['id']}:\n  thread_id={one['thread-id']}\n"
        + "".join(f"  {name}={one[name]}\n" for name in _POLLING if name in one)
        for one in await monitor.qmp("query-iothreads")
    )


_POLLING = ("poll-max-ns", "poll-grow", "poll-shrink", "poll-weight", "aio-max-batch")


async def _memdev(monitor: HumanMonitor) -> str:
    def lines(one: dict[str, Any]) -> Iterator[str]:
        yield f"memory backend: {one['id']}"
        yield f"  size:  {one['size']}"
        for name in ("merge", "dump", "prealloc", "share", "reserve"):
            if name in one:
                yield f"  {name}: {'true' if one[name] else 'false'}"
        yield f"  policy: {one['policy']}"
        yield f"  host nodes: {','.join(map(str, one['host-nodes']))}"

    found = await monitor.qmp("query-memdev")
    return "".join(f"{line}\n" for one in found for line in lines(one)) + "\n"


async def _memory_devices(monitor: HumanMonitor) -> str:
    text = ""
    for one in await monitor.qmp("query-memory-devices"):
        data = one["data"]
        text += f'Memory device [{one["type"]}]: "{data["id"]}"\n  addr: 0x{data["addr"]:x}\n'
        for name in ("slot", "node", "size", "memdev"):
            text += f"  {name}: {data[name]}\n"
        for name in ("hotplugged", "hotpluggable"):
            text += f"  {name}: {'true' if data[name] else 'false'}\n"
    return text


async def _memory_size_summary(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-memory-size-summary")
    plugged = f"plugged memory: {info['plugged-memory']}\n" if "plugged-memory" in info else ""
    return f"base memory: {info['base-memory']}\n{plugged}"


class _StateMonitor(Protocol):
    """The monitor of a stand-in, where no query tells the state."""

    state: State


async def _network(monitor: _StateMonitor) -> str:
    state = monitor.state
    found = dict(nics.nics(state))
    attached = {one.get("netdev") for one in found.values()}
    ports = {name: one for name, one in state.netdevs.items() if one["type"] == "hubport"}
    attached |= {one.get("netdev") for one in ports.values()}
    lines = []
    for hub in sorted({one["hubid"] for one in ports.values()}):
        lines.append(f"hub {hub}\n")
        for name, port in reversed(ports.items()):
            if port["hubid"] == hub:
                lines.append(f" \\ {name}{_peer(state, name, port)}")
    found = {name: nic for name, nic in found.items() if nic.get("netdev") not in ports}
    unattached = (name for name in state.netdevs if name not in attached and name not in ports)
    lines += [_netdev(state, name) for name in unattached]
    for name, nic in found.items():
        lines.append(_nic(name, nic))
        if nic.get("netdev") in state.netdevs:
            lines.append(f" \\ {_netdev(state, nic['netdev'])}")
    return "".join(lines)


def _peer(state: State, name: str, port: Mapping[str, Any]) -> str:
    """Return what is shown of the other end of a hub's port."""
    if port.get("netdev") in state.netdevs:
        return f": {_netdev(state, port['netdev'])}"
    shown = (_nic(one, nic) for one, nic in nics.nics(state) if nic.get("netdev") == name)
    nic = next(shown, None)
    return "\n" if nic is None else f": {nic}"


def _nic(name: str, nic: Mapping[str, Any]) -> str:
    return f"{name}: index=0,type=nic,model={nic['driver']},macaddr={nic['mac']}\n"


def _netdev(state: State, name: str) -> str:
    kind = state.netdevs[name]["type"]
    more = ",net=10.0.2.0,restrict=off" if kind == "user" else ""
    return f"{name}: index=0,type={kind}{more}\n"


async def _numa(monitor: _StateMonitor) -> str:
    state = monitor.state
    text = f"{len(state.numa)} nodes\n"
    for number in sorted(map(int, state.numa)):
        cpus = [
            index for index in sorted(state.cpus.paths) if state.cpus.nodes.get(index) == number
        ]
        plugged = memory.plugged(state, number)
        size = state.numa[str(number)]["size"] + plugged
        text += (
            f"node {number} cpus:{''.join(f' {index}' for index in cpus)}\n"
            f"node {number} size: {size >> 20} MB\n"
            f"node {number} plugged: {plugged >> 20} MB\n"
        )
    return text


async def _pci(monitor: HumanMonitor) -> str:
    buses = await monitor.qmp("query-pci")
    return "".join(_function(one) for bus in buses for one in bus["devices"])


def _function(one: dict[str, Any]) -> str:
    """Return what is shown of a PCI function, and of those behind it."""
    kind, numbers = one["class_info"], one["id"]
    lines = [
        f"  Bus {one['bus']:2}, device {one['slot']:3}, function {one['function']}:",
        f"    {kind.get('desc') or 'Class {:04}'.format(kind['class'])}:"
        f" PCI device {numbers['vendor']:04x}:{numbers['device']:04x}",
    ]
    if "subsystem" in numbers:
        words = f"{numbers['subsystem-vendor']:04x}:{numbers['subsystem']:04x}"
        lines.append(f"      PCI subsystem {words}")
    if "irq" in one:
        lines.append(f"      IRQ {one['irq']}, pin {chr(ord('A') + one['irq_pin'] - 1)}")
    bridge = one.get("pci_bridge")
    if bridge is not None:
        bus = bridge["bus"]
        lines += [f"      BUS {bus['number']}.", f"      secondary bus {bus['secondary']}."]
        lines.append(f"      subordinate bus {bus['subordinate']}.")
        for name, digits in _RANGES.items():
            base, limit = (f"0x{bus[name][end]:0{digits}x}" for end in ("base", "limit"))
            words = name.replace("_", " ").replace("io", "IO").replace("able r", "able memory r")
            lines.append(f"      {words} [{base}, {limit}]")
    lines += [f"      BAR{one['bar']}: {_region(one)} (not mapped)" for one in one["regions"]]
    lines.append(f'      id "{one["qdev_id"]}"')
    behind = [] if bridge is None else bridge.get("devices", [])
    return "".join(f"{line}\n" for line in lines) + "".join(map(_function, behind))


_RANGES = {"io_range": 4, "memory_range": 8, "prefetchable_range": 8}


def _region(region: dict[str, Any]) -> str:
    if region["type"] == "io":
        return "I/O"
    bits = 64 if region["mem_type_64"] else 32
    return f"{bits} bit {'prefetchable ' if region['prefetch'] else ''}memory"


INFO = (
    HumanCommand("balloon", "", "", "show balloon information", _balloon),
    HumanCommand(
        "block",
        "nodes:-n,verbose:-v,device:s?",
        "[-n] [-v] [device]",
        "show info of one block device or all block devices"
        " (-n: show named nodes; -v: show details)",
        _block,
    ),
    HumanCommand(
        "block-jobs", "", "", "show progress of ongoing block device operations", _block_jobs
    ),
    HumanCommand("blockstats", "", "", "show block device statistics", _blockstats),
    HumanCommand("chardev", "", "", "show the character devices", _chardev),
    HumanCommand(
        "hotpluggable-cpus",
        "",
        "",
        "Show information about hotpluggable CPUs",
        _hotpluggable_cpus,
    ),
    HumanCommand("iothreads", "", "", "show iothreads", _iothreads),
    HumanCommand("memdev", "", "", "show memory backends", _memdev),
    HumanCommand("memory-devices", "", "", "show memory devices", _memory_devices),
    HumanCommand(
        "memory_size_summary",
        "",
        "",
        "show the amount of initially allocated and present hotpluggable (if enabled) memory in"
        " bytes.",
        _memory_size_summary,
    ),
    HumanCommand("network", "", "", "show the network state", _network),
    HumanCommand("numa", "", "", "show NUMA information", _numa),
    HumanCommand("pci", "", "", "show PCI info", _pci),
)
