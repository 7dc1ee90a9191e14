"""The pytest plugin: fixtures `qmp_server`, `qmp` and `qmp_transcript`, and the marker `qmp`.

pytest loads it wherever this package is installed, in suites that do not use it, too, and whatever
the release of pytest and of its plugins. So it imports nothing until a test uses a fixture, and its
hooks are written for old releases, too.
"""

from __future__ import annotations

import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from qmpserver.testing.client import MonitorClient
    from qmpserver.testing.thread import ServerThread

_SHOWN = 200  # the last messages, beside a failed test


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes transcripts instead of comparing with them."""
    parser.getgroup("qmpserver").addoption(
        "--qmp-record",
        action="store_true",
        help="write the transcripts that qmp_transcript would compare with",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "qmp(accel='fake', smp=1, schema=None, version=None, scenario=None, fault=(), "
        "max_clients=1, keep=10_000): the server of fixture qmp_server",
    )


# Not wrapper=True: pluggy before 1.2 does not know it, and every test run would end here.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the conversation beside the failure."""
    outcome = yield
    report = outcome.get_result()
    server = getattr(item, "funcargs", {}).get("qmp_server")
    thread = sys.modules.get("qmpserver.testing.thread")
    # A suite may have a fixture of this name that is something else.
    if (
        report.when == "call"
        and report.failed
        and thread is not None
        and isinstance(server, thread.ServerThread)
    ):
        messages, dropped = server.conversation.snapshot()
        before = dropped + len(messages[:-_SHOWN])
        cut = [f"({before} messages before)"] if before else []
        shown = [*cut, *map(str, messages[-_SHOWN:])]
        report.sections.append(("QMP conversation", "\n".join(shown)))


@pytest.fixture
def qmp_server(request: pytest.FixtureRequest) -> Iterator[ServerThread]:
    """A QMP server on a socket of its own: `qmp_server.path`; see `ServerThread`.

    `@pytest.mark.qmp(...)` has its arguments; on a class or module too, the nearest one wins.
    """
    from contextlib import ExitStack

    from qmpserver.monitor import DeviceError
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
        pytest.fail(f"pytest.mark.qmp({name}=...): must be one of {known}", pytrace=False)
    if str(wanted.get("accel")).startswith("kvm") and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm cannot be opened")
    with ExitStack() as stack:
        try:
            server = stack.enter_context(ServerThread(**wanted, directory=request.path.parent))
        except (DeviceError, ScenarioError, ValueError) as error:
            shown = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
            pytest.fail(f"pytest.mark.qmp({shown}): {error}", pytrace=False)
        yield server
    if failures := server.failures():
        pytest.fail("\n".join(failures), pytrace=False)


@pytest.fixture
def qmp(qmp_server: ServerThread) -> Iterator[MonitorClient]:
    """A client of `qmp_server`, negotiated, on a monitor of its own; see `MonitorClient`."""
    from qmpserver.testing.client import MonitorClient

    with MonitorClient(qmp_server.add_monitor()) as client:
        yield client


@pytest.fixture
def qmp_transcript(
    request: pytest.FixtureRequest, qmp_server: ServerThread
) -> Callable[[str], None]:
    """Compare the conversation so far with a transcript beside the test: `qmp_transcript("x.qmp")`.

    With `pytest --qmp-record` the file is written instead.
    """
    from qmpserver.files import read_text
    from qmpserver.transcript.compare_conversation import differences
    from qmpserver.transcript.errors import TranscriptError
    from qmpserver.transcript.format import write

    def check(name: str) -> None:
        __tracebackhide__ = True
        path = request.path.parent / name
        said, dropped = qmp_server.conversation.snapshot()
        if dropped:
            pytest.fail(
                f"{name}: the first {dropped} messages were dropped: pytest.mark.qmp(keep=None)",
                pytrace=False,
            )
        if path.exists() and not path.is_file():  # a pipe might wait for ever
            pytest.fail(f"{path}: not a regular file", pytrace=False)
        if request.config.getoption("--qmp-record"):
            path.write_text(write(said, "ignore id"), encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"no such file: {path}; pytest --qmp-record writes it", pytrace=False)
        try:
            found = differences(read_text(path), said)
        except (OSError, TranscriptError, UnicodeDecodeError) as error:
            pytest.fail(f"{path}: {error}", pytrace=False)
        assert not found, "\n".join([f"the conversation differs from {path}:", *found])

    return check
