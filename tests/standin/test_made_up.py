"""Made-up arguments, schemas and files: refusals in words, never an exception of another kind."""

import contextlib
import copy
import inspect
import json
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmpserver.qapi import Command
from qmpserver.qapi.model import ArrayType, EnumType, ObjectType, Type
from qmpserver.qmp import CommandError, dumps
from qmpserver.standin import Scenario, ScenarioError, StandIn, vocabulary

# Few, so that they meet again: names of devices, backends, nodes, jobs, drivers and paths.
NAMES = [
    "a", "b", "", "/machine/peripheral/a", "/objects/a", "/machine/peripheral", "type", "size",
    "pc-dimm", "virtio-blk-pci", "e1000", "iothread", "memory-backend-ram", "pty", "0x5.0x1",
]  # fmt: skip
LOOSE = ["id", "driver", "netdev", "chardev", "drive", "memdev", "iothread", "addr", "node", "size"]
CALLS = 30

MADE_UP = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(NAMES)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=5,
)
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@st.composite
def values(draw: st.DrawFn, type_: Type, depth: int = 0) -> Any:
    """A value of a type, mostly."""
    if draw(st.integers(0, 19)) == 0:
        return draw(MADE_UP)
    if isinstance(type_, ArrayType):
        return [draw(values(type_.element, depth + 1)) for _ in range(draw(st.integers(0, 2)))]
    if isinstance(type_, EnumType) and type_.values:
        return draw(st.sampled_from([one.name for one in type_.values]))
    if isinstance(type_, ObjectType):
        return draw(objects(type_, depth))
    simple: dict[str, st.SearchStrategy[Any]] = {
        "string": st.sampled_from(NAMES),
        "int": st.sampled_from([0, 1, 2, 1000, -1, 4096]) | st.integers(-(2**63), 2**63 - 1),
        "boolean": st.booleans(),
        "number": st.floats(allow_nan=False, allow_infinity=False),
    }
    return draw(simple.get(type_.wire, MADE_UP))


@st.composite
def objects(draw: st.DrawFn, type_: ObjectType, depth: int = 0) -> Any:
    """The members of an object, mostly: optional ones are there or not."""
    made: dict[str, Any] = {}
    while True:
        for one in type_.members:
            if not one.optional or (depth < 3 and draw(st.booleans())):
                made[one.name] = draw(values(one.type, depth + 1))
        branch = type_.tag and type_.branches.get(str(made[type_.tag.name]))
        if branch is None or not isinstance(branch.type, ObjectType):
            return made
        type_ = branch.type


@st.composite
def arguments(draw: st.DrawFn, command: Command) -> dict[str, Any]:
    made: dict[str, Any] = draw(objects(command.arguments))
    if not command.gen:
        made |= draw(st.dictionaries(st.sampled_from(LOOSE), st.sampled_from(NAMES) | MADE_UP))
    return made


def bound_by_state(name: str) -> list[str]:
    """Return the commands of a vocabulary, those with state twice as often as the others."""
    schema = vocabulary.load(name).schema
    plain = [one for one in schema.commands if one not in ("quit", "qmp_capabilities")]
    stateful = [one for one in plain if not one.startswith("query-")]
    return [*plain, *stateful, *["device_add", "blockdev-add", "object-add", "qom-get"] * 10]


ALONE = {"migration-peer": False}  # made-up addresses are not used


