"""Options that create devices."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_members
from qmpserver.standin.commandline.backends import backend_of
from qmpserver.standin.commandline.launch import last_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch

# Properties whose values are strings, even if they look like something else.
_STRINGS = frozenset(
    """driver id bus addr netdev drive chardev memdev iothread mac serial wwn model vendor product
    ver name audiodev tpmdev fsdev mount_tag host sysfsdev display rom romfile uuid acpi-pcihp
    class revision""".split()  # noqa: SIM905
)
_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
_NUMBER = re.compile(r"[0-9]{1,19}|0x[0-9a-fA-F]{1,16}")


def _device(launch: Launch, value: str) -> None:
    text = not value.startswith("{")
    given = last_members(value, "driver") if text else parse_members(value, "driver")
    if "driver" not in given:
        raise OptionError("Parameter 'driver' is missing")
    if text and given.get("id") in launch.state.devices:
        raise OptionError(f"Duplicate ID '{given['id']}' for device")
    kind = launch.state.drivers.find(given["driver"])
    if kind is not None:
        launch.state.drivers.place(kind, given, hot=not launch.state.in_setup)  # refuses it first
        given = launch.state.drivers.typed(kind, given, text=text)
    elif text:
        given = {name: _typed(name, one) for name, one in given.items()}
    launch.execute("device_add", given)


def _typed(name: str, value: Any) -> Any:
    """Return a property's value: nothing here knows its type, so its form decides."""
    if name in _STRINGS or not isinstance(value, str):
        return value
    if value in _WORDS:
        return _WORDS[value]
    return int(value, 0 if value.startswith("0x") else 10) if _NUMBER.fullmatch(value) else value


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
        try:
            launch.execute("chardev-add", {"id": label, "backend": _short_form(value)})
        except OptionError as error:
            if "'type' does not accept value" in str(error):
                raise OptionError(f"'{value}' is not a valid char driver") from None
            raise
    elif not launch.has_chardev(label):
        raise OptionError(f"could not connect {prefix} device to character backend '{value}'")
    launch.add_onboard("isa", {"driver": driver, "chardev": label})


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
    "device": _device,
}
