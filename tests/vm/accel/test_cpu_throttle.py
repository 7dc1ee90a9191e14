"""The CPU throttle: vCPUs are held for a part of their time."""

import pytest

from qmpserver.vm.accel.engine import VcpuState
from tests.conftest import Until
from tests.vm.conftest import MakeRig

SLICE_MS = 10


@pytest.mark.parametrize("percentage", [50, 90])
def test_held_for_a_part_of_the_time(make_rig: MakeRig, until: Until, percentage: int) -> None:
    rig = make_rig(track=False)
    rig.engine.set_cpu_throttle(percentage)
    rig.engine.cont()
    until(lambda: all(rig.engine.vcpu(index).throttle_count >= 5 for index in range(rig.vcpus)))
    pause_ms = SLICE_MS * percentage / (100 - percentage)
    for index in range(rig.vcpus):
        vcpu = rig.engine.vcpu(index)
        assert vcpu.throttle_time / vcpu.throttle_count / 1e6 >= 0.9 * pause_ms


def test_ends_at_once(make_rig: MakeRig, until: Until) -> None:
    rig = make_rig(track=False)
    rig.engine.set_cpu_throttle(99)  # pauses of a second
    rig.engine.cont()
    until(lambda: rig.engine.count(VcpuState.THROTTLED) == rig.vcpus)
    rig.engine.set_cpu_throttle(0)
    rig.advance(100_000)


@pytest.mark.slow
def test_leaves_limited_vcpus_to_their_limit(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.limit(None, 2000)
    rig.engine.set_cpu_throttle(99)
    rig.engine.cont()
    rig.advance(50_000)
