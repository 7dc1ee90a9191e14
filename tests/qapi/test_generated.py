"""What is made from a schema with everything in it: introspection, the reference, Python types."""

import typing
from pathlib import Path

import pytest

from qmpserver.qapi import Schema
from qmpserver.qapi.markdown import markdown
from qmpserver.qapi.typed import python_types

TEXT = """
##
# = Everything
#
# The schema has one of each, and ``@literal`` stays.
##

##
# @Color:
#
# A color.  There are few.
#
# @red: like blood
#
# @blue: like the sky
#
# Features:
#
# @unstable: value @blue, which may fade
#
# Since: 1.0
##
{ 'enum': 'Color',
  'data': [ 'red', { 'name': 'blue', 'features': [ 'unstable' ] },
            { 'name': 'green', 'if': { 'all': [ 'GREEN', { 'not': 'DRY' } ] } } ] }

##
# @Point:
#
# @x: across
##
{ 'struct': 'Point', 'data': { 'x': 'int32', '*y': [ 'uint8' ] } }

##
# @Deep:
#
# More than a point
#
# @next: another, see @Point
##
{ 'struct': 'Deep', 'base': 'Point',
  'data': { '*next': 'Deep', 'class': { 'type': 'number', 'if': 'CLASSES' } } }

##
# @Shape:
#
# A shape.
#
# @color: its color
##
{ 'union': 'Shape', 'base': { 'color': 'Color', '*ref': 'Ref' }, 'discriminator': 'color',
  'data': { 'red': 'Point', 'blue': { 'type': 'Deep', 'if': 'BLUE' } } }

##
# @Pair:
#
# @outer: decides
##
{ 'union': 'Pair', 'base': { 'outer': 'Color' }, 'discriminator': 'outer',
  'data': { 'blue': 'Shape' } }

##
# @Ref:
#
# A shape or its name.
#
# @name: the name
##
{ 'alternate': 'Ref', 'data': { 'name': 'str', 'shape': 'Shape', 'none': 'null' } }

##
# @Empty:
#
# Nothing.
##
{ 'struct': 'Empty', 'data': {} }

##
# @do-it:
#
# Do it.
#
# @type: what of
# @how-much: in units
#
#     - few
#     - many
#
# Features:
# @fast: at once
#
# Returns: the shape
#     that is left
#
# Note: Do it once.
#
# Since: 2.0
#
# Examples:
# -> @do-it
##
{ 'command': 'do-it', 'data': { 'type': 'Color', '*how-much': 'size', '*any': 'any' },
  'returns': 'Shape', 'features': [ 'fast' ], 'allow-oob': true, 'allow-preconfig': true,
  'success-response': false, 'if': { 'any': [ 'A', 'B' ] } }

##
# @all:
#
# All of them.
##
{ 'command': 'all', 'data': 'Shape', 'boxed': true, 'returns': [ 'Shape' ] }

##
# @from:
#
# Wherever.
##
{ 'command': 'from', 'data': { 'from': 'int', '*flag': 'bool' } }

##
# @SOME_THING:
#
# It happened.
#
# @at: when
##
{ 'event': 'SOME_THING', 'data': { 'at': 'uint64', '*type': 'QType' } }

##
# @SHAPED:
#
# A shape came.
##
{ 'event': 'SHAPED', 'data': 'Shape', 'boxed': true }
"""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    root = tmp_path_factory.mktemp("generated") / "root.json"
    root.write_text(TEXT)
    return Schema.load(root, conditions=None)


def test_introspection(schema: Schema) -> None:
    infos = {str(info["name"]): info for info in schema.introspect()}
    command = infos["do-it"]
    assert command["allow-oob"] is True
    assert command["features"] == ["fast"]
    shape = str(command["ret-type"])
    color = _member(infos[str(command["arg-type"])], "type")["type"]
    assert infos[str(color)] == {
        "name": color,
        "meta-type": "enum",
        "members": [{"name": "red"}, {"name": "blue", "features": ["unstable"]}, {"name": "green"}],
        "values": ["red", "blue", "green"],
    }
    assert _member(infos[str(command["arg-type"])], "how-much") == {
        "name": "how-much",
        "type": "int",
        "default": None,
    }
    assert infos["all"]["arg-type"] == shape
    assert infos["all"]["ret-type"] == f"[{shape}]"
    assert infos[f"[{shape}]"] == {
        "name": f"[{shape}]",
        "meta-type": "array",
        "element-type": shape,
    }
    union = infos[shape]
    assert union["tag"] == "color"
    variants = union["variants"]
    assert isinstance(variants, list)
    cases = {variant["case"]: infos[variant["type"]] for variant in variants}
    assert cases.keys() == {"red", "blue", "green"}
    assert cases["green"]["members"] == []
    # A base is dissolved, all whole numbers are one type, and a type may refer to itself.
    assert _names(cases["blue"]) == ["x", "y", "next", "class"]
    assert _member(cases["blue"], "next")["type"] == cases["blue"]["name"]
    assert _member(cases["red"], "x")["type"] == "int"
    assert _member(cases["red"], "y")["type"] == "[int]"
    ref = infos[str(_member(union, "ref")["type"])]
    assert ref["meta-type"] == "alternate"
    assert ref["members"] == [{"type": "str"}, {"type": shape}, {"type": "null"}]
    assert infos["null"] == {"name": "null", "meta-type": "builtin", "json-type": "null"}
    assert infos["any"]["json-type"] == "value"
    qtype = infos[str(_member(infos[str(infos["SOME_THING"]["arg-type"])], "type")["type"])]
    assert "qdict" in typing.cast("list[str]", qtype["values"])
    # What nothing leads to is left out.
    assert not any(info.get("members") == [] and "tag" in info for info in infos.values())
    assert len([info for info in infos.values() if info["meta-type"] == "object"]) == 7


