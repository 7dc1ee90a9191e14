"""An engine whose process may not have what it needs: pending signals, threads."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.vm.conftest import Leftovers, MakeRig

PIDS = Path("/sys/fs/cgroup/pids")
only_kvm = pytest.mark.parametrize("accel", ["kvm"], indirect=True)


@contextlib.contextmanager
def no_pending_signals() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))


@contextlib.contextmanager
def no_more_threads(allowed: int) -> Iterator[None]:
    """Allow this process so many more threads than it has."""
    group = PIDS / f"qmpserver-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        (group / "pids.max").write_text(str(len(os.listdir("/proc/self/task")) + allowed))
        yield
    finally:
        (PIDS / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


@pytest.mark.slow
@only_kvm
def test_a_kick_needs_no_pending_signal(make_rig: "MakeRig") -> None:
    rig = make_rig()
    with no_pending_signals():
        for _ in range(20):
            rig.engine.cont()
            rig.advance(100)
            rig.park()
        rig.limit(None, 1)
        rig.engine.cont()
        rig.advance(100)
        rig.cancel(None)
        rig.advance(20_000)
        rig.engine.take_bitmap()
        rig.close()


@only_kvm
def test_a_timer_that_is_refused_is_told_before_the_start(
    make_rig: "MakeRig", leftovers: "Leftovers"
) -> None:
    def starve(_rig: object) -> None:
        starved.enter_context(no_pending_signals())

    with contextlib.ExitStack() as starved, pytest.raises(OSError, match="pending signals"):
        make_rig(vcpus=4, prepare=starve)
    assert not leftovers.threads


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_threads_that_are_refused_are_told_before_the_start(
    make_rig: "MakeRig", leftovers: "Leftovers", allowed: int
) -> None:
    if not os.access(PIDS, os.W_OK):
        pytest.skip("no cgroup can be made here")

    def starve(_rig: object) -> None:
        starved.enter_context(no_more_threads(allowed))

    with contextlib.ExitStack() as starved, pytest.raises(OSError, match="limits of threads"):
        make_rig(vcpus=4, prepare=starve)
    assert not leftovers.threads
