"""The profiles of QEMU's releases, and what speaks as one of them."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qmpserver import releases
from qmpserver.monitor.adapted import AdaptedRegistry
from qmpserver.qapi import Schema
from qmpserver.qapi.introspect import compiled
from qmpserver.qmp import CommandError
from qmpserver.releases import NEWEST, RELEASES, own_schema
from qmpserver.releases.__main__ import page
from tests.conftest import ROOT

OLDEST = RELEASES["qemu-7.2"]


def test_the_page_is_generated() -> None:
    """`python -m qmpserver.releases > qmpserver/releases/README.md` makes it."""
    assert (ROOT / "qmpserver" / "releases" / "README.md").read_text() == page()


def test_the_newest_release_needs_no_words() -> None:
    assert list(RELEASES.values())[-1] is NEWEST
    assert releases.Release(NEWEST.name, NEWEST.version) == NEWEST


def test_types_are_made_when_they_are_needed() -> None:
    """By several threads at once, too."""
    infos = NEWEST.introspection
    lazy = Schema.from_introspection(infos, lazy=True)
    assert "arguments" not in vars(lazy.commands["query-status"])
    whole = Schema.from_introspection(infos)
    assert "arguments" in vars(whole.commands["query-status"])
    with ThreadPoolExecutor(4) as threads:
        for made in threads.map(_types, [lazy] * 4):
            assert made == _types(whole)
    with pytest.raises(AttributeError, match="nothing"):
        getattr(lazy.commands["query-status"], "nothing")  # noqa: B009


def _types(schema: Schema) -> list[dict[str, object]]:
    return compiled(schema.commands.values(), schema.events.values())


def test_an_older_schema_has_widths() -> None:
    """Introspection has none; they come from the newest schema."""
    command = own_schema(OLDEST.name).commands["migrate-set-parameters"]
    with pytest.raises(ValueError, match="expects uint8_t"):
        command.validate({"multifd-channels": 300})


async def test_handlers_speak_as_an_older_release() -> None:
    registry = AdaptedRegistry(own_schema(OLDEST.name), OLDEST.words)

    @registry.command("query-status")
    def query_status() -> dict[str, Any]:
        return {"status": "paused", "running": False, "later": 1}

    @registry.command("calc-dirty-rate")
    async def calc_dirty_rate(calc_time: int, calc_time_unit: str = "second", **_: Any) -> None:
        raise CommandError("sample-pages is used only in page-sampling mode")

    @registry.command("query-accelerators")
    def query_accelerators() -> dict[str, Any]:
        return {}

    registry.adapt()
    assert registry.names == ["calc-dirty-rate", "qmp_capabilities", "query-status"]
    shown = registry.call(registry.find("query-status"), {}, None)
    assert shown == {"status": "paused", "running": False, "singlestep": False}
    with pytest.raises(CommandError, match=r"^either sample-pages or dirty-ring can be specified"):
        await registry.call(registry.find("calc-dirty-rate"), {"calc-time": 1}, None)
    with pytest.raises(CommandError, match="'calc-time-unit' is unexpected"):
        registry.call(
            registry.find("calc-dirty-rate"), {"calc-time": 1, "calc-time-unit": "second"}, None
        )


def test_events_of_an_older_release() -> None:
    sent: list[Any] = []
    registry = AdaptedRegistry(own_schema(OLDEST.name))
    emit = registry.emitter(lambda *event: sent.append(event))
    emit("STOP")
    emit("MIGRATION", {"status": "failing"})
    emit("MIGRATION", {"status": "failed"})
    emit("LATER", {})
    assert sent == [("STOP", None), ("MIGRATION", {"status": "failed"})]
