"""The human monitor's commands for drives, in QEMU's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.monitor.hmp import HumanCommand
from qmpserver.qmp import CommandError
from qmpserver.standin.humandisplay import change_vnc

if TYPE_CHECKING:
    from qmpserver.human import HumanMonitor

_MODES = ("retain", "read-only", "read-write")


async def _eject(monitor: HumanMonitor, device: str, force: bool = False) -> str:
    await monitor.qmp("eject", device=device, force=force)
    return ""


async def _change(
    monitor: HumanMonitor,
    device: str,
    target: str,
    arg: str | None = None,
    read_only_mode: str = "retain",
    force: bool = False,
) -> str:
    if device == "vnc":
        if read_only_mode != "retain":
            raise CommandError("Parameter 'read-only-mode' is invalid for VNC")
        return await change_vnc(monitor, target, arg)
    if read_only_mode not in _MODES:
        raise CommandError(f"invalid parameter value: {read_only_mode}")
    given = {"device": device, "filename": target, "read-only-mode": read_only_mode}
    if arg is not None:
        given["format"] = arg
    await monitor.qmp("blockdev-change-medium", **given, force=force)
    return ""


async def _block_set_io_throttle(monitor: HumanMonitor, **given: Any) -> str:
    await monitor.qmp("block_set_io_throttle", **given)
    return ""


COMMANDS = (
    HumanCommand(
        "block_set_io_throttle",
        "device:B,bps:l,bps_rd:l,bps_wr:l,iops:l,iops_rd:l,iops_wr:l",
        "device bps bps_rd bps_wr iops iops_rd iops_wr",
        "change I/O throttle limits for a block drive",
        _block_set_io_throttle,
    ),
    HumanCommand(
        "change",
        "device:B,force:-f,target:F,arg:s?,read_only_mode:s?",
        "device [-f] filename [format [read-only-mode]]",
        "change a removable medium, optional format, use -f to force the operation",
        _change,
    ),
    HumanCommand(
        "eject",
        "force:-f,device:B",
        "[-f] device",
        "eject a removable medium (use -f to force it)",
        _eject,
    ),
)
