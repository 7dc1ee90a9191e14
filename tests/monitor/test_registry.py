"""Commands bound to what a schema declares."""

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
        "command 'release' allows out-of-band execution, so its handler can't be a coroutine",
    ]


async def test_check_passes_what_fits(commands: "Commands") -> None:
    commands.registry.check()
    assert "qmp_capabilities" in commands.registry.names


async def test_a_command_has_one_handler(commands: "Commands") -> None:
    with pytest.raises(RegistryError, match="'echo' has two handlers"):
        commands.registry.command("echo")(lambda: None)


async def test_a_handler_can_be_replaced(commands: "Commands") -> None:
    registry = commands.registry
    registry.command("echo", replace=True)(lambda: "anew")
    assert registry.call(registry.find("echo"), {}, None) == "anew"
    registry.check()
