"""Words typed, completed and explained by a schema that has every kind of type."""

import argparse
from typing import Any

import pytest

from qmpserver.qapi import Schema
from qmpserver.qapi.model import ANY
from qmpserver.tools import completion
from qmpserver.tools.arguments import read_arguments
from qmpserver.tools.client import Client
from qmpserver.tools.errors import ServerError, UsageError
from qmpserver.tools.explaining import explain, summarize
from qmpserver.tools.introspection import fetch_schema


def builtin(name: str, json_type: str) -> dict[str, Any]:
    return {"name": name, "meta-type": "builtin", "json-type": json_type}


def members(**types: str) -> list[dict[str, Any]]:
    """Members by name; a name that ends in an underscore is optional."""
    return [
        {"name": name.rstrip("_"), "type": one, **({"default": None} if name[-1] == "_" else {})}
        for name, one in types.items()
    ]


INFOS: list[dict[str, Any]] = [
    {
        "name": "add",
        "meta-type": "command",
        "arg-type": "0",
        "ret-type": "[int]",
        "allow-oob": True,
        "features": ["unstable"],
    },
    {"name": "ping", "meta-type": "command", "arg-type": "none", "ret-type": "none"},
    {"name": "ADDED", "meta-type": "event", "arg-type": "list"},
    {
        "name": "0",
        "meta-type": "object",
        "members": [
            *members(kind="1", on_="bool", size_="int", part_="number", any_="any", null_="null"),
            *members(name_="str", kinds_="[1]", child_="list", ref_="2", sizes_="[int]"),
        ],
        "tag": "kind",
        "variants": [{"case": "file", "type": "file"}, {"case": "none", "type": "none"}],
    },
    {"name": "1", "meta-type": "enum", "values": ["file", "none"]},
    {
        "name": "2",
        "meta-type": "alternate",
        "members": [{"type": t} for t in ("str", "list", "int")],
    },
    {"name": "file", "meta-type": "object", "members": members(path="str")},
    {"name": "none", "meta-type": "object", "members": []},
    {"name": "list", "meta-type": "object", "members": members(value="int", next_="list")},
    {"name": "[int]", "meta-type": "array", "element-type": "int"},
    {"name": "[1]", "meta-type": "array", "element-type": "1"},
    *(builtin(n, n) for n in ("int", "number", "null")),
    builtin("str", "string"),
    builtin("bool", "boolean"),
    builtin("any", "value"),
]
INFOS[3]["members"][1]["features"] = ["deprecated"]
SCHEMA = Schema.from_introspection(INFOS)
ADD = SCHEMA.commands["add"]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("on=yes", {"on": True}),
        ("on=off", {"on": False}),
        ("size=-0x10", {"size": -16}),
        ("size=012", {"size": 12}),
        ("part=1.5", {"part": 1.5}),
        ("part=2", {"part": 2}),
        ("null=null", {"null": None}),
        ("name=1", {"name": "1"}),
        ('any={"a":1}', {"any": {"a": 1}}),
        ("any=NaN", {"any": "NaN"}),
        ("any.0=1 any.1=x", {"any": [1, "x"]}),
        ("any.a=1", {"any": {"a": 1}}),
        ("any=1 any=2", {"any": [1, 2]}),
        ("sizes=1", {"sizes": [1]}),
        ("sizes=1 sizes=2", {"sizes": [1, 2]}),
        ("sizes.1=2 sizes.0=1", {"sizes": [1, 2]}),
        ("sizes=[1,2]", {"sizes": [1, 2]}),
        ("child.value=1 child.next.value=2", {"child": {"value": 1, "next": {"value": 2}}}),
        ('child={"value":1}', {"child": {"value": 1}}),
        ("kind=file path=1", {"kind": "file", "path": "1"}),
        ("kind=none path=1", {"kind": "none", "path": 1}),
        ("ref=x", {"ref": "x"}),
        ("ref=7", {"ref": 7}),
        ("ref.value=1", {"ref": {"value": 1}}),
        ('ref={"value":1}', {"ref": {"value": 1}}),
        ("unknown=1", {"unknown": 1}),
    ],
)
def test_values_have_their_types(words: str, value: object) -> None:
    assert repr(read_arguments(words.split(), ADD.arguments)) == repr(value)


