"""VNC and SPICE servers: how queries show them; nothing listens at their addresses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_SPICE_VERSION = "0.15.1"
_TIME = re.compile(r"now|never|\+?[0-9]+")
_ANY = ("", "::")  # hosts that stand for all addresses of the machine
_SHOWN = ("auth", "vencrypt")


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    def find_vnc(name: str | None) -> dict[str, Any] | None:
        """Return the VNC server with an id, or the first one."""
        return state.vncs.get(name or next(iter(state.vncs), ""))

    def require_spice() -> dict[str, Any]:
        if state.spice is None:
            raise CommandError("SPICE is not in use", "DeviceNotActive")
        return state.spice

    @registry.command("query-vnc")
    def query_vnc() -> Any:
        found = find_vnc(None)
        if found is None or not found["server"]:
            return {"enabled": False}
        shown = {key: found["server"][-1][key] for key in ("host", "service", "family")}
        auth = "+".join([found["auth"], *found.get("vencrypt", "").split("-")]).rstrip("+")
        return {"enabled": True, **shown, "auth": auth, "clients": []}

    @registry.command("query-vnc-servers")
    def query_vnc_servers() -> Any:
        return [{"id": name, **one, "clients": []} for name, one in reversed([*state.vncs.items()])]

    @registry.command("query-spice")
    def query_spice() -> Any:
        if state.spice is None:
            return {"enabled": False, "migrated": False, "mouse-mode": "client"}
        return {
            "enabled": True, "migrated": False, "mouse-mode": "server", "channels": [],
            "compiled-version": _SPICE_VERSION, **state.spice,
        }  # fmt: skip

    @registry.command("set_password")
    def set_password(
        protocol: str, connected: str = "keep", display: str | None = None, **_: Any
    ) -> None:
        if protocol == "spice":
            if require_spice()["auth"] == "none":
                raise CommandError("Could not set password")
            return
        if connected != "keep":
            raise CommandError("parameter 'connected' must be 'keep' when 'protocol' is 'vnc'")
        set_vnc_password(display)

    def set_vnc_password(display: str | None) -> None:
        found = find_vnc(display)
        if found is None:
            raise CommandError("No VNC display is present")
        if found["auth"] == "none":
            raise CommandError("VNC password authentication is disabled")

    @registry.command("change-vnc-password")
    def change_vnc_password(password: str) -> None:
        del password
        set_vnc_password(None)

    @registry.command("expire_password")
    def expire_password(protocol: str, time: str, display: str | None = None) -> None:
        if not (state.release.takes_any_expiry or _TIME.fullmatch(time)):
            raise CommandError(f"Parameter 'time' doesn't take value '{time}'")
        if protocol == "spice":
            require_spice()
        elif find_vnc(display) is None:
            raise CommandError("Could not set password expire time")

    @registry.command("display-update")
    def display_update(addresses: list[dict[str, Any]] | None = None, **_: Any) -> None:
        name = next(iter(state.vncs), None)
        if name is None:
            raise CommandError("Can not find vnc display")
        if addresses is not None:
            shown = {key: one for key, one in state.vncs[name].items() if key in _SHOWN}
            kept = [server for one in addresses for server in _servers(one)]
            servers = [{**one, **shown} for one in reversed(kept)]
            state.vncs[name] = {**state.vncs[name], "server": servers}

    @registry.command("display-reload")
    def display_reload(tls_certs: bool = False, **_: Any) -> None:
        if not tls_certs:
            return
        found = find_vnc(None)
        if found is None:
            raise CommandError("Can not find vnc display")
        kind = found.get("vencrypt")
        if kind is None:
            raise CommandError("vnc tls is not enabled")
        if kind.startswith("tls-"):
            raise CommandError("tls-creds-anon does not support reloading credentials")

    @registry.command("client_migrate_info")
    def client_migrate_info(
        protocol: str, port: int | None = None, tls_port: int | None = None, **_: Any
    ) -> None:
        if protocol != "spice":
            raise CommandError("Parameter 'protocol' expects 'spice'")
        require_spice()
        if port is None and tls_port is None:
            raise CommandError("Parameter 'port/tls-port' is missing")


def _servers(address: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what queries show of a type `SocketAddress`'s value."""
    if address["type"] == "unix":
        return [unix_server(address["path"])]
    if address["type"] == "inet":
        flags = {family: address.get(family) for family in ("ipv4", "ipv6")}
        return list(reversed(inet_servers(address["host"], address["port"], flags)))
    return []


def unix_server(path: str) -> dict[str, Any]:
    """Return what queries show of a VNC server on a UNIX socket."""
    return {"host": "", "service": path, "family": "unix", "websocket": False}


def inet_servers(host: str, port: str, families: Mapping[str, bool | None]) -> list[dict[str, Any]]:
    """Return what queries show of a VNC server at a host and port, by address family.

    Args:
        host: A name or an address; "" for all addresses.
        port: The TCP port.
        families: Whether `ipv4` and `ipv6` are wanted; None where nothing says so.
    """
    wanted = {name for name in ("ipv6", "ipv4") if families.get(name)}
    if not wanted:
        wanted = {name for name in ("ipv6", "ipv4") if families.get(name) is None}
    hosts = {"ipv6": "::", "ipv4": "0.0.0.0"}
    if host not in _ANY:
        family = "ipv6" if ":" in host else "ipv4"
        wanted, hosts = {family}, {family: "127.0.0.1" if host == "localhost" else host}
    return [
        {"host": hosts[family], "service": port, "family": family, "websocket": False}
        for family in ("ipv6", "ipv4")
        if family in wanted and family in hosts
    ]
