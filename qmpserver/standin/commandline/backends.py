"""Options that create objects, character devices, and other backends of devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_bool, parse_members, split_options
from qmpserver.qapi.model import ArrayType
from qmpserver.standin.commandline.launch import last_members
from qmpserver.standin.commandline.typed import typed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch


def _object(launch: Launch, value: str) -> None:
    flat = not value.startswith("{")
    given = (
        launch.flat("object-add", value, "qom-type") if flat else parse_members(value, "qom-type")
    )
    if given.get("id") in launch.state.objects:
        raise OptionError(f"Duplicate ID '{given['id']}' for object")
    launch.execute("object-add", given, flat=flat)


def _chardev(launch: Launch, value: str) -> None:
    options = {key: one for key, one, _ in split_options(value, "backend")}
    launch.check_names("chardev", options)
    name = options.pop("id", None)
    kind = options.pop("backend", None)
    if name is None:
        raise OptionError("chardev: no id specified")
    if kind is None:
        raise OptionError(f'chardev: "{name}" missing backend')
    if name in launch.state.chardevs:
        raise OptionError(f"Duplicate ID '{name}' for chardev")
    try:
        backend = {"id": name, "backend": backend_of(kind, options)}
        launch.execute("chardev-add", backend, flat=True)
    except OptionError as error:
        if f"does not accept value '{kind}'" in str(error):
            raise OptionError(f"'{kind}' is not a valid char driver name") from None
        # Where the human monitor has the option's words, QMP has this before them.
        raise OptionError(str(error).removeprefix(f"Failed to add chardev '{name}': ")) from None


def backend_of(kind: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the type `ChardevBackend`'s value that a kind and its options describe."""
    kind = _ALIASES.get(kind, kind)
    data: dict[str, Any] = {name: options[name] for name in _COMMON if name in options}
    if kind == "socket":
        data |= {name: options[name] for name in _SOCKET if name in options}
        data["addr"] = _address(options)
        data.setdefault("server", "off")
        if "delay" in options:
            data["nodelay"] = "off" if parse_bool("delay", options["delay"]) else "on"
    elif kind == "udp":
        data["remote"] = _inet(options.get("host", "localhost"), options.get("port", ""))
        if "localaddr" in options or "localport" in options:
            data["local"] = _inet(options.get("localaddr", ""), options.get("localport", "0"))
    else:
        for name, member in _MEMBERS.get(kind, {}).items():
            if name in options:
                data[member] = options[name]
    return {"type": kind, "data": data}


_ALIASES = {"memory": "ringbuf", "tty": "serial", "parport": "parallel"}
_COMMON = ("logfile", "logappend")
_SOCKET = (
    "server", "wait", "telnet", "tn3270", "websocket", "reconnect", "reconnect-ms", "nodelay",
    "tls-creds", "tls-authz",
)  # fmt: skip
# The option's key and the member, by kind.
_MEMBERS: Mapping[str, Mapping[str, str]] = {
    "file": {"path": "out", "append": "append", "input-path": "in"},
    "serial": {"path": "device"},
    "parallel": {"path": "device"},
    "pipe": {"path": "device"},
    "pty": {"path": "path"},
    "mux": {"chardev": "chardev"},
    "stdio": {"signal": "signal"},
    "spicevmc": {"name": "type"},
    "spiceport": {"name": "fqdn"},
    "dbus": {"name": "name"},
    "qemu-vdagent": {"mouse": "mouse", "clipboard": "clipboard"},
    "vc": {"width": "width", "height": "height", "cols": "cols", "rows": "rows"},
    "ringbuf": {"size": "size"},
}


def _address(options: Mapping[str, str]) -> dict[str, Any]:
    if "path" in options:
        switches = {key: options[key] for key in ("abstract", "tight") if key in options}
        return {"type": "unix", "data": {"path": options["path"], **switches}}
    if "fd" in options:
        return {"type": "fd", "data": {"str": options["fd"]}}
    if "host" not in options:
        raise OptionError("chardev: socket: no path, host or fd given")
    if "port" not in options:
        raise OptionError("chardev: socket: no port given")
    address = _inet(options["host"], options["port"])
    address["data"] |= {key: options[key] for key in ("to", "ipv4", "ipv6") if key in options}
    return address


def _inet(host: str, port: str) -> dict[str, Any]:
    return {"type": "inet", "data": {"host": host, "port": port}}


def _audiodev(launch: Launch, value: str) -> None:
    given = parse_members(value, "driver")
    query = launch.commands.schema.commands.get("query-audiodevs")
    if query is not None and isinstance(query.returns, ArrayType):
        given = typed(given, query.returns.element)
    name = given.get("id")
    if name is None:
        raise OptionError("Parameter 'id' is missing")
    launch.state.audiodevs[name] = given


def _tpmdev(launch: Launch, value: str) -> None:
    given = last_members(value, "type")
    name, kind = given.pop("id", None), given.pop("type", None)
    if name is None:
        raise OptionError("Parameter 'id' is missing")
    launch.state.tpms[name] = {"type": kind, "data": given}


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {
    "object": _object,
    "chardev": _chardev,
    "audiodev": _audiodev,
    "tpmdev": _tpmdev,
}
