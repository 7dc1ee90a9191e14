"""Figures of a migration from the answers of servers, and their text."""

from typing import Any

import pytest

from qmpserver.tools.figures import read_figures

RAM = {
    "total": 512 << 20,
    "remaining": 300 << 20,
    "transferred": 250 << 20,
    "mbps": 1048.576,
    "dirty-pages-rate": 2560,
    "page-size": 4096,
    "dirty-sync-count": 3,
}
ACTIVE: dict[str, Any] = {"status": "active", "total-time": 2500, "ram": RAM}
TEXT = "300 MB remain, 125 MB/s, dirtied 10 MB/s, round 3"


def test_figures() -> None:
    figures = read_figures(ACTIVE)
    assert (figures.status, figures.seconds) == ("active", 2.5)
    assert (figures.total, figures.remaining, figures.sent) == (512 << 20, 300 << 20, 250 << 20)
    assert (figures.rate, figures.dirtied, figures.rounds) == (125.0, 10.0, 3)
    assert figures.progress == TEXT


def test_nothing_is_known_yet() -> None:
    assert read_figures({}).status == "none"
    assert read_figures({"status": "setup"}).progress == "begins"


@pytest.mark.parametrize(
    ("info", "limits", "text"),
    [
        ({"cpu-throttle-percentage": 30}, [], f"{TEXT}, vCPUs throttled 30 %"),
        ({"cpu-throttle-percentage": 0}, [], TEXT),
        ({"dirty-limit-throttle-time-per-round": 5}, [], f"{TEXT}, dirty limit"),
        ({}, [20, 20], f"{TEXT}, limit 20 MB/s"),
        ({}, [50, 5, 20], f"{TEXT}, limit 5 to 50 MB/s"),
    ],
)
def test_how_the_guest_is_slowed_down(info: dict[str, int], limits: list[int], text: str) -> None:
    shown = [{"cpu-index": 0, "limit-rate": limit, "current-rate": 1} for limit in limits]
    assert read_figures(ACTIVE | info, shown).progress == text
