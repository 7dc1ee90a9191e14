"""The project's own schema: what it declares, what is made from it, and what it costs to load."""

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qmpserver.monitor import Registry
from qmpserver.qapi import Command, Event, ParameterError, Schema
from qmpserver.qapi.__main__ import main
from qmpserver.qapi.introspect import compiled
from qmpserver.qapi.model import EnumType, ObjectType
from qmpserver.qapi.typed import python_types
from qmpserver.releases import own_schema
from tests.counting import calls

ROOT = Path(__file__).parents[2]
FILE = ROOT / "schema" / "qapi-schema.json"
PREFIX = "__org.qmpserver_"


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema.load(FILE)


def test_every_file_belongs_to_the_schema() -> None:
    included = set(re.findall(r"'include': '([^']+)'", FILE.read_text()))
    assert included == {path.name for path in FILE.parent.glob("*.json")} - {FILE.name}


def test_commands_of_the_first_hour(schema: Schema) -> None:
    assert schema.commands.keys() >= set(
        "qmp_capabilities query-version query-name query-status query-kvm query-accelerators "
        "query-commands query-cpus-fast stop cont quit set-vcpu-dirty-limit "
        "cancel-vcpu-dirty-limit query-vcpu-dirty-limit calc-dirty-rate query-dirty-rate "
        f"query-qmp-schema query-command-line-options {PREFIX}query-dirty-ring".split()
    )
    assert schema.events.keys() >= {"STOP", "RESUME", "SHUTDOWN"}
    assert "deprecated" in schema.commands["query-kvm"].features
    assert schema.commands["qmp_capabilities"].allow_preconfig
    assert not schema.commands["stop"].allow_preconfig
    out_of_band = {name for name, command in schema.commands.items() if command.allow_oob}
    assert out_of_band == {"yank", "query-yank"}
    assert all(command.success_response for command in schema.commands.values())


def test_everything_is_described(schema: Schema) -> None:
    for entity in (*schema.commands.values(), *schema.events.values(), *schema.types.values()):
        assert entity.doc is not None
        assert entity.doc.body.text, entity.name
        assert entity.doc.has("Since"), entity.name
        if entity in schema.commands.values():
            returns = getattr(entity, "returns", None)
            assert entity.doc.has("Returns") == (returns is not None), entity.name


def test_every_member_and_value_is_described(schema: Schema) -> None:
    for entity in (*schema.commands.values(), *schema.events.values(), *schema.types.values()):
        assert entity.doc is not None
        if isinstance(entity, Command):
            boxed = entity.arguments.name in schema.types  # then it is described there
            names = [] if boxed else [member.name for member in entity.arguments.own]
        elif isinstance(entity, Event):
            names = [member.name for member in entity.data.own]
        elif isinstance(entity, ObjectType):
            names = [member.name for member in entity.listed]
        elif isinstance(entity, EnumType):
            names = [value.name for value in entity.values]
        else:
            names = list(entity.branches)
        # The targets of QEMU's emulator speak for themselves.
        if entity.name != "SysEmuTarget":
            assert set(names) == entity.doc.members.keys(), entity.name


def test_examples_are_valid(schema: Schema) -> None:
    """Each request and each result in the documentation is as the schema says."""
    checked = 0
    for command in schema.commands.values():
        assert command.doc is not None
        for section in command.doc.sections:
            if section.tag != "Example":
                continue
            request, reply = section.text.removeprefix("->").split("<-")
            sent = json.loads(request)
            assert sent["execute"] == command.name
            command.validate(sent.get("arguments", {}))
            command.validate_result(json.loads(reply)["return"])
            checked += 1
    for event in schema.events.values():
        assert event.doc is not None
        (example,) = (one for one in event.doc.sections if one.tag == "Example")
        message = json.loads(example.text.removeprefix("<-"))
        assert message["event"] == event.name
        event.validate(message.get("data"))
    assert checked >= 16


def test_introspection_is_a_result_of_its_own_command(schema: Schema) -> None:
    schema.commands["query-qmp-schema"].validate_result(schema.introspect())


def test_introspection_refers_to_nothing_that_it_lacks(schema: Schema) -> None:
    infos = schema.introspect()
    names = [info["name"] for info in infos]
    assert len(names) == len(set(map(str, names)))
    text = json.dumps(infos)
    for key in ("type", "arg-type", "ret-type", "element-type"):
        assert set(re.findall(rf'"{key}": "([^"]*)"', text)) <= set(names)
    # Names of types are masked, except those that say something of the wire.
    types = {str(info["name"]) for info in infos if info["meta-type"] in ("object", "enum")}
    assert all(name.isdigit() for name in types)


def test_introspection_of_one_command(schema: Schema) -> None:
    infos = {info["name"]: info for info in schema.introspect()}
    command = infos["set-vcpu-dirty-limit"]
    assert command["meta-type"] == "command"
    assert infos[command["arg-type"]] == {
        "name": command["arg-type"],
        "meta-type": "object",
        "members": [
            {"name": "cpu-index", "type": "int", "default": None},
            {"name": "dirty-rate", "type": "int"},
        ],
    }
    assert infos[command["ret-type"]]["members"] == []
    assert infos["query-kvm"]["features"] == ["deprecated"]
    status = infos[infos["query-status"]["ret-type"]]["members"]
    assert isinstance(status, list)
    (run_state,) = (member["type"] for member in status if member["name"] == "status")
    values = infos[run_state]["values"]
    assert isinstance(values, list)
    assert infos[run_state]["members"] == [{"name": value} for value in values]
    assert "prelaunch" in values


