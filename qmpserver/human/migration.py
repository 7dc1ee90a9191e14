"""The human monitor's commands about migrations: `migrate...`, and `info migrate...`."""

from __future__ import annotations

import asyncio
import re
import shlex
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_bool, parse_number, parse_size
from qmpserver.migration.capabilities import CAPABILITIES
from qmpserver.migration.status import STATUSES
from qmpserver.monitor.hmp import HumanCommand
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from qmpserver.human.monitor import HumanMonitor

_WAIT = 0.1  # seconds between two looks at a migration that a terminal waits for


async def _migrate(
    monitor: HumanMonitor,
    uri: str,
    detach: bool = False,
    resume: bool = False,
    **_disks: bool,  # of older releases: no disk is here to copy
) -> str:
    await monitor.qmp("migrate", uri=uri, resume=resume)
    while monitor.terminal and not detach:
        info = await monitor.qmp("query-migrate")
        if info.get("status") not in ("setup", "active"):
            break
        await asyncio.sleep(_WAIT)
    return ""


async def _cancel(monitor: HumanMonitor) -> str:
    await monitor.qmp("migrate_cancel")
    return ""


async def _continue(monitor: HumanMonitor, state: str) -> str:
    _check_name(state, STATUSES)
    await monitor.qmp("migrate-continue", state=state)
    return ""


async def _incoming(monitor: HumanMonitor, uri: str) -> str:
    await monitor.qmp("migrate-incoming", uri=uri)
    return ""


async def _set_capability(monitor: HumanMonitor, capability: str, state: bool) -> str:
    _check_name(capability, CAPABILITIES)
    changes = [{"capability": capability, "state": state}]
    await monitor.qmp("migrate-set-capabilities", capabilities=changes)
    return ""


async def _set_parameter(monitor: HumanMonitor, parameter: str, value: str) -> str:
    if parameter == _MAPPING:
        raise CommandError(f"The {_MAPPING} parameter can only be set through QMP")
    _check_name(parameter, _PARSERS)
    try:
        parsed = _PARSERS[parameter](parameter, value)
    except OptionError as error:
        raise CommandError("\n".join(filter(None, (str(error), error.hint)))) from None
    await monitor.qmp("migrate-set-parameters", **{parameter: parsed})
    return ""


def _check_name(name: str, names: Collection[str]) -> None:
    if name not in names:
        raise CommandError(f"invalid parameter value: {name}")


def _text(_name: str, value: str) -> str:
    return value


def _integer(name: str, value: str) -> int:
    try:
        return parse_number(name, value)
    except OptionError:
        raise OptionError(f"Parameter '{name}' expects uint64") from None


def _bytes(name: str, value: str) -> int:
    if re.fullmatch(r"\s*-[0-9]+", value):
        raise OptionError(f"Value '{value}' is out of range for parameter '{name}'")
    return parse_size(name, value)


def _megabytes(name: str, value: str) -> int:
    try:
        return parse_size(name, value, "M")
    except OptionError:
        raise OptionError(f"Invalid size {value}") from None


def _words(_name: str, value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:
        quote = "'" if value.count('"') % 2 == 0 else '"'
        raise OptionError(
            f"Text ended before matching quote was found for {quote}."
            f" (The text was \N{LEFT DOUBLE QUOTATION MARK}{value}\N{RIGHT DOUBLE QUOTATION MARK})"
        ) from None


_MAPPING = "block-bitmap-mapping"
_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "announce-initial": _bytes,
    "announce-max": _bytes,
    "announce-rounds": _bytes,
    "announce-step": _bytes,
    "throttle-trigger-threshold": _integer,
    "cpu-throttle-initial": _integer,
    "cpu-throttle-increment": _integer,
    "cpu-throttle-tailslow": parse_bool,
    "tls-creds": _text,
    "tls-hostname": _text,
    "tls-authz": _text,
    "max-bandwidth": _megabytes,
    "avail-switchover-bandwidth": _megabytes,
    "downtime-limit": _bytes,
    "x-checkpoint-delay": _integer,
    "multifd-channels": _integer,
    "xbzrle-cache-size": _bytes,
    "max-postcopy-bandwidth": _bytes,
    "max-cpu-throttle": _integer,
    "multifd-compression": _text,
    "multifd-zlib-level": _integer,
    "multifd-qatzip-level": _integer,
    "multifd-zstd-level": _integer,
    "x-vcpu-dirty-limit-period": _bytes,
    "vcpu-dirty-limit": _bytes,
    "mode": _text,
    "zero-page-detection": _text,
    "direct-io": parse_bool,
    "x-rdma-chunk-size": _bytes,
    "cpr-exec-command": _words,
}
"""The syntax of each parameter's value."""