@pytest.mark.slow
@pytest.mark.parametrize("name", vocabulary.NAMED)
async def test_arguments_of_any_type(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # commands make files
    schema = vocabulary.load(name).schema
    commands = [one for one in bound_by_state(name) if one in schema.commands]

    @settings(QUICK, max_examples=15)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        later: list[Callable[[], None]] = []
        stand_in = StandIn(Scenario.read({"schema": name, "machine": ALONE}))
        monkeypatch.setattr(
            stand_in, "later", lambda _, function, *given: later.append(partial(function, *given))
        )
        for _ in range(CALLS):
            command = schema.commands[data.draw(st.sampled_from(commands))]
            execute(stand_in, command, data.draw(arguments(command)))
            while later:
                later.pop(0)()
        for close in stand_in._state.closes:
            close()

    check()


def execute(stand_in: StandIn, command: Command, given: dict[str, Any]) -> None:
    """Have a command executed that no client has sent: it is refused, or its result is allowed."""
    bound = stand_in._commands.find(command.name)
    if not (bound.wants_client or bound.is_async):
        with contextlib.suppress(CommandError):
            result = stand_in._commands.call(bound, given, None)
            if inspect.iscoroutine(result):  # it waits for a file
                result.send(None)
                result.close()
                return
            result = {} if result is None else result
            dumps(result, finite=True)
            command.validate_result(result)


def positions(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield all places in a value, as a container and a key or an index."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from positions(inner)


@st.composite
def spoilt(draw: st.DrawFn, value: Any, others: st.SearchStrategy[Any] = MADE_UP) -> Any:
    """Replace or drop a few places of a value."""
    changed = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(positions(changed))
        if not places:
            break
        where, key = places[draw(st.integers(0, len(places) - 1))]
        if draw(st.integers(0, 3)):
            where[key] = draw(others)
        else:
            del where[key]
    return changed


SCENARIO = tomllib.loads("""
schema = "qemu-7.2"
version = "9.1.0"
strict = true
ordered = true
fault = ["late-reply:query-block", { name = "stale-id", where = "stop", times = 1, seconds = 1.0 }]
[machine]
status = "running"
cpus = 2
memory = 1073741824
name = "vm"
uuid = "00000000-0000-0000-0000-000000000001"
migration-time = 0.1
unplug-time = 0.0
[[setup]]
command = "blockdev-add"
arguments = { driver = "null-co", node-name = "disk" }
[[setup]]
command = "device_add"
arguments = { driver = "virtio-blk-pci", drive = "disk", id = "a" }
[[on]]
command = "device_add"
arguments = { driver = "</^virtio-/>" }
times = 1
error = "Bus"
class = "GenericError"
[[on]]
command = "query-status"
return = { status = "paused", running = false, singlestep = false }
delay = 0.5
[[on]]
command = "system_powerdown"
before = [{ event = "SUSPEND" }]
events = [{ event = "STOP", after = 0.2 }]
status = "shutdown"
shutdown = "guest-shutdown"
[[event]]
event = "RTC_CHANGE"
data = { offset = 3, qom-path = "/machine/rtc" }
after = 1.0
[[expect]]
command = "stop"
times = "1..3"
[[expect]]
command = "netdev_add"
arguments = { type = "tap", id = "<string>" }
""")
# Also what TOML has and JSON has not, and names with a meaning.
IN_FILES = (
    MADE_UP
    | st.dates()
    | st.times()
    | st.sampled_from([float("nan"), float("inf"), "quit", "getfd", "<1e9..>", "</(/>", "a\0b", ""])
    | st.sampled_from(["</x{99999999999}/>", "qmp_capabilities", "guest-agent", "1..", "x.y.z"])
    | st.sampled_from(
        ["9" * 5000, "9" * 5000 + "..", "9." * 3 + "9", "device_add:", "late-reply:x"]
    )
)


def test_the_whole_scenario_is_good() -> None:
    assert len(Scenario.read(SCENARIO).replies) == 3


async def test_scenarios_with_made_up_values() -> None:
    @QUICK
    @given(spoilt(SCENARIO, IN_FILES))
    def check(table: dict[str, Any]) -> None:
        place = "a.toml: "
        try:
            scenario = Scenario.read(table, "a.toml")
            place = ""  # the setup is executed by a stand-in, which knows no file
            stand_in = StandIn(scenario.on_machine({"migration_peer": False}))
        except ScenarioError as error:
            one_line(error, place)
            return
        stand_in.failures()
        for command in ("query-status", "system_powerdown", "device_add"):
            declared = stand_in.scenario.schema.commands.get(command)
            if declared is not None:
                with contextlib.suppress(AttributeError):  # of an answer that comes later
                    execute_now(stand_in, declared)

    check()


def execute_now(stand_in: StandIn, command: Command) -> None:
    bound = stand_in._commands.find(command.name)
    given = {"driver": "virtio-net-pci"} if command.name == "device_add" else {}
    with contextlib.suppress(CommandError):
        result = stand_in._commands.call(bound, given, None)
        if inspect.iscoroutine(result):
            result.close()
        else:
            dumps({} if result is None else result, finite=True)


def one_line(error: Exception, path: Path | str) -> None:
    text = str(error)
    assert str(path) in text
    assert "\n" not in text.strip()
    assert len(text) < 20_000


TRANSCRIPT = [
    ("<-", {"QMP": {"version": {"qemu": {"major": 8, "minor": 2, "micro": 1}, "package": ""},
                    "capabilities": []}}),
    ("->", {"execute": "qmp_capabilities"}),
    ("<-", {"return": {}}),
    ("->", {"execute": "query-status", "id": 1}),
    ("<-", {"return": {"status": "inmigrate", "running": False}, "id": 1}),
    ("->", {"execute": "device_add", "arguments": {"driver": "</x/>", "id": "a"}}),
    ("<-", {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME", "data": {}}),
    ("<-", {"error": {"class": "GenericError", "desc": "recorded"}}),
    ("->", {"execute": "query-qmp-schema"}),
    ("<-", {"return": []}),
    ("<-", {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RTC_CHANGE",
            "data": {"offset": 1}}),
]  # fmt: skip


@pytest.mark.slow
async def test_transcripts_with_made_up_values(tmp_path: Path) -> None:
    path = tmp_path / "a.qmp"
    texts = st.sampled_from(["</(/>", "</x{99999999999}/>", "quit", 10**400])

    @QUICK
    @given(spoilt([value for _, value in TRANSCRIPT], MADE_UP | texts), st.data())
    def check(values: list[Any], data: st.DataObject) -> None:
        arrows = [arrow for arrow, _ in TRANSCRIPT]
        path.write_text("".join(
            f"{arrow} {json.dumps(value)}\n" for arrow, value in zip(arrows, values, strict=False)
        ))  # fmt: skip
        try:
            scenario = Scenario.load(str(path))
        except ScenarioError as error:
            one_line(error, path)
            return
        stand_in = StandIn(scenario.on_machine({"migration_peer": False}))
        for reply in scenario.replies:
            command = scenario.schema.commands[reply.command]
            execute_now(stand_in, command)

    check()


TEXTS = st.lists(
    st.sampled_from(
        ["-> ", "<- ", "=> ", "+> ", "2-> ", "#! tolerance x ", "#! exact", "$ ", "# ", "\n", "\n",
         "{", "}", "[", "[[on]]", "]", '"', "'", '"execute": ', '"QMP": 5', '"event": 5', "x", "5%",
         "9" * 5000, "9" * 400 + "%", "\\x", "\\N{", "=", "command = ", "= 1979-05-27", "[" * 999,
         "a = " + "[" * 5000, '{"a":' * 3000, "> 2020/01/01 00:00:00.0  length=1 from=0 to=0\n"]
    )
)  # fmt: skip


@pytest.mark.slow
async def test_texts_that_are_no_scenarios(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"

    @settings(QUICK, max_examples=100)
    @given(TEXTS)
    def check(words: list[str]) -> None:
        path.write_text("".join(words))
        try:
            StandIn(Scenario.load(str(path)))
        except ScenarioError as error:
            one_line(error, path)

    check()


SCHEMA: list[dict[str, Any]] = [
    {"name": "c", "meta-type": "command", "arg-type": "o", "ret-type": "u"},
    {"name": "e", "meta-type": "event", "arg-type": "o"},
    {"name": "o", "meta-type": "object", "members": [
        {"name": "a", "type": "str"}, {"name": "b", "type": "en", "default": None},
        {"name": "l", "type": "[o]"}, {"name": "r", "type": "alt", "default": None}]},
    {"name": "[o]", "meta-type": "array", "element-type": "o"},
    {"name": "str", "meta-type": "builtin", "json-type": "string"},
    {"name": "en", "meta-type": "enum", "members": [{"name": "x"}, {"name": "y"}],
     "values": ["x", "y"]},
    {"name": "u", "meta-type": "object", "members": [{"name": "k", "type": "en"}], "tag": "k",
     "variants": [{"case": "x", "type": "o"}, {"case": "y", "type": "o"}]},
    {"name": "alt", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "o"}]},
]  # fmt: skip
# Commands that have state here, whatever they take elsewhere.
KNOWN = [
    "device_add", "query-status", "netdev_add", "migrate", "chardev-add", "quit", "qom-set",
    "query-migrate-capabilities", "migrate-continue", "guest-file-write", "balloon",
]  # fmt: skip


@pytest.mark.slow
async def test_schemas_with_made_up_values(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    names = st.sampled_from([one["name"] for one in SCHEMA] + KNOWN)

    @settings(QUICK, max_examples=100)
    @given(spoilt(SCHEMA, MADE_UP | names), names, st.data())
    def check(infos: list[Any], name: str, data: st.DataObject) -> None:
        if infos and isinstance(infos[0], dict) and "name" in infos[0]:
            infos[0]["name"] = name
        path.write_text(json.dumps(infos))
        try:
            stand_in = StandIn(Scenario.read({"schema": str(path), "machine": ALONE}))
        except ScenarioError as error:
            one_line(error, path)
            return
        for command in stand_in.scenario.schema.commands.values():
            if command.name != "qmp_capabilities":
                execute(stand_in, command, data.draw(arguments(command)))

    check()
