"""Options about reactions to events, about the start, and about output that is not made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.keyval import kinds, parse_options, split_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch

_ACTIONS = kinds(string="reboot shutdown panic watchdog")


def _action(launch: Launch, value: str) -> None:
    given = parse_options(value, _ACTIONS)
    launch.execute("set-action", {name: given.string(name) for name in given})


def _incoming(launch: Launch, value: str) -> None:
    state = launch.state
    state.incoming = value
    state.status = "inmigrate"


def _preconfig(launch: Launch, value: str) -> None:
    launch.state.preconfig = True
    launch.state.status = "prelaunch"


def _names(option: str, implied: str | None) -> Callable[[Launch, str], None]:
    """Return a function that checks the keys of an option without effect."""

    def check(launch: Launch, value: str) -> None:
        launch.check_names(option, (name for name, _, _ in split_options(value, implied)))

    return check


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {
    "action": _action,
    "no-reboot": lambda launch, _: _action(launch, "reboot=shutdown"),
    "no-shutdown": lambda launch, _: _action(launch, "shutdown=pause"),
    "watchdog-action": lambda launch, value: _action(launch, f"watchdog={value}"),
    "trace": _names("trace", "enable"),
    "rtc": _names("rtc", None),
    "sandbox": _names("sandbox", "enable"),
    "overcommit": _names("overcommit", None),
    "icount": _names("icount", "shift"),
    "incoming": _incoming,
    "preconfig": _preconfig,
}
