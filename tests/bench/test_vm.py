"""A watched machine whose memory and answers are the test's own."""

import errno
import mmap
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from qmpserver.bench import vm as module
from qmpserver.bench.cancel import throttled
from qmpserver.bench.vm import _CONTROL, _PROGRESS, Vm, VmError, peer
from qmpserver.tools.watching import QUERY_RING
from qmpserver.vm.accel.soft import CLOCK_HZ
from qmpserver.vm.machine.guest import PATTERNS

if TYPE_CHECKING:
    from qmpserver.tools.client import Client

VCPUS = 2
SIZE = 64 << 20


class Answers:
    """A client that is answered by the test; its server is this process."""

    def __init__(self) -> None:
        self.socket, self._other = socket.socketpair()
        self.executed: list[str] = []
        self.commands = ["query-commands", "query-cpus-fast"]
        self.kvm = True
        self.ring: dict[str, Any] = {"mode": "event"}

    def execute(self, command: str) -> Any:
        self.executed.append(command)
        if command == "query-commands":
            return [{"name": name} for name in self.commands]
        if command == "query-kvm":
            return {"enabled": self.kvm, "present": self.kvm}
        return self.ring if command == QUERY_RING else [{}] * VCPUS

    def close(self) -> None:
        self.socket.close()
        self._other.close()


@pytest.fixture
def answers() -> Iterator[Answers]:
    made = Answers()
    yield made
    made.close()


@pytest.fixture
def ram() -> Iterator[mmap.mmap]:
    fd = os.memfd_create("qmpserver-ram")
    os.ftruncate(fd, SIZE)
    with mmap.mmap(fd, SIZE) as memory:
        yield memory
    os.close(fd)


def watched(answers: Answers) -> Vm:
    return Vm("it", cast("Client", answers))


def set_progress(ram: mmap.mmap, index: int, pages: int) -> None:
    struct.pack_into("Q", ram, _CONTROL + index * mmap.PAGESIZE + _PROGRESS, pages)


def test_progress(answers: Answers, ram: mmap.mmap) -> None:
    vm = watched(answers)
    set_progress(ram, 0, 5)
    set_progress(ram, 1, 7)
    assert (vm.progress(0), vm.progress(1)) == (5, 7)
    assert (vm.pid, vm.vcpus()) == (os.getpid(), VCPUS)
    vm.close()


def test_pace(answers: Answers, ram: mmap.mmap) -> None:
    vm = watched(answers)
    vm.pace(1, 16, 1000, PATTERNS["hotspot"])
    where = _CONTROL + mmap.PAGESIZE
    assert struct.unpack_from("6Q", ram, where) == (0, 16, PATTERNS["hotspot"], 1000, 0, 0)
    vm.pace(1, 32, 0)
    assert struct.unpack_from("6Q", ram, where) == (0, 32, PATTERNS["sequential"], 0, 0, 0)
    assert struct.unpack_from("6Q", ram, _CONTROL) == (0,) * 6
    vm.close()


def test_the_clock_of_a_machine_without_kvm(answers: Answers, ram: mmap.mmap) -> None:
    vm = watched(answers)
    answers.kvm = False
    assert vm.clock_hz() == CLOCK_HZ
    vm.close()


def test_the_clock_of_a_machine_on_kvm(answers: Answers, ram: mmap.mmap, kvm: None) -> None:
    vm = watched(answers)
    before = len(os.listdir("/proc/self/fd"))
    assert vm.clock_hz() % 1000 == 0
    assert 100_000_000 < vm.clock_hz() < 10_000_000_000
    assert len(os.listdir("/proc/self/fd")) == before
    vm.close()


def test_a_clock_that_is_not_told(
    answers: Answers, ram: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module, "Kvm", refuse)
    vm = watched(answers)
    with pytest.raises(VmError, match="KVM does not tell the vCPUs' clock: Permission denied"):
        vm.clock_hz()
    vm.close()


def test_warm(answers: Answers, ram: mmap.mmap) -> None:
    """It waits for the last vCPU to have stored to its share of the memory."""
    vm = watched(answers)
    share = SIZE // mmap.PAGESIZE // VCPUS
    set_progress(ram, 0, share)
    set_progress(ram, 1, share - 1)
    start = time.monotonic()
    timer = threading.Timer(0.1, set_progress, (ram, 1, share))
    timer.start()
    vm.warm(VCPUS)
    assert 0.1 <= time.monotonic() - start < 1.9
    timer.join()
    vm.close()


def test_throttled_waits_for_the_guest_to_stand_still() -> None:
    seen = iter([1, 2, 3, 4, 5, 5])
    throttled(cast("Vm", SimpleNamespace(progress=lambda _index: next(seen))))
    assert list(seen) == []


def test_which_reaper_polls(answers: Answers, ram: mmap.mmap) -> None:
    vm = watched(answers)
    assert (vm.dirty_ring(), vm.polls()) == (None, True)
    vm.close()
    answers.commands.append(QUERY_RING)
    vm = watched(answers)
    assert (vm.dirty_ring(), vm.polls()) == ({"mode": "event"}, False)
    answers.ring["mode"] = "poll"
    assert vm.polls()
    vm.close()


def test_the_load_runs_with_the_guest(answers: Answers, ram: mmap.mmap) -> None:
    child = os.fork()
    if not child:
        while True:
            signal.pause()
    try:
        os.kill(child, signal.SIGSTOP)
        os.waitpid(child, os.WUNTRACED)
        vm = watched(answers)
        vm.load = child
        with vm.running():
            assert answers.executed[-1] == "cont"
            assert os.WIFCONTINUED(os.waitpid(child, os.WCONTINUED)[1])
        assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
        assert answers.executed[-1] == "stop"
        vm.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_cannot_be_watched(answers: Answers) -> None:
    with pytest.raises(VmError, match="has no guest memory that can be watched"):
        watched(answers)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as connection,
        pytest.raises(VmError, match="unknown over TCP"),
    ):
        peer(connection)