def test_reference(schema: Schema) -> None:
    text = markdown(schema, "Title")
    for expected in (
        "# Title\n\nCommands: [`all`](#all), [`do-it`](#do-it), [`from`](#from).\n\nEvents: ",
        "## Everything\n\nThe schema has one of each, and `@literal` stays.\n",
        "- `red`: like blood\n- `blue` (*unstable*): like the sky\n"
        "- `green` (only with `GREEN` and not `DRY`)\n",
        "Features:\n\n- `unstable`: value `blue`, which may fade\n",
        "- `x` (`int32`): across\n- `y` (array of `uint8`, optional)\n",
        "Members, besides those of [`Point`](#Point):\n\n"
        "- `next` ([`Deep`](#Deep), optional): another, see [`Point`](#Point)\n"
        "- `class` (`number`) (only with `CLASSES`)\n",
        "Depending on `color`:\n\n- `red`: the members of [`Point`](#Point)\n"
        "- `blue`: the members of [`Deep`](#Deep) (only with `BLUE`)\n",
        "One of:\n\n- `str`: the name\n- [`Shape`](#Shape)\n- `null`\n",
        "- `how-much` (`size`, optional): in units\n\n  - few\n  - many\n",
        "Returns [`Shape`](#Shape): the shape\nthat is left\n",
        "Only with `A` or `B`, can be given out of band, can be given before the machine is built, "
        "sends no reply on success.\n",
        "Note: Do it once.\n",
        "Examples:\n\n```\n-> @do-it\n```\n",
        "Arguments: the members of [`Shape`](#Shape).\n",
        "Returns array of [`Shape`](#Shape)\n",
        "Data: the members of [`Shape`](#Shape).\n",
        "Data:\n\n- `at` (`uint64`): when\n- `type` (`QType`, optional)\n",
    ):
        assert expected in text


def test_python_types(schema: Schema) -> None:
    text = python_types(schema, "some.json")
    module: dict[str, typing.Any] = {"__name__": "made"}
    exec(compile(text, "made", "exec"), module)
    assert text.startswith('"""The types, commands and events that some.json declares')
    assert typing.get_args(module["Color"]) == ("red", "blue", "green")
    assert module["Point"].__required_keys__ == {"x"}
    assert module["Point"].__optional_keys__ == {"y"}
    assert module["Deep"].__required_keys__ == {"x", "class"}
    hints = typing.get_type_hints(module["Point"], module)
    assert hints == {"x": int, "y": list[int]}
    # One type for each branch that adds something, one for the others.
    assert module["ShapeBlue"].__required_keys__ == {"color", "x", "class"}
    assert typing.get_type_hints(module["ShapeRed"], module)["color"] == typing.Literal["red"]
    assert module["ShapePlain"].__required_keys__ == {"color"}
    assert typing.get_args(module["ShapeTag"]) == ("green",)
    # A branch that is a union itself.
    assert module["PairBlueRed"].__required_keys__ == {"outer", "color", "x"}
    assert module["PairBluePlain"].__required_keys__ == {"outer", "color"}
    assert typing.get_args(module["PairTag"]) == ("red", "green")
    assert module["SomeThingData"].__required_keys__ == {"at"}
    assert module["Empty"].__required_keys__ == frozenset()
    call = typing.get_type_hints(module["DoItHandler"].__call__, module)
    assert call["how_much"] is int
    assert call["any"] is object
    # A keyword cannot be a parameter, and a union's members depend on each other.
    assert "class FromHandler(Protocol):" in text
    assert text.count("def __call__(self, **arguments: object)") == 2
    assert module["Handlers"].__required_keys__ == {"do-it", "all", "from"}


def test_python_names_that_would_clash(tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_text(
        "{ 'struct': 'Sn', 'data': {} } { 'struct': '__com.example_Sn', 'data': {} }"
        "{ 'enum': 'None1', 'data': [] } { 'command': 'c', 'data': { '*n': 'None1' } }"
    )
    text = python_types(Schema.load(root), "root.json")
    assert "class Sn(TypedDict):" in text
    assert "class Sn_(TypedDict):" in text
    assert "None1 = Never" in text
    exec(compile(text, "made", "exec"), {"__name__": "made"})


def _names(info: dict[str, object]) -> list[str]:
    members = info["members"]
    assert isinstance(members, list)
    return [member["name"] for member in members]


def _member(info: dict[str, object], name: str) -> dict[str, object]:
    members = info["members"]
    assert isinstance(members, list)
    return typing.cast("dict[str, object]", members[_names(info).index(name)])
