"""Values against types: conversion, refusals in QEMU's words, and a server's own results."""

from pathlib import Path

import pytest

from qmpserver.qapi import ParameterError, ResultError, Schema

TEXT = """
{ 'pragma': { 'command-returns-exceptions': [ 'give' ] } }
{ 'enum': 'Color', 'data': [ 'red', 'green', { 'name': 'blue', 'if': 'BLUE' } ] }
{ 'struct': 'Point', 'data': { 'x': 'int', '*y': 'int8' } }
{ 'struct': 'Deep', 'base': 'Point', 'data': { '*next': 'Deep', '*more': [ 'Point' ] } }
{ 'union': 'Shape', 'base': { 'color': 'Color', '*name': 'str' }, 'discriminator': 'color',
  'data': { 'red': 'Point' } }
{ 'union': 'Twice', 'base': { 'outer': 'Color' }, 'discriminator': 'outer',
  'data': { 'red': 'Shape' } }
{ 'alternate': 'Ref', 'data': { 'name': 'Color', 'shape': 'Shape', 'number': 'int',
                                'list': [ 'int' ], 'nothing': 'null' } }
{ 'struct': 'Holder', 'data': { '*flag': { 'type': 'bool', 'if': 'FLAG' } } }
{ 'command': 'take', 'data': {
    '*int': 'int', '*int8': 'int8', '*int16': 'int16', '*int32': 'int32', '*int64': 'int64',
    '*uint8': 'uint8', '*uint16': 'uint16', '*uint32': 'uint32', '*uint64': 'uint64',
    '*size': 'size', '*number': 'number', '*str': 'str', '*bool': 'bool', '*null': 'null',
    '*any': 'any', '*color': 'Color', '*deep': 'Deep', '*shape': 'Shape', '*ref': 'Ref',
    '*qtype': 'QType', '*ints': [ 'uint8' ], '*colors': [ 'Color' ], '*refs': [ 'Ref' ],
    '*shapes': [ 'Shape' ], '*holder': 'Holder', '*twice': 'Twice' } }
{ 'command': 'need', 'data': { 'a': 'int', 'b': 'str' } }
{ 'command': 'whole', 'data': 'Shape', 'boxed': true, 'returns': 'Shape' }
{ 'command': 'raw', 'data': { 'a': 'int' }, 'gen': false }
{ 'command': 'give', 'returns': 'int' }
{ 'command': 'list', 'returns': [ 'Deep' ] }
{ 'command': 'plain' }
{ 'event': 'CHANGED', 'data': { 'color': 'Color', 'at': 'uint64' } }
{ 'event': 'DONE' }
"""

M63, M64 = 1 << 63, 1 << 64


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    root = tmp_path_factory.mktemp("values") / "root.json"
    root.write_text(TEXT)
    return Schema.load(root)


def refusal(schema: Schema, command: str, arguments: dict[str, object]) -> str:
    with pytest.raises(ParameterError) as caught:
        schema.commands[command].validate(arguments)
    assert str(caught.value) == caught.value.desc
    return caught.value.desc


GOOD: list[tuple[str, object]] = [
    ("int", -M63),
    ("int", M63 - 1),
    ("int8", -128),
    ("int8", 127),
    ("int16", -32768),
    ("int32", (1 << 31) - 1),
    ("int64", -M63),
    ("uint8", 255),
    ("uint16", 65535),
    ("uint32", (1 << 32) - 1),
    ("uint64", M64 - 1),
    ("size", M64 - 1),
    ("number", 0.5),
    ("str", ""),
    ("bool", False),
    ("null", None),
    ("any", {"anything": [1, None]}),
    ("color", "green"),
    ("qtype", "qdict"),
    ("ints", []),
    ("ints", [0, 255]),
    ("deep", {"x": 1, "next": {"x": 2, "next": {"x": 3, "more": [{"x": 4, "y": -1}]}}}),
    ("shape", {"color": "red", "x": 1, "y": 2}),
    ("shape", {"color": "green", "name": "n"}),
    ("twice", {"outer": "green"}),
    ("twice", {"outer": "red", "color": "green", "name": "n"}),
    ("twice", {"outer": "red", "color": "red", "x": 1}),
    ("ref", "red"),
    ("ref", {"color": "green"}),
    ("ref", 5),
    ("ref", [1, 2]),
    ("ref", None),
]

