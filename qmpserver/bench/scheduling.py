"""Real-time priority for the thread that measures."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ORDINARY = (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)


@contextlib.contextmanager
def real_time() -> Iterator[None]:
    """Give the calling thread real-time priority, if permitted, as long as the context lasts.

    It then does not wait for a processor that the guest has. A thread with real-time priority of
    its own keeps that.
    """
    given = os.sched_getscheduler(0)
    policy, reset_on_fork = given & ~os.SCHED_RESET_ON_FORK, given & os.SCHED_RESET_ON_FORK
    parameter = os.sched_getparam(0)
    raised = False
    if policy in _ORDINARY:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
            raised = True
    try:
        yield
    finally:
        if raised:  # the nice value has stayed
            try:
                os.sched_setscheduler(0, policy | reset_on_fork, parameter)
            except PermissionError:  # only a privileged process may clear the flag again
                os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, parameter)
