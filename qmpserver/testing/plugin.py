"""The pytest plugin: fixtures `qmp_server`, `qmp` and `qmp_transcript`, and the marker ``qmp``.

pytest loads it wherever this package is installed, so it imports nothing until a test asks.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from qemu.qmp import QMPClient
    from qemu.qmp.legacy import QEMUMonitorProtocol

    from qmpserver.testing.thread import ServerThread

_SHOWN = 200  # messages of a failed test


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes transcripts instead of comparing with them."""
    parser.getgroup("qmpserver").addoption(
        "--qmp-record",
        action="store_true",
        help="write the transcripts that qmp_transcript would compare with",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and what only coroutine tests need."""
    config.addinivalue_line(
        "markers",
        "qmp(accel='fake', smp=1, schema=None, scenario=None, fault=(), max_clients=1): "
        "what fixture qmp_server is to be",
    )
    if config.pluginmanager.hasplugin("asyncio"):
        from qmpserver.testing import async_client

        config.pluginmanager.register(async_client)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the conversation beside the failure."""
    report = yield
    server = getattr(item, "funcargs", {}).get("qmp_server")
    if report.when == "call" and report.failed and server is not None:
        lines = str(server).splitlines()
        cut = [f"({len(lines) - _SHOWN} lines before)"] if len(lines) > _SHOWN else []
        report.sections.append(("QMP conversation", "\n".join(cut + lines[-_SHOWN:])))
    return report


@pytest.fixture
def qmp_server(request: pytest.FixtureRequest) -> Iterator[ServerThread]:
    """A QMP server on a socket of its own: `qmp_server.path`; see `ServerThread`.

    ``@pytest.mark.qmp(...)`` says what it is to be; on a class or module too, the nearest wins.
    """
    from contextlib import ExitStack

    from qmpserver.cli.settings import CommandLineError
    from qmpserver.standin import ScenarioError
    from qmpserver.testing.thread import ServerThread

    wanted: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("qmp"))):
        if mark.args:
            pytest.fail(f"pytest.mark.qmp takes keywords only, not {mark.args[0]!r}", pytrace=False)
        wanted.update(mark.kwargs)
    allowed = inspect.signature(ServerThread).parameters.keys() - {"directory"}
    for name in wanted.keys() - allowed:
        known = ", ".join(sorted(allowed))
        pytest.fail(f"pytest.mark.qmp({name}=...): is none of {known}", pytrace=False)
    if wanted.get("accel", "").startswith("kvm") and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm can't be opened")
    with ExitStack() as stack:
        try:
            server = stack.enter_context(ServerThread(**wanted, directory=request.path.parent))
        except (ValueError, CommandLineError, ScenarioError) as error:
            shown = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
            pytest.fail(f"pytest.mark.qmp({shown}): {error}", pytrace=False)
        yield server
    if failures := server.failures():
        pytest.fail("\n".join(failures), pytrace=False)


@pytest.fixture
def qmp(request: pytest.FixtureRequest) -> QMPClient | QEMUMonitorProtocol:
    """A client of `qmp_server`, negotiated, on a monitor of its own.

    In a coroutine test it is a `qemu.qmp.QMPClient`, else a `qemu.qmp.legacy.QEMUMonitorProtocol`.
    """
    name = "_qmp_blocking"
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        by_anyio = request.node.get_closest_marker("anyio") is not None
        if by_anyio or not request.config.pluginmanager.hasplugin("asyncio"):
            pytest.fail("qmp: in a coroutine test it needs pytest-asyncio", pytrace=False)
        from qmpserver.testing.async_client import NAME

        mark = request.node.get_closest_marker("asyncio")
        scope = mark.kwargs.get("loop_scope") if mark else None
        name = NAME.format(scope or request.config.getini("asyncio_default_test_loop_scope"))
    client: QMPClient | QEMUMonitorProtocol = request.getfixturevalue(name)
    return client


@pytest.fixture
def _qmp_blocking(qmp_server: ServerThread) -> Iterator[QEMUMonitorProtocol]:
    import asyncio
    import contextlib

    from qemu.qmp import QMPError
    from qemu.qmp.legacy import QEMUMonitorProtocol

    async def create() -> QEMUMonitorProtocol:
        return QEMUMonitorProtocol(qmp_server.add_monitor(), nickname="qmp")

    # It takes the loop that runs while it is made; else it would leave one of its own behind.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        client = runner.run(create())
        client.connect()
        yield client
        with contextlib.suppress(EOFError, OSError, QMPError):  # the server may have broken it
            client.close()


@pytest.fixture
def qmp_transcript(
    request: pytest.FixtureRequest, qmp_server: ServerThread
) -> Callable[[str], None]:
    """Compare what was said so far with a transcript beside the test: ``qmp_transcript("x.qmp")``.

    With ``pytest --qmp-record`` the file is written instead.
    """
    from qmpserver.transcript.comparison import differences, written

    def check(name: str) -> None:
        __tracebackhide__ = True
        path = request.path.parent / name
        said = qmp_server.messages
        if request.config.getoption("--qmp-record"):
            path.write_text(written(said), encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"there is no {path}: write it with pytest --qmp-record", pytrace=False)
        found = differences(path.read_text(encoding="utf-8"), said)
        assert not found, "\n".join([f"not as in {path}:", *found])

    return check
