"""`info migrate`: the lines that QEMU 11.1 showed for results of its `query-migrate`."""

import json
from pathlib import Path
from typing import Any

import pytest

from qmpserver.human import HumanMonitor, commands
from qmpserver.human.migration import shown
from qmpserver.monitor import Registry
from qmpserver.qapi import Schema

SCHEMA = Schema.load(Path(__file__).parents[2] / "schema" / "qapi-schema.json")
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


class Migrating:
    """Commands of a migration that completes when it has been looked at three times."""

    def __init__(self) -> None:
        self.registry = Registry(SCHEMA)
        self.begun: list[tuple[str, bool]] = []
        self.looks = ["setup", "active", "completed"]
        self.registry.command("migrate")(self._migrate)
        self.registry.command("query-migrate")(self._query)

    def _migrate(self, uri: str, resume: bool) -> None:
        self.begun.append((uri, resume))

    def _query(self) -> dict[str, Any]:
        return {"status": self.looks.pop(0)}


@pytest.mark.parametrize(
    ("line", "terminal", "left"),
    [("migrate unix:/x", True, 0), ("migrate -d unix:/x", True, 3), ("migrate unix:/x", False, 3)],
)
async def test_a_terminal_waits_unless_detached(line: str, terminal: bool, left: int) -> None:
    migrating = Migrating()
    monitor = HumanMonitor(migrating.registry, commands(), terminal=terminal)
    assert await monitor.execute(line) == ""
    assert migrating.begun == [("unix:/x", False)]
    assert len(migrating.looks) == left
