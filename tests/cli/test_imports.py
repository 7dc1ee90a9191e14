"""No module is imported while clients are served: an import needs a descriptor, or several.

A server whose clients have used up its descriptors would answer with internal errors.
"""

import asyncio
import gc
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from qemu.qmp import ExecuteError, QMPClient

from qmpserver.cli.commandline import parse_command_line
from qmpserver.cli.run import run
from tests.cli.conftest import PATIENCE, Start, execute, hang_up
from tests.cli.test_results import CALLS, MACHINE
from tests.monitor.conftest import until

LINES = (
    "info status",
    "info migrate",
    "info dirty_ring",
    "info kvm",
    "help",
    "migrate_set_parameter max-bandwidth 1M",
    "trace-event kvm_run_exit off",
    "print 1+1",
    "print $rip",
    "nonsense",
)
URIS = ("tcp:localhost:1", "tcp:127.0.0.1:1", "unix:/nowhere", "fd:nothing", "exec:false")
PATHS = ("/", "/static/js/main.js", "/static/none", "/metrics", "/help", "/live", "/qmp", "/none")
IMPORTED = re.compile(r"^import time:.*\| +(\S+)$", re.MULTILINE)


async def attempt(client: QMPClient, command: str, arguments: dict[str, object]) -> None:
    """Execute a command, whose refusal must not be an internal error."""
    refusal = ""
    try:
        if command in ("getfd", "add-fd"):
            client.send_fd_scm(0)
        await client.execute(command, arguments)
    except ExecuteError as error:
        refusal = str(error)
    assert "Internal error" not in refusal, (command, arguments)


async def execute_everything(client: QMPClient) -> None:
    for command, arguments in CALLS[:-1]:
        # Convergence is not the subject, and the policy of a total time has events of its own.
        named = {n: value for n, value in arguments.items() if not n.startswith("__org")}
        await attempt(client, command, named)
    for line in LINES:
        await attempt(client, "human-monitor-command", {"command-line": line})
    for uri in URIS:
        await attempt(client, "migrate", {"uri": uri})
        await attempt(client, "query-migrate", {})
        await attempt(client, "migrate_cancel", {})


# Each takes milliseconds to import, and a stand-in without a scenario does not need it.
NOT_NEEDED = (
    *("argparse", "dataclasses", "difflib", "importlib.metadata", "ipaddress"),
    *(
        "logging.handlers",
        "pathlib",
        "platform",
        "random",
        "shutil",
        "tempfile",
        "tomllib",
        "urllib.parse",
        "uuid",
    ),
    *("qmpserver.cli.readconfig", "qmpserver.qapi.parser", "qmpserver.transcript.format"),
    *("qmpserver.vm", "qmpserver.web"),
)


def imports(program: str, *arguments: str, said: str = "") -> set[str]:
    """Return what a program imports, without `site`, which brings modules of its own."""
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    ran = subprocess.run(
        [
            *(sys.executable, "-S", "-X", "importtime", "-c"),
            *(f"import sys; sys.path += {paths!r}; {program}", *arguments),
        ],
        input=said,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return set(IMPORTED.findall(ran.stderr))


def test_a_stand_in_starts_without_heavy_modules() -> None:
    """`logging` is needed, and with it Python 3.14 imports `dataclasses`."""
    imported = imports(
        "import qmpserver.cli.__main__ as m; m.start()",
        *("-fake", "default", "-qmp", "stdio"),
        said='{"execute": "qmp_capabilities"}{"execute": "quit"}',
    )
    assert "qmpserver.standin" in imported
    assert set(NOT_NEEDED).isdisjoint(imported - imports("import logging"))


def test_a_greeting_does_not_wait_for_what_commands_need() -> None:
    program = "import sys, qmpserver.cli.assembly, qmpserver.cli.standins; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "qmpserver.cli.assembly" in imported
    assert {"hashlib", "qmpserver.human", "qmpserver.standin.human"}.isdisjoint(imported)


@pytest.mark.slow
@pytest.mark.parametrize("accel", ["soft", "kvm", "fake"])
async def test_commands_import_nothing(
    start: Start,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    accel: str,
) -> None:
    if accel == "kvm":
        request.getfixturevalue("kvm")
    machine = ["-fake", "default"] if accel == "fake" else ["-accel", accel, *MACHINE[2:]]
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    async with start(*machine, "-msg", "timestamp=on") as program:
        client = await program.connect()
        assert IMPORTED.search(capfd.readouterr().err)
        await execute_everything(client)
        await hang_up(client)
    assert IMPORTED.findall(capfd.readouterr().err) == []


@pytest.mark.slow
async def test_requests_import_nothing(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    token = tmp_path / "token"
    token.write_text("token")
    path = tmp_path / "http"
    options = ["-http", f"unix:{path},token-file={token}"]
    options += ["-trace", f"*,file={tmp_path}/t.json", "-D", str(tmp_path / "log")]
    async with start(*MACHINE, *options) as program:
        monitor = await program.connect()
        assert IMPORTED.search(capfd.readouterr().err)
        async with aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(path)),
            headers={"Authorization": "Bearer token"},
            timeout=aiohttp.ClientTimeout(PATIENCE),
        ) as http:
            for name in PATHS:
                async with http.get(f"http://localhost{name}") as response:
                    assert response.status < 500
            async with http.post("http://localhost/qmp", json={"execute": "stop"}) as response:
                assert response.status == 200
            async with http.ws_connect("http://localhost/qmp") as ws:
                await ws.receive_str()
                await ws.send_str('{"execute": "qmp_capabilities"}')
                await ws.receive_str()
            async with http.ws_connect("http://localhost/live") as ws:
                await ws.receive()
        await hang_up(monitor)
    assert IMPORTED.findall(capfd.readouterr().err) == []


@pytest.mark.slow
async def test_commands_without_a_free_descriptor(start: Start) -> None:
    """Each has its result, or an error that says why not; then a new client can connect again."""
    async with start(*MACHINE) as program:
        client = await program.connect()
        pid = program.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
        shown = await execute(client, "human-monitor-command", command_line="info name")
        assert shown == "tested\r\n"
        await execute_everything(client)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        await hang_up(client)
        client = await program.connect()
        assert (await execute(client, "query-name")) == {"name": "tested"}
        await hang_up(client)


@pytest.fixture
def signals() -> Iterator[None]:
    """Restore the handlers that a program sets."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("options", [["-accel", "soft", "-m", "64"], ["-fake", "default"]])
async def test_modules_are_kept_from_the_collector(tmp_path: Path, options: list[str]) -> None:
    """A collection that walks all of them would hold up clients."""
    path = tmp_path / "q"
    words = [*options, "-qmp", f"unix:{path},server=on,wait=off"]
    running = asyncio.ensure_future(run(parse_command_line(words)))
    await until(path.exists)
    reader, writer = await asyncio.open_unix_connection(path)
    async with asyncio.timeout(PATIENCE):
        await reader.readline()
        assert len(gc.get_objects()) < gc.get_freeze_count()
        writer.write(b'{"execute":"qmp_capabilities"}{"execute":"quit"}')
        await reader.read()
        await running
    writer.close()
    assert not gc.get_freeze_count()
