"""`info migrate`: the lines that QEMU 11.1 showed for results of its `query-migrate`."""

import json
from pathlib import Path
from typing import Any

import pytest

from qmpserver.vm.commands.human.migration import shown

RECORDED = json.loads(Path(__file__).with_name("info_migrate.json").read_text())


@pytest.mark.parametrize("recorded", RECORDED, ids=[one["about"] for one in RECORDED])
def test_as_recorded(recorded: dict[str, Any]) -> None:
    assert shown(recorded["info"], recorded["all"]).splitlines() == recorded["shown"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1024, "1 KiB"),
        (67641344, "64.5 MiB"),
        (1 << 40, "1 TiB"),
        ((1 << 63) - 1, "8 EiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert f"Remaining: \t\t{text}\n" in shown({"status": "active", "remaining": size})
