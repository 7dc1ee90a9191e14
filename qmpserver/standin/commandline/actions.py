"""Options about the reaction to events, and the state that the machine waits in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.keyval import kinds, parse_options

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


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {
    "action": _action,
    "no-reboot": lambda launch, _: _action(launch, "reboot=shutdown"),
    "no-shutdown": lambda launch, _: _action(launch, "shutdown=pause"),
    "watchdog-action": lambda launch, value: _action(launch, f"watchdog={value}"),
    "incoming": _incoming,
    "preconfig": _preconfig,
}
