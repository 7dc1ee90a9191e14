"""An engine's requests to the scheduler leave the user's choices as they are."""

import ctypes
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.vm.conftest import MakeRig, Rig

SYS_SCHED_SETATTR, SYS_SCHED_GETATTR = 314, 315  # x86_64
ATTRIBUTES = struct.Struct("IIQiIQQQ")
SHORT_SLICE_NS = 100_000
pytestmark = pytest.mark.parametrize("accel", ["soft"])


class Attributes(NamedTuple):
    """The kernel's `struct sched_attr`."""

    size: int
    policy: int
    flags: int
    nice: int
    priority: int
    runtime: int
    deadline: int
    period: int


def attributes(thread_id: int) -> Attributes:
    buffer = ctypes.create_string_buffer(ATTRIBUTES.size)
    result = ctypes.CDLL(None).syscall(SYS_SCHED_GETATTR, thread_id, buffer, ATTRIBUTES.size, 0)
    assert result == 0
    return Attributes(*ATTRIBUTES.unpack(buffer))


def set_attributes(policy: int, nice: int) -> None:
    """Set the calling thread's; its slice becomes the default again."""
    packed = ATTRIBUTES.pack(*Attributes(ATTRIBUTES.size, policy, 0, nice, 0, 0, 0, 0))
    assert ctypes.CDLL(None).syscall(SYS_SCHED_SETATTR, 0, packed, 0) == 0


def started(make_rig: "MakeRig", policy: int, nice: int) -> tuple[Attributes, "Rig"]:
    """Start an engine on a thread with these choices; return the thread's attributes after it."""

    def start() -> tuple[Attributes, "Rig"]:
        set_attributes(policy, nice)
        rig = make_rig()
        return attributes(0), rig

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(start).result()


@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_BATCH])
def test_nice_value_and_policy_are_kept(make_rig: "MakeRig", policy: int) -> None:
    after, rig = started(make_rig, policy, 10)
    assert (after.policy, after.nice) == (policy, 10)
    for thread_id in rig.engine.thread_ids():
        vcpu = attributes(thread_id)
        assert (vcpu.policy, vcpu.nice) == (policy, 10)


def test_the_idle_policy_is_kept(make_rig: "MakeRig") -> None:
    after, rig = started(make_rig, os.SCHED_IDLE, 0)
    assert after.policy == os.SCHED_IDLE
    assert attributes(rig.engine.reaper().thread_id).policy == os.SCHED_IDLE


def test_the_slice_is_short(make_rig: "MakeRig") -> None:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 12):
        pytest.skip("slices exist from Linux 6.12 on")
    after, rig = started(make_rig, os.SCHED_OTHER, os.nice(0))
    assert after.runtime == SHORT_SLICE_NS
    assert all(attributes(vcpu).runtime != SHORT_SLICE_NS for vcpu in rig.engine.thread_ids())
