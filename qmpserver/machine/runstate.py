"""Run states, and which may follow which."""

from __future__ import annotations

from typing import Literal

RunState = Literal["prelaunch", "running", "paused", "shutdown", "internal-error"]

# To leave these, QEMU wants the machine reset first.
NEEDS_RESET: frozenset[RunState] = frozenset(("shutdown", "internal-error"))
