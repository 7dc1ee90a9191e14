"""The human monitor's commands for VNC and SPICE servers, in QEMU's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.monitor.hmp import HumanCommand
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qmpserver.human import HumanMonitor


async def change_vnc(monitor: HumanMonitor, target: str, password: str | None) -> str:
    """Change the password, the only thing of a VNC server that `change` changes."""
    if target not in ("password", "passwd"):
        raise CommandError("Expected 'password' after 'vnc'")
    await monitor.qmp("change-vnc-password", password=password or "")
    return ""


def _on_server(command: str) -> Callable[..., Awaitable[str]]:
    """Return a handler that executes a QMP command about the server of a protocol."""

    async def run(monitor: HumanMonitor, protocol: str, **given: Any) -> str:
        if protocol not in ("vnc", "spice"):
            raise CommandError(f"invalid parameter value: {protocol}")
        await monitor.qmp(command, protocol=protocol, **given)
        return ""

    return run


async def _vnc(monitor: HumanMonitor) -> str:
    text = ""
    for one in await monitor.qmp("query-vnc-servers"):
        text += f"{one['id']}:\n"
        for server in one["server"]:
            web = " (Websocket)" if server["websocket"] else ""
            address = f"{server['host']}:{server['service']} ({server['family']}{web})"
            text += f"  Server: {address}\n  {_authentication(server)}"
        if not one["server"]:
            text += _authentication(one)
    return text or "None\n"


def _authentication(one: dict[str, Any]) -> str:
    return f"  Auth: {one['auth']} (Sub: {one.get('vencrypt', 'none')})\n"


async def _spice(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-spice")
    if not info["enabled"]:
        return "Server: disabled\n"
    ports = {"port": "", "tls-port": " [tls]"}
    lines = [
        f"     address: {info['host']}:{info[key]}{words}"
        for key, words in ports.items()
        if key in info
    ]
    lines += [
        "    migrated: false",
        f"        auth: {info['auth']}",
        f"    compiled: {info['compiled-version']}",
        f"  mouse-mode: {info['mouse-mode']}",
        "Channels: none",
    ]
    return "Server:\n" + "".join(f"{line}\n" for line in lines)


COMMANDS = (
    HumanCommand(
        "expire_password",
        "protocol:s,time:s,display:-dV",
        "protocol time [-d display]",
        "set spice/vnc password expire-time",
        _on_server("expire_password"),
    ),
    HumanCommand(
        "set_password",
        "protocol:s,password:s,display:-dV,connected:s?",
        "protocol password [-d display] [action-if-connected]",
        "set spice/vnc password",
        _on_server("set_password"),
    ),
)
INFO = (
    HumanCommand("spice", "", "", "show the spice server status", _spice),
    HumanCommand("vnc", "", "", "show the vnc server status", _vnc),
)
