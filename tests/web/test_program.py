"""``-http`` of the whole program."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import terminate

PATIENCE = 20
LINK = re.compile(r"(http://127\.0\.0\.1:\d+/)\?token=(\S+)")


@asynccontextmanager
async def program(*options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program, with standard error for us to read; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmpserver.cli", "-accel", "soft", "-m", "16M", *options),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            terminate(process)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0


@pytest.mark.slow
async def test_the_link_is_shown_once_and_not_logged(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with program("-http", ":0", "-D", str(log)) as process:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            link = LINK.search((await process.stderr.readline()).decode())
        assert link is not None
        url, token = link.groups()
        async with http.get(link[0], allow_redirects=False) as response:
            cookie = response.headers["Set-Cookie"].split(";")[0]
        async with http.ws_connect(url + "qmp", headers={"Cookie": cookie}) as ws:
            assert "QMP" in await ws.receive_json(timeout=PATIENCE)
        terminate(process)
        async with asyncio.timeout(PATIENCE):
            rest = (await process.stderr.read()).decode()
    assert token not in rest
    assert token not in log.read_text()