def test_without_a_schema_values_look_like_their_type() -> None:
    words = ["a=1", "b=x", "c.d=true", "e=yes"]
    assert read_arguments(words, ANY) == {"a": 1, "b": "x", "c": {"d": True}, "e": "yes"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("size", "'size' is not key=value"),
        ("a..b=1", "'a..b=1' is not key=value"),
        ("size=x", "'size=x': an integer is wanted"),
        ("size=true", "'size=true': an integer is wanted"),
        ("on=1", "'on=1': true or false is wanted"),
        ("part=x", "'part=x': a number is wanted"),
        ("null=x", "'null=x': null is wanted"),
        ("size=1 size=2", "'size' is given more than once"),
        ("size.a=1", "'size' is no object: int is wanted"),
        ("kind.a=1", "'kind' is no object: file | none is wanted"),
        ("child=1", "'child' wants an object: child.NAME=VALUE or child={JSON}"),
        ("sizes.1=1", "'sizes' is a list: number its elements sizes.0, sizes.1 and so on"),
        ("any.a=1 any=2", "'any' has both a value and something below it"),
        ("any=2 any.a=1", "'any.a' goes below 'any', which has a value of its own"),
    ],
)
def test_wrong_words(words: str, why: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_arguments(words.split(), ADD.arguments)
    assert str(raised.value) == why


def test_explained() -> None:
    assert summarize(ADD).startswith("kind= [on=] [size=]")
    assert list(explain(ADD)) == [
        "command add  (unstable, can be executed out of band)",
        "arguments:",
        "  kind: file | none",
        "  on: boolean  (optional)  (deprecated)",
        "  size: int  (optional)",
        "  part: number  (optional)",
        "  any: any value  (optional)",
        "  null: null  (optional)",
        "  name: string  (optional)",
        "  kinds: list of file | none  (optional)",
        "  child: object  (optional)",
        "    value: int",
        "    next: object  (optional)",
        "      (as above)",
        "  ref: string or object or int  (optional)",
        "    value: int",
        "    next: object  (optional)",
        "      (as above)",
        "  sizes: list of int  (optional)",
        "  where kind is file:",
        "    path: string",
        "returns: list of int",
    ]
    assert list(explain(SCHEMA.commands["ping"])) == ["command ping", "no arguments"]
    assert list(explain(SCHEMA.events["ADDED"]))[:3] == ["event ADDED", "data:", "  value: int"]


@pytest.mark.parametrize(
    ("prefix", "given", "found"),
    [
        ("k", "", {"kind=", "kinds="}),
        ("k", "kind=file", {"kinds="}),
        ("ki", "kinds=file", {"kind=", "kinds="}),
        ("p", "", {"path=", "part="}),
        ("p", "kind=none", {"part="}),
        ("kind=", "", {"kind=file", "kind=none"}),
        ("kinds=f", "", {"kinds=file"}),
        ("on=", "", {"on=true", "on=false"}),
        ("child", "", {"child.value=", "child.next."}),
        ("child.next.v", "", {"child.next.value="}),
        ("ref", "", {"ref=", "ref."}),
        ("sizes.", "", {"sizes.0="}),
        ("nothing", "", set()),
    ],
)
def test_arguments_are_completed(
    prefix: str, given: str, found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_schema", lambda _args: SCHEMA)
    args = argparse.Namespace(command="add", arguments=given.split())
    assert set(completion.complete_arguments(prefix, args)) == found


def test_names_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_schema", lambda _args: SCHEMA)
    args = argparse.Namespace()
    assert completion.complete_commands("p", args) == {"ping": ""}
    assert completion.complete_all("", args).keys() == {"add", "ping", "ADDED"}


def changed(index: int, **change: object) -> list[dict[str, Any]]:
    return [*INFOS[:index], INFOS[index] | change, *INFOS[index + 1 :]]


@pytest.mark.parametrize(
    "infos",
    [
        7,
        ["x"],
        [{}],
        [{"name": "x"}],
        [info for info in INFOS if info["name"] != "none"],
        changed(0, **{"arg-type": "int"}),
        changed(0, features=5),
        changed(3, **{"meta-type": "unheard-of"}),
        changed(3, tag="no-such-member"),
        changed(3, members=None),
        changed(4, values=[1]),
        changed(11, **{"json-type": "unheard-of"}),
        [
            {"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
            *(
                {"name": f"{n}", "meta-type": "array", "element-type": f"{n + 1}"}
                for n in range(5000)
            ),
        ],
    ],
)
def test_no_schema(infos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign server's schema that makes no sense is said in one line."""
    client = Client.__new__(Client)
    monkeypatch.setattr(client, "address", "ADDRESS", raising=False)
    monkeypatch.setattr(client, "execute", lambda *_, **__: infos)
    with pytest.raises(ServerError) as raised:
        fetch_schema(client)
    said = str(raised.value)
    assert said.startswith("ADDRESS: its answer to query-qmp-schema makes no sense: ")
    assert "\n" not in said


def test_names_of_built_in_types_are_the_servers() -> None:
    infos = [builtin("u8", "int") if info["name"] == "int" else info for info in INFOS]
    text = Schema.from_introspection(
        [
            {"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
            {"name": "0", "meta-type": "object", "members": members(a="u8")},
            *infos[-6:],
        ]
    )
    assert read_arguments(["a=0x7"], text.commands["c"].arguments) == {"a": 7}