async def _info(monitor: HumanMonitor, all: bool = False) -> str:  # noqa: A002 - QEMU's name
    info = await monitor.qmp("query-migrate")
    return shown(info, all)


async def _info_capabilities(monitor: HumanMonitor) -> str:
    states = await monitor.qmp("query-migrate-capabilities")
    return "".join(f"{one['capability']}: {on_off(one['state'])}\n" for one in states)


async def _info_parameters(monitor: HumanMonitor) -> str:
    values: dict[str, Any] = await monitor.qmp("query-migrate-parameters")
    shown = _SHOWN_BEFORE if monitor.release.authz_after_cache else _SHOWN
    return "".join(_parameter(name, unit, values) for name, unit in shown.items() if name in values)


def _parameter(name: str, unit: str, values: dict[str, Any]) -> str:
    if name == _MAPPING:
        return _mapping(values[name])
    value = values[name]
    if isinstance(value, bool):
        value = on_off(value)
    elif isinstance(value, list):
        return f"{name}:{''.join(f' {word}' for word in value)}\n"
    return f"{name}: {unit.format(value) if unit else value}\n"


def _mapping(nodes: list[dict[str, Any]]) -> str:
    lines = [f"{_MAPPING}:"]
    for node in nodes:
        lines.append(f"  '{node['node-name']}' -> '{node['alias']}'")
        lines += [f"    '{one['name']}' -> '{one['alias']}'" for one in node["bitmaps"]]
    return "\n".join(lines) + "\n"


_SHOWN = {
    "announce-initial": "{} ms",
    "announce-max": "{} ms",
    "announce-rounds": "",
    "announce-step": "{} ms",
    "throttle-trigger-threshold": "",
    "cpu-throttle-initial": "",
    "cpu-throttle-increment": "",
    "cpu-throttle-tailslow": "",
    "max-cpu-throttle": "",
    "tls-creds": "'{}'",
    "tls-hostname": "'{}'",
    "tls-authz": "'{}'",
    "max-bandwidth": "{} bytes/second",
    "avail-switchover-bandwidth": "{} bytes/second",
    "max-postcopy-bandwidth": "{} bytes/second",
    "downtime-limit": "{} ms",
    "x-checkpoint-delay": "{} ms",
    "multifd-channels": "",
    "multifd-compression": "",
    "zero-page-detection": "",
    "xbzrle-cache-size": "{} bytes",
    _MAPPING: "",
    "x-vcpu-dirty-limit-period": "{} ms",
    "vcpu-dirty-limit": "{} MB/s",
    "mode": "",
    "direct-io": "",
    "x-rdma-chunk-size": "{} bytes",
    "cpr-exec-command": "",
}
"""The parameters that `info migrate_parameters` shows, in its order, with their units."""

_COMPRESSION = ("compress-level", "compress-threads", "compress-wait-thread", "decompress-threads")


def _shown_before() -> dict[str, str]:
    """Return the parameters that older releases show, in their order."""
    units = dict(_SHOWN)
    authz = {"max-postcopy-bandwidth": "", "tls-authz": units.pop("tls-authz")}
    del units["max-postcopy-bandwidth"]
    after = {
        "announce-step": dict.fromkeys(_COMPRESSION, ""),
        "x-checkpoint-delay": {"block-incremental": ""},
        "xbzrle-cache-size": authz,
    }
    shown: dict[str, str] = {}
    for name, unit in units.items():
        shown |= {name: unit, **after.get(name, {})}
    return shown


_SHOWN_BEFORE = _shown_before()

_GLOBALS = """\
Globals:
  store-global-state: on
  only-migratable: off
  send-configuration: on
  send-section-footer: on
  send-switchover-start: on
  clear-bitmap-shift: 18
"""
"""QEMU's settings of its stream that `info migrate -a` shows; they have no effect here."""


def shown(info: dict[str, Any], all_: bool = False) -> str:
    """Return the result of `query-migrate` as `info migrate` shows it."""
    lines = [*_status_lines(info), *_ram_lines(info)]
    if all_:
        lines += _GLOBALS.splitlines()
        for member, words in _THROTTLING.items():
            if member in info:
                lines.append(f"{words}: {info[member]}")
    return "".join(f"{line}\n" for line in lines)