def test_loading_is_quick() -> None:
    """The number of calls is 1.25 for each byte of the schema; time would depend on the load."""
    size = sum(path.stat().st_size for path in FILE.parent.glob("*.json"))
    assert calls(lambda: Schema.load(FILE)) < 2 * size


def test_validating_and_dispatching_is_quick(schema: Schema) -> None:
    registry = Registry(schema)
    name = "set-vcpu-dirty-limit"
    registry.command(name)(lambda dirty_rate, cpu_index=None: None)
    arguments: dict[str, object] = {"cpu-index": 1, "dirty-rate": 200}
    assert calls(lambda: registry.call(registry.find(name), arguments, None)) < 60


def test_validating_dirty_limit(schema: Schema) -> None:
    command = schema.commands["set-vcpu-dirty-limit"]
    assert command.validate({"dirty-rate": 0}) == {"dirty-rate": 0}
    with pytest.raises(ParameterError, match="Parameter 'dirty-rate' expects uint64"):
        command.validate({"dirty-rate": "fast"})


def test_handler_types_are_up_to_date() -> None:
    path = ROOT / "qmpserver" / "vm" / "commands" / "types.py"
    made = python_types(Schema.load(FILE, conditions=None), "schema/qapi-schema.json")
    assert path.read_text() == made, "run: python -m qmpserver.qapi types schema/qapi-schema.json"


def test_compiled_schema_is_up_to_date() -> None:
    path = ROOT / "qmpserver" / "releases" / "own.json"
    made = _made("compile", str(FILE))
    assert path.read_text() == made, "run: python -m qmpserver.qapi compile schema/qapi-schema.json"


def test_compiled_schema_has_all_that_validation_needs(schema: Schema) -> None:
    read = own_schema(documented=False)
    assert not read.types
    assert read.introspect() == schema.introspect()
    assert _compiled(read) == _compiled(schema)


def test_compiled_schema_keeps_widths_and_flags(tmp_path: Path) -> None:
    source, output = tmp_path / "source.json", tmp_path / "compiled.json"
    source.write_text(
        "{ 'command': 'a', 'gen': false, 'success-response': false, 'allow-oob': true }\n"
        "{ 'command': 'b', 'data': { 'int': 'int', 'byte': 'uint8', 'size': 'Size' } }\n"
        "{ 'alternate': 'Size', 'data': { 'n': 'size', 'b': 'bool' } }\n"
    )
    assert main(["compile", str(source), "-o", str(output)]) == 0
    read = Schema.from_compiled(output)
    first, second = read.commands.values()
    assert (first.gen, first.success_response, first.allow_oob) == (False, False, True)
    assert (second.gen, second.success_response, second.allow_oob) == (True, True, False)
    assert first.validate({"free": 1}) == {"free": 1}
    assert second.validate({"int": -1, "byte": 255, "size": -1})["size"] == 2**64 - 1
    for name, value, refusal in (
        ("int", 2**63, "expected: integer"),
        ("byte", 256, "expects uint8_t"),
        ("size", [], "expected: Size"),
    ):
        with pytest.raises(ParameterError, match=refusal):
            second.validate({"int": 0, "byte": 0, "size": 0, name: value})


def test_reference() -> None:
    text = _reference()
    assert text.startswith("# QMP reference\n")
    assert "\n#### `set-vcpu-dirty-limit` (command)\n" in text
    assert "\n- `cpu-index` (`int`, optional): the virtual CPU to limit; all by default\n" in text
    assert "Returns array of [`DirtyLimitInfo`](#DirtyLimitInfo): one entry" in text
    assert "\n## Dirty memory\n" in text
    assert "\n- `status` ([`RunState`](#RunState)): the run state" in text
    assert "\n- `deprecated`: [`query-accelerators`](#query-accelerators) returns the same" in text
    # Every link leads somewhere, and no markup of the comments is left.
    anchors = set(re.findall(r'<a id="([^"]+)"', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert "@" not in prose
    assert "``" not in prose


def test_language_needs_nothing_else_of_the_package() -> None:
    program = (
        "import qmpserver.qapi.resolve, sys; print(*(n for n in sys.modules if 'qmpserver.' in n))"
    )
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    others = {name for name in loaded.split() if not name.startswith("qmpserver.qapi")}
    assert others == {"qmpserver.files"}  # which is a room of its own


def test_program_writes_introspection(schema: Schema) -> None:
    command = [sys.executable, "-m", "qmpserver.qapi", "introspect", str(FILE)]
    made = subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout
    assert json.loads(made) == schema.introspect()


def test_program_writes_to_a_file(tmp_path: Path) -> None:
    output = tmp_path / "reference.md"
    assert main(["doc", str(FILE), "--title", "Everything", "-o", str(output)]) == 0
    assert output.read_text().startswith("# Everything\n")


def test_program_tells_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root.json"
    root.write_text("\n{ 'command': 'C' }")
    assert main(["check", str(root)]) == 1
    assert capsys.readouterr().err.startswith(f"{root}:2: name of command 'C' must have neither")
    root.write_text("{ 'command': 'c', 'if': 'A' }")
    assert main(["check", str(root)]) == 0
    assert main(["introspect", "-D", "A", str(root)]) == 0
    assert '"c"' in capsys.readouterr().out
    assert main(["introspect", str(root)]) == 0
    assert capsys.readouterr().out == "[]\n"


def _compiled(schema: Schema) -> list[dict[str, object]]:
    return compiled(schema.commands.values(), schema.events.values())


def _reference() -> str:
    return _made("doc", str(FILE))


def _made(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main([*arguments]) == 0
    return output.getvalue()
