"""The handlers of all commands, and the schema."""

import contextlib

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
