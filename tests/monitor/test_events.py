"""How often events are sent."""

from collections.abc import Callable
from typing import Any

import pytest

from qmpserver.monitor.events import INTERVAL, Event, Key, Limiter

LABELS = "abcdexy"


class Clock:
    """Timers that run when told."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[Key], None], key: Key) -> "Clock":
        assert delay == INTERVAL
        self.timers.append(lambda: callback(key))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def pass_interval(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sent() -> list[str]:
    return []


@pytest.fixture
def limiter(clock: Clock, sent: list[str]) -> Limiter:
    return Limiter(clock.call_later, lambda event: sent.append(LABELS[event.nanoseconds]))


def offer(limiter: Limiter, name: str, data: dict[str, Any] | None, label: str) -> None:
    limiter.offer(Event(name, data, LABELS.index(label)))


def test_most_events_are_not_limited(limiter: Limiter, sent: list[str], clock: Clock) -> None:
    for event in ("a", "b"):
        offer(limiter, "STOP", None, event)
    assert sent == ["a", "b"]
    assert clock.timers == []


def test_the_first_at_once_and_the_last_in_time(
    limiter: Limiter, sent: list[str], clock: Clock
) -> None:
    for event in ("a", "b", "c"):
        offer(limiter, "RTC_CHANGE", {"offset": 1}, event)
    assert sent == ["a"]
    clock.pass_interval()
    assert sent == ["a", "c"]
    offer(limiter, "RTC_CHANGE", {"offset": 1}, "d")
    assert sent == ["a", "c"]
    clock.pass_interval()
    clock.pass_interval()
    assert clock.timers == []
    offer(limiter, "RTC_CHANGE", {"offset": 1}, "e")
    assert sent == ["a", "c", "d", "e"]


def test_events_are_limited_apart(limiter: Limiter, sent: list[str]) -> None:
    offer(limiter, "RTC_CHANGE", None, "a")
    offer(limiter, "WATCHDOG", None, "b")
    for device in ("x", "y", "x"):
        offer(limiter, "VSERPORT_CHANGE", {"id": device, "open": True}, device)
    assert sent == ["a", "b", "x", "y"]


def test_close_drops_what_is_held(limiter: Limiter, sent: list[str], clock: Clock) -> None:
    offer(limiter, "RTC_CHANGE", None, "a")
    offer(limiter, "RTC_CHANGE", None, "b")
    limiter.close()
    clock.pass_interval()
    assert sent == ["a"]


def test_an_event_that_cannot_be_sent_does_not_hold_back_later_ones(clock: Clock) -> None:
    tried: list[int] = []

    def send(event: Event) -> None:
        tried.append(event.nanoseconds)
        if event.nanoseconds == 1:
            raise TypeError("not JSON")

    limiter = Limiter(clock.call_later, send)
    limiter.offer(Event("RTC_CHANGE", None, 0))
    limiter.offer(Event("RTC_CHANGE", None, 1))
    with pytest.raises(TypeError):
        clock.pass_interval()
    clock.pass_interval()
    limiter.offer(Event("RTC_CHANGE", None, 2))
    assert tried == [0, 1, 2]


def test_after_close_no_timer_is_started(limiter: Limiter, sent: list[str], clock: Clock) -> None:
    limiter.close()
    offer(limiter, "RTC_CHANGE", None, "a")
    offer(limiter, "RTC_CHANGE", None, "b")
    assert sent == ["a", "b"]
    assert clock.timers == []
