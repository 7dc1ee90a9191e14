"""Run states, and the actions at a guest's reset, shutdown, panic and watchdog."""

from __future__ import annotations

from typing import Literal

RunState = Literal[
    "prelaunch",
    "running",
    "paused",
    "shutdown",
    "internal-error",
    "inmigrate",
    "finish-migrate",
    "postmigrate",
]
RebootAction = Literal["reset", "shutdown"]
ShutdownAction = Literal["poweroff", "pause"]
PanicAction = Literal["pause", "shutdown", "exit-failure", "none"]
WatchdogAction = Literal["reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"]

# As in QEMU, `cont` is refused in these until the machine is reset.
NEEDS_RESET: frozenset[RunState] = frozenset(("shutdown", "internal-error"))


class Actions:
    """The settings of `set-action` and `-action`; no guest panics, and there is no watchdog."""

    def __init__(self) -> None:
        self.reboot: RebootAction = "reset"
        self.shutdown: ShutdownAction = "poweroff"
        self.panic: PanicAction = "shutdown"
        self.watchdog: WatchdogAction = "reset"
