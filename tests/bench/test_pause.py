"""The pause of a guest between two machines whose counters are the test's own."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from qmpserver.bench import pause as module
from qmpserver.bench.pause import Pause
from qmpserver.bench.vm import VmError

if TYPE_CHECKING:
    from qmpserver.bench.vm import Vm


def machine(progress: Callable[[int], int]) -> "Vm":
    return cast("Vm", SimpleNamespace(progress=progress))


class Times:
    """The clock of the test: it goes on by a millisecond with each look."""

    def __init__(self) -> None:
        self.ns = 0

    def monotonic_ns(self) -> int:
        self.ns += 1_000_000
        return self.ns

    def sleep(self, _seconds: float) -> None:
        """Take no time."""


def test_it_lasts_from_the_last_move_here_to_the_first_one_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Copies of the counter arrive meanwhile: they are not ahead."""
    monkeypatch.setattr(module, "time", Times())
    here = iter([1, 2, 3, 4, 4, 4, 4, 4])
    there = iter([0, 0, 2, 2, 4, 4, 4, 5])
    with Pause(machine(lambda _: next(here)), machine(lambda _: next(there))) as pause:
        assert pause.ms() == 4.0
    assert list(here) == list(there) == []


def test_a_guest_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEVER_S", 0.01)
    looked = threading.Event()

    def progress(_index: int) -> int:
        looked.set()
        return 7

    with Pause(machine(progress), machine(progress)) as pause:
        with pytest.raises(VmError, match="for the guest to run at its destination"):
            pause.ms()
        assert looked.wait(10)
    assert not pause.is_alive()
