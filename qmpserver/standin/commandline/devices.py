"""Options that create devices."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_members
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


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"device": _device}
