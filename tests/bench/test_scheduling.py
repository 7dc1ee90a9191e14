"""Real-time priority is given for a while, and what was there before comes back."""

import os
import threading
from collections.abc import Callable

import pytest

from qmpserver.bench.scheduling import real_time

State = tuple[int, int, int]


def state() -> State:
    """Policy, priority and nice value of this thread."""
    nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, nice


def around(prepare: Callable[[], object]) -> list[State]:
    """Return the state before, in and after `real_time`, of a thread of its own."""
    seen = []

    def run() -> None:
        prepare()
        seen.append(state())
        with real_time():
            seen.append(state())
        seen.append(state())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(seen) == 3
    return seen


def may_be_real_time() -> bool:
    return around(lambda: None)[1][0] & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO


@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE])
def test_policy_and_nice_value_come_back(policy: int) -> None:
    def prepare() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        os.sched_setscheduler(0, policy, os.sched_param(0))

    before, inside, after = around(prepare)
    assert before == after == (policy, 0, 10)
    if may_be_real_time():
        assert inside[:2] == (os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, 1)


def test_a_priority_of_its_own_is_kept() -> None:
    if not may_be_real_time():
        pytest.skip("real-time priority is not permitted")
    before, inside, after = around(lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(7)))
    assert before == inside == after
    assert before[:2] == (os.SCHED_RR, 7)