INTEGER = "Invalid parameter type for '{}', expected: integer"
BAD: list[tuple[str, object, str]] = [
    ("int", M63, INTEGER.format("int")),
    ("int", -M63 - 1, INTEGER.format("int")),
    ("int", 1.0, INTEGER.format("int")),
    ("int", True, INTEGER.format("int")),
    ("int", None, INTEGER.format("int")),
    ("int64", "1", INTEGER.format("int64")),
    ("int8", 128, "Parameter 'int8' expects int8_t"),
    ("int8", -129, "Parameter 'int8' expects int8_t"),
    ("int8", M63, INTEGER.format("int8")),
    ("int16", 1 << 15, "Parameter 'int16' expects int16_t"),
    ("int32", -(1 << 31) - 1, "Parameter 'int32' expects int32_t"),
    ("uint8", 256, "Parameter 'uint8' expects uint8_t"),
    ("uint8", -1, "Parameter 'uint8' expects uint8_t"),
    ("uint8", M64, "Parameter 'uint8' expects uint64"),
    ("uint16", 1 << 16, "Parameter 'uint16' expects uint16_t"),
    ("uint32", 1 << 32, "Parameter 'uint32' expects uint32_t"),
    ("uint32", "1", "Parameter 'uint32' expects uint64"),
    ("uint64", M64, "Parameter 'uint64' expects uint64"),
    ("uint64", -M63 - 1, "Parameter 'uint64' expects uint64"),
    ("uint64", 1.5, "Parameter 'uint64' expects uint64"),
    ("uint64", True, "Parameter 'uint64' expects uint64"),
    ("size", "1k", "Parameter 'size' expects uint64"),
    ("number", "1", "Invalid parameter type for 'number', expected: number"),
    ("number", True, "Invalid parameter type for 'number', expected: number"),
    ("str", 1, "Invalid parameter type for 'str', expected: string"),
    ("bool", 0, "Invalid parameter type for 'bool', expected: boolean"),
    ("bool", "on", "Invalid parameter type for 'bool', expected: boolean"),
    ("null", False, "Invalid parameter type for 'null', expected: null"),
    ("color", "pink", "Parameter 'color' does not accept value 'pink'"),
    ("color", "{0}", "Parameter 'color' does not accept value '{0}'"),
    ("color", "blue", "Parameter 'color' does not accept value 'blue'"),
    ("color", 1, "Invalid parameter type for 'color', expected: string"),
    ("qtype", "int", "Parameter 'qtype' does not accept value 'int'"),
    ("ints", {}, "Invalid parameter type for 'ints', expected: array"),
    ("ints", [1, None], "Parameter 'ints[1]' expects uint64"),
    ("ints", [1, 256], "Parameter 'null' expects uint8_t"),
    ("colors", ["red", "pink"], "Parameter 'null' does not accept value 'pink'"),
    ("colors", ["red", 1], "Invalid parameter type for 'colors[1]', expected: string"),
    ("refs", [True], "Invalid parameter type for 'null', expected: Ref"),
    ("refs", [5, [1, "x"]], "Invalid parameter type for 'refs[1][1]', expected: integer"),
    ("deep", [], "Invalid parameter type for 'deep', expected: object"),
    ("deep", {}, "Parameter 'deep.x' is missing"),
    ("deep", {"x": 1, "z": 1}, "Parameter 'deep.z' is unexpected"),
    ("deep", {"x": 1, "y": 200}, "Parameter 'y' expects int8_t"),
    ("deep", {"x": 1, "next": {}}, "Parameter 'deep.next.x' is missing"),
    ("deep", {"x": 1, "more": [{"x": 1}, {"x": ""}]}, INTEGER.format("deep.more[1].x")),
    ("shape", {}, "Parameter 'shape.color' is missing"),
    ("shape", {"color": "red"}, "Parameter 'shape.x' is missing"),
    ("shape", {"color": "green", "x": 1}, "Parameter 'shape.x' is unexpected"),
    ("shape", {"color": "pink", "x": 1}, "Parameter 'color' does not accept value 'pink'"),
    ("twice", {"outer": "red"}, "Parameter 'twice.color' is missing"),
    ("twice", {"outer": "red", "color": "red"}, "Parameter 'twice.x' is missing"),
    ("twice", {"outer": "green", "color": "red"}, "Parameter 'twice.color' is unexpected"),
    ("shapes", [{"color": "red", "x": []}], INTEGER.format("shapes[0].x")),
    ("ref", True, "Invalid parameter type for 'ref', expected: Ref"),
    ("ref", 1.5, INTEGER.format("ref")),
    ("ref", "pink", "Parameter 'ref' does not accept value 'pink'"),
    ("ref", {"color": "red"}, "Parameter 'ref.x' is missing"),
    ("holder", {"flag": True}, "Parameter 'holder.flag' is unexpected"),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_good_value(schema: Schema, name: str, value: object) -> None:
    assert schema.commands["take"].validate({name: value}) == {name: value}


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_bad_value(schema: Schema, name: str, value: object, words: str) -> None:
    assert refusal(schema, "take", {name: value}) == words


def test_missing_and_unexpected(schema: Schema) -> None:
    assert refusal(schema, "need", {}) == "Parameter 'a' is missing"
    assert refusal(schema, "need", {"a": 1}) == "Parameter 'b' is missing"
    assert refusal(schema, "need", {"a": 1, "b": "", "c": 1}) == "Parameter 'c' is unexpected"
    assert refusal(schema, "need", {"a": 1, "b": "", "": 1}) == "Parameter '' is unexpected"
    assert refusal(schema, "plain", {"c": 1}) == "Parameter 'c' is unexpected"
    # The members' own faults come first, in the order of the schema.
    assert refusal(schema, "need", {"c": 1, "b": 1, "a": ""}) == INTEGER.format("a")


def test_negative_is_taken_modulo_two_to_the_64(schema: Schema) -> None:
    take = schema.commands["take"]
    assert take.validate({"uint64": -1, "size": -M63}) == {"uint64": M64 - 1, "size": M63}


def test_number_becomes_a_float(schema: Schema) -> None:
    number = schema.commands["take"].validate({"number": 3})["number"]
    assert number == 3.0
    assert isinstance(number, float)


def test_result_is_a_new_value(schema: Schema) -> None:
    arguments: dict[str, object] = {"ints": [1], "deep": {"x": 1, "more": []}}
    checked = schema.commands["take"].validate(arguments)
    assert checked == arguments
    for name, value in arguments.items():
        assert checked[name] is not value


def test_boxed_union_as_arguments(schema: Schema) -> None:
    assert schema.commands["whole"].validate({"x": 1, "color": "red"}) == {"color": "red", "x": 1}
    assert refusal(schema, "whole", {"color": "red"}) == "Parameter 'x' is missing"


def test_command_that_checks_for_itself_gets_everything(schema: Schema) -> None:
    assert schema.commands["raw"].validate({"b": [None]}) == {"b": [None]}


def test_nesting_without_end(schema: Schema) -> None:
    value: dict[str, object] = {"x": 1}
    for _ in range(5000):
        value = {"x": 1, "next": value}
    assert refusal(schema, "take", {"deep": value}) == "Arguments are nested too deeply"


def test_conditions_bring_members_and_values(tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_text(TEXT)
    take = Schema.load(root, conditions={"BLUE", "FLAG"}).commands["take"]
    assert take.validate({"color": "blue", "holder": {"flag": True}})


@pytest.mark.parametrize(
    ("condition", "holding", "there"),
    [
        ("'A'", "", False),
        ("'A'", "A", True),
        ("{ 'not': 'A' }", "", True),
        ("{ 'not': 'A' }", "A", False),
        ("{ 'all': [ 'A', 'B' ] }", "A", False),
        ("{ 'all': [ 'A', 'B' ] }", "A B", True),
        ("{ 'any': [ 'A', 'B' ] }", "B", True),
        ("{ 'any': [ 'A', { 'not': 'B' } ] }", "B", False),
        ("{ 'any': [ { 'all': [ 'A', 'B' ] }, 'C' ] }", "C", True),
    ],
)
def test_condition(tmp_path: Path, condition: str, holding: str, there: bool) -> None:
    root = tmp_path / "root.json"
    root.write_text(
        f"{{ 'command': 'c', 'if': {condition} }} {{ 'event': 'EV', 'if': {condition} }}"
        f"{{ 'enum': 'En', 'data': [], 'if': {condition} }}"
        f"{{ 'command': 'd', 'features': [ {{ 'name': 'f', 'if': {condition} }} ] }}"
    )
    schema = Schema.load(root, holding.split())
    assert ("c" in schema.commands) == there
    assert ("EV" in schema.events) == there
    assert ("En" in schema.types) == there
    assert ("f" in schema.commands["d"].features) == there
    assert "c" in Schema.load(root, conditions=None).commands


RESULTS: list[tuple[str, object, str]] = [
    ("plain", {"a": 1}, "Parameter 'a' is unexpected"),
    ("plain", None, "Invalid parameter type for '<anonymous>', expected: object"),
    ("give", "1", INTEGER.format("<anonymous>")),
    ("whole", {"color": "red", "x": 1.0}, INTEGER.format("x")),
    ("whole", {"color": "red"}, "Parameter 'x' is missing"),
    ("list", [{"x": 1}, {"x": 1, "y": 1000}], "Parameter 'y' expects int8_t"),
    ("list", [{"x": 1}, {}], "Parameter '[1].x' is missing"),
    ("list", {"x": 1}, "Invalid parameter type for '<anonymous>', expected: array"),
]


@pytest.mark.parametrize(("command", "value", "words"), RESULTS)
def test_wrong_result(schema: Schema, command: str, value: object, words: str) -> None:
    with pytest.raises(ResultError) as caught:
        schema.commands[command].validate_result(value)
    assert str(caught.value) == f"command '{command}' sends what the schema forbids: {words}"


def test_right_result(schema: Schema) -> None:
    schema.commands["plain"].validate_result({})
    schema.commands["give"].validate_result(7)
    schema.commands["list"].validate_result([])
    schema.commands["whole"].validate_result({"color": "green"})


def test_event_data(schema: Schema) -> None:
    schema.events["DONE"].validate(None)
    schema.events["DONE"].validate({})
    schema.events["CHANGED"].validate({"color": "red", "at": 5})
    # What is forgiven a client is an error in the server.
    with pytest.raises(ResultError, match=r"event 'CHANGED' .* Parameter 'at' expects uint64"):
        schema.events["CHANGED"].validate({"color": "red", "at": -1})
    with pytest.raises(ResultError, match="'color' is missing"):
        schema.events["CHANGED"].validate(None)
