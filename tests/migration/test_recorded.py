"""The room held against conversations that were recorded from QEMU 11.1."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from qmpserver.migration.address import check_transport, parse_address
from qmpserver.migration.capabilities import Capabilities
from qmpserver.migration.parameters import Parameters
from qmpserver.monitor import Registry
from qmpserver.qapi import Schema
from qmpserver.qmp import CommandError
from qmpserver.transcript.format import Transcript, read_all
from tests.qemu.transcript import exchanges

TRANSCRIPTS = Path(__file__).parents[1] / "qemu" / "transcripts" / "qemu-11.1"
SCHEMA = Path(__file__).parents[2] / "schema" / "qapi-schema.json"
RECORDED = {
    f"{path.stem}:{transcript.line}": transcript
    for path in sorted(TRANSCRIPTS.glob("migration-*.txt"))
    if path.stem != "migration-human"
    for transcript in read_all(path.read_text())
}
NEEDS_MORE = "'-incoming' was not specified", "Guest is waiting", "Migration not in expected"


class Room:
    """The commands that need nothing but the room."""

    def __init__(self, schema: Schema, options: str) -> None:
        self.registry = Registry(schema)
        self._capabilities = Capabilities()
        self._parameters = Parameters()
        self._ring = "dirty-ring-size" in options
        self._awaited = False
        handlers: dict[str, Callable[..., Any]] = {
            "migrate": self._migrate,
            "migrate-incoming": self._incoming,
            "migrate-set-capabilities": self._set_capabilities,
            "query-migrate-capabilities": self._capabilities.query,
            "migrate-set-parameters": self._set_parameters,
            "query-migrate-parameters": self._parameters.query,
        }
        for name, handler in handlers.items():
            self.registry.command(name)(handler)

    def _migrate(self, resume: bool = False, **address: Any) -> None:
        self._check("source", **address)
        assert resume, "the transcripts begin no migration"
        raise CommandError("Cannot resume if there is no paused migration")

    def _incoming(self, exit_on_error: bool = True, **address: Any) -> None:
        self._check("destination", **address)
        self._awaited = True

    def _check(self, side: Any, uri: str | None = None, channels: Any = None) -> None:
        check_transport(parse_address(uri, channels, side), self._capabilities)

    def _set_capabilities(self, capabilities: list[dict[str, Any]]) -> None:
        states = {one["capability"]: one["state"] for one in capabilities}
        plain, awaited = self._parameters.plain, self._awaited
        self._capabilities.set(
            states, ring=self._ring, under_way=False, awaited=awaited, plain=plain
        )

    def _set_parameters(self, **values: Any) -> None:
        named = {name.replace("_", "-"): value for name, value in values.items()}
        self._parameters.set(named, capabilities=self._capabilities)

    def answer(self, said: Mapping[str, Any]) -> dict[str, Any]:
        bound = self.registry.find(said["execute"])
        try:
            result = self.registry.call(bound, said.get("arguments", {}), None)
        except CommandError as error:
            return {"error": {"class": error.error_class, "desc": error.desc}}
        return {"return": {} if result is None else result}


def answered(transcript: Transcript, room: Room) -> Iterator[tuple[Any, Any]]:
    """Yield each command that the room can answer, with QEMU's answer."""
    for said, heard in exchanges(transcript):
        request, reply = said[-1].value, heard[-1].value
        assert isinstance(request, dict)
        assert isinstance(reply, dict)
        desc = reply.get("error", {}).get("desc", "")
        if request["execute"] in room.registry.names and not desc.startswith(NEEDS_MORE):
            yield request, reply


@pytest.mark.parametrize("transcript", RECORDED.values(), ids=RECORDED)
def test_answers_are_qemus(transcript: Transcript) -> None:
    room = Room(Schema.load(SCHEMA), transcript.options or "")
    pairs = list(answered(transcript, room))
    assert len(pairs) > 5
    for request, reply in pairs:
        if request["execute"] != "qmp_capabilities":
            assert room.answer(request) == reply, request


def test_there_are_enough() -> None:
    refusals = {
        one.value["error"]["desc"]
        for transcript in RECORDED.values()
        for one in transcript.messages
        if isinstance(one.value, dict) and "error" in one.value
    }
    assert len(refusals) > 150


def test_capabilities_of_another_release() -> None:
    """No rule is about those that it does not have, and none fails without them."""
    capabilities = Capabilities(["block", "events", "multifd", "xbzrle"])
    capabilities.set({"block": True, "multifd": True}, ring=False, under_way=False)
    assert [one["capability"] for one in capabilities.query() if one["state"]] == [
        "block",
        "multifd",
    ]
    with pytest.raises(CommandError, match="Multifd is not compatible with xbzrle"):
        capabilities.set({"xbzrle": True}, ring=False, under_way=False)
    assert not capabilities["xbzrle"]
