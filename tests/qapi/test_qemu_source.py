"""The schema language held against QEMU's own source: its test schemas and its real schema.

Runs where ``QEMU_SOURCE`` names an unpacked source tree of QEMU.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver.qapi import Command, Event, Schema, SchemaError
from qmpserver.qapi.doc import Doc
from qmpserver.qapi.model import (
    EMPTY,
    AlternateType,
    EnumType,
    Feature,
    Member,
    ObjectType,
    Type,
)

SOURCE = Path(os.environ.get("QEMU_SOURCE", "/nonexistent"))
TESTS = SOURCE / "tests" / "qapi-schema"

pytestmark = pytest.mark.skipif(
    not TESTS.is_dir(), reason="QEMU_SOURCE names no source tree of QEMU"
)

# Each test schema of QEMU's has a file with the errors that QEMU's generator finds in it.  One
# of them is meant to be missing.
NAMES = sorted(
    path.stem
    for path in TESTS.glob("*.err")
    if path.with_suffix(".json").exists() or path.stem == "missing-schema"
)
VALID = [name for name in NAMES if not (TESTS / f"{name}.err").stat().st_size]
INVALID = [name for name in NAMES if name not in VALID]


@pytest.mark.parametrize("name", INVALID)
def test_rejects_what_qemu_rejects(name: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Schema.load(TESTS / f"{name}.json")
    # The same file is to blame.
    assert os.path.basename(caught.value.file) in (TESTS / f"{name}.err").read_text()


@pytest.mark.parametrize("name", VALID)
def test_reads_what_qemu_accepts_as_qemu_does(name: str) -> None:
    schema = Schema.load(TESTS / f"{name}.json", conditions=None)
    # Modules, implicit types and arrays are QEMU's way of generating code.
    generated = ("module ", "include ", "array ", "object q_", "enum QType")
    expected = [
        block
        for block in _blocks((TESTS / f"{name}.out").read_text())
        if not block.startswith(generated)
    ]
    # QEMU puts the files one after the other, even where one includes another in its midst.
    assert sorted(_blocks("\n".join(_dump(schema)))) == sorted(expected)


def test_reads_the_whole_real_schema() -> None:
    schema = Schema.load(SOURCE / "qapi" / "qapi-schema.json", conditions=None)
    assert len(schema.commands) > 150
    assert len(schema.events) > 40
    assert "set-vcpu-dirty-limit" in schema.commands


def _blocks(text: str) -> list[str]:
    """Split at the lines without indentation that start something new."""
    blocks: list[str] = []
    in_doc = False
    for line in text.splitlines():
        word = line.split(" ", 1)[0]
        starts = word in {"module", "include", "array", "object", "enum", "alternate", "command",
                          "event"}  # fmt: skip
        if line.startswith(("doc symbol=", "doc freeform")):
            in_doc = True
            blocks.append(line)
        elif starts and not in_doc:
            blocks.append(line)
        else:
            blocks[-1] += "\n" + line
    return [block.rstrip() for block in blocks]


def _dump(schema: Schema) -> Iterator[str]:
    """Write a schema down in the form of QEMU's ``.out`` files."""
    docs: list[tuple[Doc, list[Member]]] = []
    for entry in schema.sequence:
        if isinstance(entry, Doc):
            docs.append((entry, []))
            continue
        members: list[Member] = []
        if isinstance(entry, EnumType):
            members = entry.values
            yield f"enum {entry.name}"
            if entry.prefix:
                yield f"    prefix {entry.prefix}"
            for value in members:
                yield f"    member {value.name}"
                yield from _condition(value.condition, 8)
                yield from _features(value.features, 8)
        elif isinstance(entry, ObjectType):
            members = entry.listed
            yield f"object {entry.name}"
            if entry.base:
                yield f"    base {entry.base.name}"
            for member in entry.own:
                yield f"    member {member.name}: {member.type.name} optional={member.optional}"
                yield from _condition(member.condition, 8)
                yield from _features(member.features, 8)
            if entry.tag:
                yield f"    tag {entry.tag.name}"
                yield from _branches(entry)
        elif isinstance(entry, AlternateType):
            members = [Member(name, {}) for name in entry.branches]
            yield f"alternate {entry.name}"
            yield "    tag type"
            yield from _branches(entry)
        elif isinstance(entry, Command):
            members = entry.arguments.own if entry.arguments.definition is None else []
            yield f"command {entry.name} {_name(entry.arguments)} -> {_name(entry.returns)}"
            yield (
                f"    gen={entry.gen} success_response={entry.success_response} "
                f"boxed={entry.boxed} oob={entry.allow_oob} preconfig={entry.allow_preconfig}"
                + (" coroutine=True" if entry.coroutine else "")
            )
        elif isinstance(entry, Event):
            members = entry.data.own if entry.data.definition is None else []
            yield f"event {entry.name} {_name(entry.data)}"
            yield f"    boxed={entry.boxed}"
        yield from _condition(entry.condition, 4)
        yield from _features(entry.features, 4)
        if entry.doc:
            docs.append((entry.doc, members))
    for doc, members in docs:
        yield f"doc symbol={doc.symbol}" if doc.symbol else "doc freeform"
        yield f"    body=\n{doc.body.text}"
        described = {name: section.text for name, section in doc.members.items()}
        for member in members:
            described.setdefault(member.name, "")
        for name, text in described.items():
            yield f"    arg={name}\n{text}"
        for name, section in doc.features.items():
            yield f"    feature={name}\n{section.text}"
        for section in doc.sections:
            yield f"    section={section.tag}\n{section.text}"


def _name(type_: Type | None) -> str | None:
    return None if type_ is None or type_ is EMPTY else type_.name


def _branches(type_: ObjectType | AlternateType) -> Iterator[str]:
    for branch in type_.branches.values():
        yield f"    case {branch.name}: {branch.type.name}"
        yield from _condition(branch.condition, 8)


def _condition(condition: object, indent: int) -> Iterator[str]:
    if condition is not None:
        yield f"{' ' * indent}if {condition}"


def _features(features: list[Feature], indent: int) -> Iterator[str]:
    for feature in features:
        yield f"{' ' * indent}feature {feature}"
        yield from _condition(feature.condition, indent + 4)
