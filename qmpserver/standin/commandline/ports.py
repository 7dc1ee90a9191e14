"""Options for serial and parallel ports, and for the debug console: each is a port of ISA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError
from qmpserver.standin.commandline.backends import backend_of
from qmpserver.standin.commandline.launch import last_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch

_DEBUGCON, _DEBUG_PORT = "debugcon", 0xE9


def _serial(launch: Launch, value: str) -> None:
    _character_device(launch, value, "serial", "isa-serial")


def _parallel(launch: Launch, value: str) -> None:
    _character_device(launch, value, "parallel", "isa-parallel")


def _character_device(launch: Launch, value: str, prefix: str, driver: str) -> None:
    if value == "none":
        return
    label = value.removeprefix("chardev:")
    if label == value:
        count = sum(name.startswith(prefix) for name in launch.state.chardevs)
        label = f"{prefix}{count}"
        _add_chardev(launch, value, label)
    elif not launch.has_chardev(label):
        raise OptionError(f"could not connect {prefix} device to character backend '{value}'")
    launch.add_onboard("isa", {"driver": driver, "chardev": label})


def _debugcon(launch: Launch, value: str) -> None:
    name = value.removeprefix("chardev:")
    if name == value:
        if _DEBUGCON in launch.state.chardevs:
            raise OptionError(
                f"attempt to add duplicate property '{_DEBUGCON}' to object (type 'container')"
            )
        _add_chardev(launch, value, _DEBUGCON)
    elif not launch.has_chardev(name):
        raise OptionError(f"invalid character backend '{value}'")
    device = {"driver": "isa-debugcon", "chardev": _DEBUGCON, "iobase": _DEBUG_PORT}
    launch.execute("device_add", device)


def _add_chardev(launch: Launch, value: str, label: str) -> None:
    """Add the character device of a value in the short form."""
    try:
        launch.execute("chardev-add", {"id": label, "backend": _short_form(value)})
    except OptionError as error:
        if "'type' does not accept value" in str(error):
            raise OptionError(f"'{value}' is not a valid char driver") from None
        raise


def _short_form(value: str) -> dict[str, Any]:
    """Return the backend of a value such as `pty`, `file:PATH` or `unix:PATH,server=on`."""
    scheme, _, rest = value.removeprefix("mon:").partition(":")
    if scheme in ("unix", "tcp", "telnet", "websocket"):
        first, *_ = rest.split(",", 1)
        more = last_members(rest[len(first) + 1 :], None)
        if scheme == "unix":
            return backend_of("socket", {"path": first, **more})
        host, _, port = first.rpartition(":")
        flag = {} if scheme == "tcp" else {scheme: "on"}
        return backend_of("socket", {"host": host, "port": port, **more, **flag})
    if scheme == "udp":
        remote, _, local = rest.partition("@")
        host, _, port = remote.rpartition(":")
        where = dict(zip(("localaddr", "localport"), local.rsplit(":", 1), strict=False))
        return backend_of("udp", {"host": host, "port": port, **(where if local else {})})
    if scheme.startswith("/dev/"):
        return backend_of("serial", {"path": value})
    return backend_of(scheme, {"path": rest} if rest else {})


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {
    "serial": _serial,
    "parallel": _parallel,
    "debugcon": _debugcon,
}
