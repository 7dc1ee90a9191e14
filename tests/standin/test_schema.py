"""Every command of each vocabulary has an answer that its schema allows."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from qmpserver.monitor import Registry
from qmpserver.monitor.adapted import adapted
from qmpserver.qapi import Schema, SchemaError
from qmpserver.qapi.fitting import fitted, smallest
from qmpserver.qapi.model import EMPTY, AlternateType, ArrayType, ObjectType
from qmpserver.qmp import CommandError
from qmpserver.releases import RELEASES, Release
from qmpserver.standin import Scenario, ScenarioError, StandIn, vocabulary
from qmpserver.standin.commands import MAX_REFUSED
from qmpserver.standin.state.handlers import register_all
from tests.qapi.introspection import Tree
from tests.qapi.made_up import Maker, refusal
from tests.qemu.probe import Qemu
from tests.standin.conftest import Serve

# They end the conversation, or are refused after the negotiation.
OWN_STATE = {"quit", "qmp_capabilities"}


def deep(levels: int) -> str:
    return "".join(
        f'{{"name": "{number}", "meta-type": "object",'
        f' "members": [{{"name": "a", "type": "{number + 1}"}}]}},'
        for number in range(levels)
    )


@pytest.fixture(scope="module")
def schema(release: Release) -> Schema:
    """The schema of each release, not shared with others."""
    return Schema.from_introspection(release.introspection)


@pytest.mark.slow
def test_introspection_of_the_introspected_is_the_same(release: Release, schema: Schema) -> None:
    infos = release.introspection
    assert schema.introspect() == infos
    schema._introspection = None
    again, theirs = Tree(schema.introspect()), Tree(infos)
    assert again.roots() == theirs.roots()
    assert len(again.roots()) > 250
    for name in again.roots():
        assert again.flat(name) == theirs.flat(name), name


@pytest.mark.slow
def test_refusals_of_arguments_are_qemus(release_qemu: str, schema: Schema) -> None:
    """Spoil valid arguments of each command in one place, and compare both refusals."""
    maker = Maker(random.Random(72))
    qemu = Qemu(release_qemu)
    compared = 0
    try:
        for name, command in schema.commands.items():
            if not command.gen or _has_alternate(command.arguments, ()):
                continue  # introspection does not tell an alternate's name
            for _ in range(5):
                arguments = maker.spoilt(command.arguments)
                refused = refusal(command, arguments)
                if refused is not None:
                    theirs = qemu.execute(name, arguments).get("error", {}).get("desc", "")
                    if "uint" in theirs or "int8" in theirs or "int32" in theirs:
                        continue  # nor an integer's width
                    assert refused == theirs, (name, arguments)
                    compared += 1
    finally:
        qemu.close()
    assert compared > 300


def _has_alternate(type_: object, outer: tuple[object, ...]) -> bool:
    if type_ in outer:
        return False
    inner = (*outer, type_)
    if isinstance(type_, ArrayType):
        return _has_alternate(type_.element, inner)
    if isinstance(type_, ObjectType):
        parts = [member.type for member in type_.members]
        parts += [branch.type for branch in type_.branches.values()]
        return any(_has_alternate(part, inner) for part in parts)
    return isinstance(type_, AlternateType)


def test_the_smallest_value_of_every_type_is_allowed(schema: Schema) -> None:
    for command in schema.commands.values():
        command.validate_result(smallest(command.returns or EMPTY))
        if command.gen:
            arguments = smallest(command.arguments)
            assert isinstance(arguments, dict)
            command.validate(arguments)
    for event in schema.events.values():
        event.validate(smallest(event.data))


def test_a_value_is_made_to_fit() -> None:
    returns = RELEASES["qemu-7.2"].schema.commands["query-status"].returns
    assert returns is not None
    assert fitted({"status": "paused", "later": 1}, returns) == {
        "status": "paused",
        "singlestep": False,
        "running": False,
    }
    assert fitted(None, returns) == smallest(returns)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", vocabulary.NAMED)
async def test_every_command_is_answered_as_the_schema_says(
    serve: Serve, name: str, seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # commands make files
    maker = Maker(random.Random(seed))
    answered = failed = 0
    async with serve({"schema": name}) as served:
        commands = served.stand_in.scenario.schema.commands
        greeted = served.stand_in.scenario.version is not None
        client = await (served.client() if greeted else served.connect())
        for command in commands.values():
            if command.name in OWN_STATE or not command.success_response:
                continue
            arguments = maker.value(command.arguments, 0)
            assert isinstance(arguments, dict)
            client.send(command.name, arguments, id=command.name)
            reply: dict[str, Any] = {"event": ""}
            while "event" in reply:
                reply = json.loads((await client.line()).removeprefix(b"\xff"))
            assert reply["id"] == command.name
            if "error" in reply:  # the state's, since these are good arguments
                assert not reply["error"]["desc"].startswith("Internal error"), reply
                failed += 1
            else:
                command.validate_result(reply["return"])
                answered += 1
        assert served.stand_in.failures() == []
        assert not served.stand_in._commands.refused
    assert answered > failed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]x", "stray 'x'"),
        ('{"a": 1}', "neither a reply to query-qmp-schema nor a QAPI schema"),
        ('[{"name": "x"}]', "invalid introspection: KeyError"),
        ('[{"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "0"}]', "'0'"),
        ('[{"name": "c", "meta-type": "command", "arg-type": "int", "ret-type": "int"},'
         ' {"name": "int", "meta-type": "builtin", "json-type": "int"}]', "int is not an object"),
        ('[{"name": "e", "meta-type": "event", "arg-type": "0"},'
         ' {"name": "0", "meta-type": "strange"}]', "unknown kind strange"),
        ('[{"name": "e", "meta-type": "event", "arg-type": "0"},'
         ' {"name": "0", "meta-type": "object", "members": [{"name": "k", "type": "1"}],'
         ' "tag": "k", "variants": [{"case": "y", "type": "2"}]},'
         ' {"name": "1", "meta-type": "enum", "members": [{"name": "x"}], "values": ["x"]},'
         ' {"name": "2", "meta-type": "object", "members": []}]', "tag k has no value y"),
        ("[" * 100_000, "values are nested too deeply"),
        ('[{"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "1"},'
         ' {"name": "0", "meta-type": "object", "members": []},'
         ' {"name": "1", "meta-type": "object", "members": [{"name": "a", "type": "1"}]}]',
         "command 'c': a value of its type would contain itself"),
        ('[{"name": "e", "meta-type": "event", "arg-type": "0"},'
         ' {"name": "0", "meta-type": "object", "members": [{"name": "a", "type": "1"}]},'
         ' {"name": "1", "meta-type": "enum", "members": [], "values": []}]',
         "event 'e': .* has no value"),
        (f'[{{"name": "c", "meta-type": "command", "arg-type": "200", "ret-type": "0"}},'
         f' {deep(200)} {{"name": "200", "meta-type": "object", "members": []}}]',
         "command 'c': its type is nested too deeply"),
    ],
)  # fmt: skip
def test_files_without_a_schema(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    (tmp_path / "a.toml").write_text('schema = "bad.json"')
    with pytest.raises(ScenarioError, match=message) as caught:
        Scenario.load(str(tmp_path / "a.toml"))
    assert f"{tmp_path}/a.toml: schema: " in str(caught.value)
    with pytest.raises((SchemaError, OSError)):
        vocabulary.load("bad.json", tmp_path)


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (gzip.compress(b"[" + b" " * 2000), "it has more than 1000 bytes"),
        (gzip.compress(b"[]" * 100)[:-9], "it is cut"),
        (b"\x1f\x8b\0nothing", "unknown compression method"),
    ],
    ids=["large", "cut", "strange"],
)
def test_compressed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bytes, message: str
) -> None:
    monkeypatch.setattr(vocabulary, "LARGEST", 1000)
    (tmp_path / "bad.gz").write_bytes(packed)
    with pytest.raises(ScenarioError, match=f"bad.gz: cannot be decompressed: .*{message}"):
        Scenario.read({"schema": str(tmp_path / "bad.gz")})


async def test_arguments_of_a_deep_type(serve: Serve, tmp_path: Path) -> None:
    # A level takes 5 frames of Python 3.11, 4 of later ones; introspection takes 3 and can be read.
    levels = 270
    optional = deep(levels).replace('"type":', '"default": null, "type":')
    (tmp_path / "deep.json").write_text(
        f'[{{"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "{levels}"}},'
        f' {optional} {{"name": "{levels}", "meta-type": "object", "members": []}}]'
    )
    async with serve(f"default,schema={tmp_path}/deep.json") as served:
        client = await served.client()
        refused = await client.execute("c", {"a": {}})
        assert refused["desc"] == "Arguments are nested too deeply"


async def test_a_command_that_only_has_the_name_of_qemus(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(
        "{ 'pragma': { 'command-name-exceptions': [ 'device_del', 'netdev_add' ] } }"
        "{ 'command': 'device_del', 'data': { 'id': 'int' } }"
        "{ 'command': 'netdev_add', 'data': { 'name': 'str' } }"
        "{ 'command': 'stop', 'data': { 'reason': 'str' } }"
        "{ 'command': 'query-migrate-capabilities' }"
        "{ 'command': 'migrate-continue' }"
    )
    async with serve(f"default,schema={tmp_path}/mine.json") as served:
        client = await served.client()
        assert await client.execute("device_del", {"id": 1}) == {}
        assert await client.execute("netdev_add", {"name": "n"}) == {}
        assert await client.execute("stop", {"reason": "r"}) == {}
        assert (await client.execute("migrate-continue"))["class"] == "GenericError"


@pytest.mark.parametrize("name", vocabulary.NAMED)
async def test_the_state_answers_in_each_vocabulary(name: str) -> None:
    stand_in = StandIn(Scenario.read({"schema": name}))
    registry = Registry(stand_in.scenario.schema)
    register_all(registry, stand_in._state)
    for bound in registry.commands:
        assert adapted(bound, registry.schema.commands[bound.name]) is bound.handler, bound.name


async def test_an_argument_of_a_later_release(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "later.json").write_text(
        "{ 'command': 'stop', 'data': { '*gently': 'bool' } }"
        "{ 'struct': 'StatusInfo', 'data': { 'status': 'str' } }"
        "{ 'command': 'query-status', 'data': { '*of-whom': 'str' }, 'returns': 'StatusInfo' }"
    )
    async with serve(f"default,schema={tmp_path}/later.json") as served:
        client = await served.client()
        assert await client.execute("stop", {"gently": True}) == {}
        assert await client.execute("query-status", {"of-whom": "me"}) == {"status": "paused"}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_schema_from_a_file(
    serve: Serve, tmp_path: Path, packed: bool, wrapped: bool
) -> None:
    infos = Schema.load(Path(vocabulary.FILES, "guest-agent.json")).introspect()
    raw = json.dumps({"return": infos} if wrapped else infos).encode()
    (tmp_path / "mine").write_bytes(gzip.compress(raw) if packed else raw)
    async with serve(f"default,schema={tmp_path}/mine") as served:
        client = await served.client()
        assert await client.execute("guest-sync", {"id": 7}) == 7
        assert "not been found" in (await client.execute("query-status"))["desc"]


async def test_a_schema_in_qapi(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(
        "{ 'struct': 'Pump', 'data': { 'rpm': 'int' } }"
        "{ 'command': 'query-pump', 'returns': 'Pump' }"
        "{ 'alternate': 'PumpRef', 'data': { 'definition': 'Pump', 'reference': 'str' } }"
        "{ 'struct': 'Pipe', 'data': { 'pump': 'PumpRef' } }"
        "{ 'command': 'query-pipe', 'returns': 'Pipe' }"
    )
    async with serve(f"default,schema={tmp_path}/mine.json") as served:
        client = await served.client()
        assert await client.execute("query-pump") == {"rpm": 0}
        assert await client.execute("query-pipe") == {"pump": ""}  # not the object


async def test_refusals_are_kept_within_bounds() -> None:
    commands = StandIn(Scenario.read({}))._commands
    for number in range(MAX_REFUSED + 1):
        with pytest.raises(CommandError):
            commands.find(f"command-{number}")
    assert len(commands.refused) == MAX_REFUSED
    assert commands.refused[-1].startswith(f"command-{MAX_REFUSED}: ")
