"""Run states, and what is done at a guest's reset, shutdown and the like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RunState = Literal["prelaunch", "running", "paused", "shutdown", "internal-error"]
RebootAction = Literal["reset", "shutdown"]
ShutdownAction = Literal["poweroff", "pause"]
PanicAction = Literal["pause", "shutdown", "exit-failure", "none"]
WatchdogAction = Literal["reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"]

# To leave these, QEMU wants the machine reset first.
NEEDS_RESET: frozenset[RunState] = frozenset(("shutdown", "internal-error"))


@dataclass(slots=True)
class Actions:
    """What ``set-action`` and ``-action`` set. No guest here panics, and there is no watchdog."""

    reboot: RebootAction = "reset"
    shutdown: ShutdownAction = "poweroff"
    panic: PanicAction = "shutdown"
    watchdog: WatchdogAction = "reset"
