"""The table of the human monitor's commands, and the handlers of all but `info`'s subcommands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.human.info import INFO
from qmpserver.human.migration import MIGRATION_COMMANDS
from qmpserver.monitor.hmp import HumanCommand, help_text, table
from qmpserver.qmp import CommandError
from qmpserver.releases import NEWEST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qmpserver.human.monitor import HumanMonitor
    from qmpserver.releases import Release

_LIMIT_SET = "[Please use 'info vcpu_dirty_limit' to query dirty limit for virtual CPU]\n"
_ALL_CPUS = -1


def silent(name: str) -> Callable[[HumanMonitor], Awaitable[str]]:
    """Return a handler that executes a QMP command and shows nothing."""

    async def run(monitor: HumanMonitor) -> str:
        await monitor.qmp(name)
        return ""

    return run


async def _help(monitor: HumanMonitor, name: str = "") -> str:
    return help_text(monitor.commands, name)


async def _info(monitor: HumanMonitor) -> str:
    return help_text(monitor.commands, "info")


async def _quit(monitor: HumanMonitor) -> None:
    await monitor.quit()


async def _cpu(monitor: HumanMonitor, index: int) -> str:
    return "" if await monitor.select_cpu(index) else "invalid CPU index\n"


async def _set_vcpu_dirty_limit(
    monitor: HumanMonitor, dirty_rate: int, cpu_index: int = _ALL_CPUS
) -> str:
    if dirty_rate < 0 and not monitor.release.signed_limits:
        raise CommandError(f"invalid dirty page limit {dirty_rate}")
    cpu = None if cpu_index == _ALL_CPUS else cpu_index
    await monitor.qmp("set-vcpu-dirty-limit", dirty_rate=dirty_rate, cpu_index=cpu)
    return _LIMIT_SET if monitor.release.signed_limits else ""


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


async def _trace_event(
    monitor: HumanMonitor, name: str, option: bool, vcpu: int | None = None
) -> str:
    given = {"vcpu": vcpu} if monitor.release.vcpu_events else {}
    try:
        await monitor.qmp("trace-event-set-state", name=name, enable=option, **given)
    except CommandError as error:
        return f"{error.desc}\n"  # QEMU puts no "Error:" before these
    return ""


def commands(
    release: Release = NEWEST,
    more: Iterable[HumanCommand] = (),
    info: Iterable[HumanCommand] = (),
) -> tuple[HumanCommand, ...]:
    """Return the commands of a release.

    Args:
        release: The release.
        more: Commands besides those of this package.
        info: Subcommands of `info` besides those of this package.
    """
    newest = [
        one._replace(sub_table=table(*one.sub_table, *info)) if one.name == "info" else one
        for one in table(*COMMANDS, *more)
    ]
    return _of_release(newest, release, "")


def _of_release(
    newest: Iterable[HumanCommand], release: Release, prefix: str
) -> tuple[HumanCommand, ...]:
    found = []
    for command in newest:
        name = f"{prefix}{command.name}"
        texts = release.human.get(name, (command.args_type, command.params, command.help))
        if texts is not None:
            args_type, params, help_ = texts
            below = _of_release(command.sub_table, release, f"{name} ")
            found.append(
                command._replace(args_type=args_type, params=params, help=help_, sub_table=below)
            )
    return tuple(found)


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
    HumanCommand("cont|c", "", "", "resume emulation", silent("cont")),
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
    *MIGRATION_COMMANDS,
    HumanCommand("quit|q", "", "", "quit the emulator", _quit),
    HumanCommand(
        "set_vcpu_dirty_limit",
        "dirty_rate:l,cpu_index:l?",
        "dirty_rate [cpu_index]",
        "set dirty page rate limit, use cpu_index to set limit"
        "\n\t\t\t\t\t on a specified virtual cpu",
        _set_vcpu_dirty_limit,
    ),
    HumanCommand("stop|s", "", "", "stop emulation", silent("stop")),
    HumanCommand(
        "system_powerdown",
        "",
        "",
        "send system power down event",
        silent("system_powerdown"),
    ),
    HumanCommand("system_reset", "", "", "reset the system", silent("system_reset")),
    HumanCommand(
        "trace-event",
        "name:s,option:b,vcpu:i?",
        "name on|off [vcpu]",
        "changes status of a specific trace event (vcpu: vCPU to set, default is all)",
        _trace_event,
    ),
)