_THROTTLING = {
    "cpu-throttle-percentage": "CPU Throttle (%)",
    "dirty-limit-throttle-time-per-round": "Dirty-limit Throttle (us)",
    "dirty-limit-ring-full-time": "Dirty-limit Ring Full (us)",
}


def _status_lines(info: dict[str, Any]) -> list[str]:
    lines = []
    if "status" in info:
        failed = info["status"] == "failed" and "error-desc" in info
        reason = f" ({info['error-desc']})" if failed else ""
        lines.append(f"Status: \t\t{info['status']}{reason}")
    if "total-time" in info:
        times = f"Time (ms): \t\ttotal={info['total-time']}"
        for words, member in _TIMES.items():
            if member in info:
                times += f", {words}={info[member]}"
        lines.append(times)
    if "remaining" in info:
        lines.append(f"Remaining: \t\t{_size(info['remaining'])}")
    if "socket-address" in info:
        lines += ["Sockets: [", *(f"\t{_socket(one)}" for one in info["socket-address"]), "]"]
    return lines


_TIMES = {"setup": "setup-time", "exp_down": "expected-downtime", "down": "downtime"}


def _ram_lines(info: dict[str, Any]) -> list[str]:
    if "ram" not in info:
        return []
    ram = info["ram"]
    rates = f"transfer={ram['pages-per-second']}"
    if ram["dirty-pages-rate"]:
        rates += f", dirty={ram['dirty-pages-rate']}"
    others = f"dirty_syncs={ram['dirty-sync-count']}"
    if ram["downtime-bytes"]:
        others += f", downtime_bytes={ram['downtime-bytes']}"
    return [
        "RAM info:",
        f"  Throughput (Mbps): \t{ram['mbps']:.2f}",
        f"  Sizes: \t\tpagesize={_size(ram['page-size'])}, total={_size(ram['total'])}",
        f"  Transfers: \t\ttransferred={_size(ram['transferred'])},"
        f" remain={_size(ram['remaining'])}",
        f"    Channels: \t\tprecopy={_size(ram['precopy-bytes'])},"
        f" multifd={_size(ram['multifd-bytes'])}, postcopy={_size(ram['postcopy-bytes'])}",
        f"    Page Types: \tnormal={ram['normal']}, zero={ram['duplicate']}",
        f"  Page Rates (pps): \t{rates}",
        f"  Others: \t\t{others}",
    ]


def _socket(address: dict[str, Any]) -> str:
    match address["type"]:
        case "unix":
            return f"unix:{address['path']}"
        case "inet":
            return f"tcp:{address['host']}:{address['port']}"
        case kind:
            return str(kind)


def _size(size: int) -> str:
    """Return a number of bytes with three digits and a unit; each begins at 1000 of the last."""
    unit = 0
    while size >= 1000 << 10 * unit:
        unit += 1
    return f"{size / (1 << 10 * unit):.3g} {_UNITS[unit]}"


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def on_off(state: bool) -> str:
    """Return a switch as QEMU shows it."""
    return "on" if state else "off"


MIGRATION_COMMANDS = (
    HumanCommand(
        "migrate",
        "detach:-d,resume:-r,uri:s",
        "[-d] [-r] uri",
        "migrate to URI (using -d to not wait for completion)"
        "\n\t\t\t -r to resume a paused postcopy migration",
        _migrate,
    ),
    HumanCommand("migrate_cancel", "", "", "cancel the current VM migration", _cancel),
    HumanCommand(
        "migrate_continue",
        "state:s",
        "state",
        "Continue migration from the given paused state",
        _continue,
    ),
    HumanCommand(
        "migrate_incoming",
        "uri:s",
        "uri",
        "Continue an incoming migration from an -incoming defer",
        _incoming,
    ),
    HumanCommand(
        "migrate_set_capability",
        "capability:s,state:b",
        "capability state",
        "Enable/Disable the usage of a capability for migration",
        _set_capability,
    ),
    HumanCommand(
        "migrate_set_parameter",
        "parameter:s,value:S",
        "parameter value",
        "Set the parameter for migration",
        _set_parameter,
    ),
)

MIGRATION_INFO = (
    HumanCommand(
        "migrate", "all:-a", "[-a]", "show migration status (-a: all, dump all status)", _info
    ),
    HumanCommand(
        "migrate_capabilities", "", "", "show current migration capabilities", _info_capabilities
    ),
    HumanCommand(
        "migrate_parameters", "", "", "show current migration parameters", _info_parameters
    ),
)
