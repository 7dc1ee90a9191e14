"""The order of boot devices, which is checked and has no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.keyval import OptionError, parse_bool, parse_number, split_options
from qmpserver.standin.commandline.launch import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch

_DEVICES = "abcdefghijklmnop"
_OF_PC, _MOST_OF_PC = "abcdn", 3
_KEYS = ("order", "once", "menu", "splash", "splash-time", "reboot-timeout", "strict")
_TIMES = {"splash-time": ("splash-time", 0), "reboot-timeout": ("reboot timeout", -1)}
_LONGEST = 65535  # milliseconds


def _boot(launch: Launch, value: str) -> None:
    given = {}
    for key, text, _ in split_options(value, "order"):
        name = f"boot.{key}"
        if key not in _KEYS:
            raise MachineError(f"Parameter '{name}' is unexpected")
        if key in ("menu", "strict"):
            try:
                parse_bool(name, text)
            except OptionError as error:
                raise MachineError(str(error)) from None
        if key in _TIMES:
            _check_time(name, text, *_TIMES[key])
        given[key] = text
    for key in ("order", "once"):
        _check_order(launch, given.get(key, ""))


def _check_time(name: str, text: str, words: str, least: int) -> None:
    try:
        time = parse_number(name, text.removeprefix("-"))
    except OptionError:
        raise MachineError(f"Parameter '{name}' expects integer") from None
    if not least <= (-time if text.startswith("-") else time) <= _LONGEST:
        limits = f"it should be a value between {least} and {_LONGEST}"
        raise MachineError(f"{words} is invalid,{limits}")


def _check_order(launch: Launch, order: str) -> None:
    for number, device in enumerate(order):
        if device not in _DEVICES:
            raise MachineError(f"Invalid boot device '{device}'")
        if device in order[:number]:
            raise MachineError(f"Boot device '{device}' was given twice")
    if not order or not launch.state.drivers.family:
        return
    if len(order) > _MOST_OF_PC:
        raise MachineError("Too many boot devices for PC")
    for device in order:
        if device not in _OF_PC:
            raise MachineError(f"Invalid boot device for PC: '{device}'")


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"boot": _boot}
