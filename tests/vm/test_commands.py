"""The handlers of all commands, and the schema."""

import contextlib
from typing import Any

import pytest

from qmpserver.cli.assembly import assemble
from qmpserver.cli.commandline import parse_command_line
from qmpserver.releases import RELEASES, Release


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
async def test_handlers_fit_the_schema(release: Release) -> None:
    """The program does not check it at its start."""
    settings = parse_command_line(["-accel", "soft", "-m", "16"])
    settings.release = release
    async with contextlib.AsyncExitStack() as stack:
        _, server = await assemble(settings, stack)
        server.registry.check()


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
async def test_capabilities_that_are_listed_can_be_set(release: Release) -> None:
    """Before it saves or migrates a domain, libvirt 11 sets all of them."""
    settings = parse_command_line(["-accel", "qtest", "-m", "16"])
    settings.release = release
    async with contextlib.AsyncExitStack() as stack:
        _, server = await assemble(settings, stack)
        registry = server.registry
        listed: Any = registry.call(registry.find("query-migrate-capabilities"), {}, None)
        setting = registry.find("migrate-set-capabilities")
        registry.call(setting, {"capabilities": listed}, None)
        assert "auto-converge" in {one["capability"] for one in listed}
