"""The commands of a schema, bound to handlers."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpserver.monitor import Registry, RegistryError
from qmpserver.qapi import Schema

if TYPE_CHECKING:
    from tests.monitor.conftest import Commands


def test_check_names_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text("{ 'command': 'echo' } { 'command': 'release', 'allow-oob': true }")
    registry = Registry(Schema.load(path))
    registry.command("surprise")(lambda: None)

    @registry.command("release")
    async def release() -> None: ...

    with pytest.raises(RegistryError) as refusal:
        registry.check()
    assert str(refusal.value).split("; ") == [
        "handler of 'surprise' is not declared",
        "command 'echo' has no handler",
        "command 'release' allows out-of-band execution, so its handler must not be a coroutine",
    ]


async def test_check_passes_what_fits(commands: "Commands") -> None:
    commands.registry.check()
    assert "qmp_capabilities" in commands.registry.names


async def test_a_command_has_one_handler(commands: "Commands") -> None:
    with pytest.raises(RegistryError, match="'echo' has two handlers"):
        commands.registry.command("echo")(lambda: None)


async def test_a_handler_can_be_replaced(commands: "Commands") -> None:
    registry = commands.registry
    registry.command("echo", replace=True)(lambda **_: "anew")
    assert registry.call(registry.find("echo"), {}, None) == "anew"
    registry.check()


def test_check_tells_handlers_that_cannot_be_called(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    names = ["fits", "kept", "lax", "less", "more", "positional", "shy", "strict", "unmet"]
    path.write_text(
        "".join(
            f"{{ 'command': '{name}', 'data': {{ 'to-do': 'int', '*by': 'str' }} }}\n"
            for name in names
        )
    )
    registry = Registry(Schema.load(path))
    command = registry.command
    command("fits")(lambda to_do, by=None, *, more=1: None)
    command("kept", client=True)(lambda client, to_do, by=None: None)
    command("lax")(lambda **arguments: None)
    command("less")(lambda to_do: None)
    command("more")(lambda to_do, when, by=None: None)
    command("positional")(lambda to_do, /, by=None, **arguments: None)
    command("shy", client=True)(lambda *, to_do, by=None: None)
    command("strict")(lambda to_do, by: None)
    command("unmet")(print)
    with pytest.raises(RegistryError) as refusal:
        registry.check()
    assert str(refusal.value).split("; ") == [
        "handler of 'less' does not take argument 'by'",
        "handler of 'more' needs 'when', which is no argument of it",
        "handler of 'positional' does not take its arguments as keywords",
        "handler of 'shy' does not take the client first",
        "handler of 'strict' has no default for optional argument 'by'",
        "handler of 'unmet' does not take argument 'to-do'",
        "handler of 'unmet' does not take argument 'by'",
    ]


def test_check_leaves_alone_what_depends_on_values(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(
        "{ 'enum': 'Kind', 'data': [ 'a', 'b' ] } { 'struct': 'One', 'data': { 'x': 'int' } }"
        "{ 'union': 'Choice', 'base': { 'kind': 'Kind' }, 'discriminator': 'kind',"
        "  'data': { 'a': 'One' } }"
        "{ 'command': 'choose', 'boxed': true, 'data': 'Choice' }"
        "{ 'command': 'native' }"
    )
    registry = Registry(Schema.load(path))
    registry.command("choose")(lambda kind, x=0: None)
    registry.command("native")(dict)
    registry.check()


def test_names_that_no_schema_has_are_not_kept(tmp_path: Path) -> None:
    """A command with `'gen': false` takes any name, which its handler gets unchanged."""
    path = tmp_path / "schema.json"
    path.write_text("{ 'command': 'add', 'data': { 'driver': 'str' }, 'gen': false }")
    registry = Registry(Schema.load(path))
    registry.command("add")(lambda **given: given)
    add = registry.find("add")
    for number in range(10_000):
        name = f"a-{number}"
        assert registry.call(add, {name: number}, None) == {name: number}
    long = "l-" * 100_000
    assert registry.call(add, {long: 1}, None) == {long: 1}
    assert registry._keywords == {}
