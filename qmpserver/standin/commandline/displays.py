"""Options that make displays: `-display`, `-vnc` and `-spice`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import (
    OptionError,
    Options,
    kinds,
    parse_members,
    parse_options,
)
from qmpserver.standin.commandline.launch import MachineError
from qmpserver.standin.state.displays import inet_servers, unix_server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch

_DISPLAYS = frozenset(
    "default none gtk sdl egl-headless curses cocoa spice-app dbus".split()  # noqa: SIM905
)
_VNC = kinds(
    string="vnc websocket tls-creds share display head tls-authz sasl-authz audiodev"
    " password-secret",
    boolean="password reverse lock-key-sync sasl lossy non-adaptive power-control ipv4 ipv6",
    number="connections to key-delay-ms",
)
_SHARING = ("ignore", "allow-exclusive", "force-shared")
_FIRST_PORT, _FIRST_WEBSOCKET, _LAST_PORT = 5900, 5700, 65535
_SPICE = kinds(
    string="addr password password-secret x509-dir x509-key-file x509-key-password x509-cert-file"
    " x509-cacert-file x509-dh-key-file tls-ciphers tls-channel plaintext-channel"
    " image-compression jpeg-wan-compression zlib-glz-wan-compression streaming-video video-codecs"
    " display rendernode",
    boolean="ipv4 ipv6 unix sasl disable-ticketing disable-copy-paste disable-agent-file-xfer"
    " agent-mouse playback-compression seamless-migration gl",
    number="port tls-port head max-refresh-rate",
)
_SPICE_PORTS = {"port": "spice port", "tls-port": "spice tls-port"}


def _display(launch: Launch, value: str) -> None:
    if value.startswith("vnc="):
        _vnc(launch, value)
        return
    if value.startswith("vnc"):
        raise OptionError("VNC requires a display argument vnc=<display>")
    kind = parse_members(value, "type").get("type")
    if kind is None:
        raise OptionError("Parameter 'type' is missing")
    if kind not in _DISPLAYS:
        raise OptionError(f"Parameter 'type' does not accept value '{kind}'")


def _vnc(launch: Launch, value: str) -> None:
    given = parse_options(value, _VNC, implied="vnc")
    state = launch.state
    names = ("default", *(f"vnc{number}" for number in range(2, len(state.vncs) + 2)))
    name = given.id or next(one for one in names if one not in state.vncs)
    if name in state.vncs:
        raise OptionError(f"Duplicate ID '{name}' for vnc")
    auth = _authentication(launch, given)
    if (given.string("share") or _SHARING[0]) not in _SHARING:
        raise OptionError("unknown vnc share= option")
    audiodev = given.string("audiodev")
    if audiodev is not None and audiodev not in state.audiodevs:
        raise OptionError(f"audiodev '{audiodev}' not found")
    head = given.string("display")
    if head is not None and head not in state.devices:
        raise OptionError(f"Device '{head}' not found")
    plain = {"auth": auth["vencrypt"].partition("-")[2]} if "vencrypt" in auth else auth
    servers = [{**one, **(plain if one["websocket"] else auth)} for one in _addresses(given)]
    state.vncs[name] = {**auth, "server": servers}


def _authentication(launch: Launch, given: Options) -> dict[str, str]:
    """Return the members of a query that tell how clients of a VNC server authenticate."""
    objects, secret = launch.state.objects, given.string("password-secret")
    if secret is not None:
        if objects.get(secret, {}).get("qom-type") != "secret":
            raise OptionError(f"No secret with id '{secret}'")
        if given.bool("password"):
            raise OptionError("'password' flag is redundant with 'password-secret'")
    auth = "vnc" if secret is not None or given.bool("password") else "none"
    if given.bool("sasl"):
        auth = "sasl"
    credentials = given.string("tls-creds")
    if credentials is None:
        return {"auth": auth}
    kind = str(objects.get(credentials, {}).get("qom-type", ""))
    if not kind.startswith("tls-creds-"):
        raise OptionError(f"No TLS credentials with id '{credentials}'")
    return {"auth": "vencrypt", "vencrypt": f"{'x509' if kind.endswith('x509') else 'tls'}-{auth}"}


def _addresses(given: Options) -> list[dict[str, Any]]:
    """Return where a VNC server would listen: first for web sockets, as queries show it."""
    address = given.string("vnc") or "none"
    if address == "none" or given.bool("reverse"):
        return []
    families = {one: given.bool(one) for one in ("ipv4", "ipv6") if one in given}
    host, number, servers = "", 0, []
    if address.startswith("unix:"):
        servers = [unix_server(address.removeprefix("unix:"))]
    else:
        host, colon, text = address.rpartition(":")
        if not colon:
            raise OptionError("no vnc port specified")
        host = host.removeprefix("[").removesuffix("]")
        if not re.fullmatch("[0-9]{1,9}", text):
            raise OptionError(f"can't convert to a number: {text}")
        number = int(text)
        if number + _FIRST_PORT > _LAST_PORT:
            raise OptionError(f"port {text} out of range")
        servers = inet_servers(host, str(number + _FIRST_PORT), families)
    websocket = given.string("websocket")
    if websocket in (None, "off"):
        return servers
    if websocket == "on":
        websocket = str(number + _FIRST_WEBSOCKET)
    own_host, _, port = str(websocket).rpartition(":")
    more = inet_servers(own_host.strip("[]") or host, port, families)
    return [{**one, "websocket": True} for one in more] + servers


def _spice(launch: Launch, value: str) -> None:
    given = parse_options(value, _SPICE)
    shown: dict[str, Any] = {"host": given.string("addr") or "*"}
    for name, words in _SPICE_PORTS.items():
        port = given.number(name)
        if port > _LAST_PORT:
            raise MachineError(f"{words} is out of range")
        if port:
            shown[name] = port
    secret = given.string("password-secret")
    if secret is not None and launch.state.objects.get(secret, {}).get("qom-type") != "secret":
        raise MachineError(f"No secret with id '{secret}'")
    auth = "none" if given.bool("disable-ticketing") else "spice"
    launch.state.spice = {"auth": auth, **shown}


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {
    "display": _display,
    "vnc": _vnc,
    "spice": _spice,
}
