"""The pytest plugin, as a stranger's test suite uses it."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import qemu.qmp  # noqa: F401 -- pytester forgets what inner runs import: they would pay for it each time

import qmpserver.transcript.compare_conversation
from qmpserver.testing.thread import ServerThread

with contextlib.suppress(ImportError):  # the same, where the engine is
    import qmpserver.cli.assembly  # noqa: F401

pytest_plugins = "pytester"

OPTIONS = ("-p", "no:cacheprovider", "-W", "error")
INI = """
[pytest]
asyncio_mode = strict
asyncio_default_fixture_loop_scope = function
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.Pytester]:
    """A test suite in a directory of its own, after which nothing of it remains."""
    directory = tempfile.mkdtemp(prefix="q")  # short: sockets go there
    monkeypatch.setenv("TMPDIR", directory)
    monkeypatch.setattr(tempfile, "tempdir", directory)
    pytester.makeini(INI)
    before = _left()
    yield pytester
    now = _left()  # a thread of an earlier test may have ended meanwhile
    assert all(count <= then for count, then in zip(now, before, strict=True)), (now, before)
    assert not [path for path in Path(directory).iterdir() if path.name.startswith("qmp-")]
    shutil.rmtree(directory)


def _left() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def test_a_test_without_a_loop(suite: pytest.Pytester, accel: str) -> None:
    suite.makepyfile(
        f"""
        import pytest
        from qmpserver import CommandError

        @pytest.mark.qmp(accel={accel!r}, smp=2)
        def test(qmp_server, qmp):
            assert len(qmp.cmd("query-cpus-fast")) == 2
            qmp.cmd("stop")
            assert qmp.pull_event(wait=5.0)["event"] == "STOP"
            assert qmp.wait_event("STOP") == ("STOP", {{}})
            assert [event.name for event in qmp.events] == ["STOP"]
            qmp.cmd("set-vcpu-dirty-limit", **{{"dirty-rate": 100, "cpu-index": 1}})
            with pytest.raises(CommandError, match="incorrect cpu index"):
                qmp.cmd("set-vcpu-dirty-limit", **{{"dirty-rate": 100, "cpu-index": 2}})

            assert len(qmp_server.received("set-vcpu-dirty-limit")) == 2
            assert qmp_server.received("set-vcpu-dirty-limit", cpu_index=1) == [
                ("set-vcpu-dirty-limit", {{"dirty-rate": 100, "cpu-index": 1}})
            ]
            assert not qmp_server.received("set-vcpu-dirty-limit", cpu_index=0)
            assert not qmp_server.received("stop", no_such=None)
            qmp_server.assert_received("stop", ("set-vcpu-dirty-limit", {{
                "dirty-rate": 100, "cpu-index": 1}}))
            assert [event.name for event in qmp_server.sent()] == ["STOP"]
            assert qmp_server.wait_event("STOP").data == {{}}
            assert qmp_server.wait_received("stop").arguments == {{}}
        """
    )
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=1)


def test_coroutine_tests_on_any_loop(suite: pytest.Pytester, accel: str) -> None:
    suite.makepyfile(
        f"""
        import asyncio
        import pytest
        import pytest_asyncio
        from qemu.qmp import QMPClient

        pytestmark = pytest.mark.qmp(accel={accel!r})

        @pytest_asyncio.fixture
        async def paused(qmp):
            await qmp.execute("stop")

        @pytest.mark.asyncio
        @pytest.mark.qmp(smp=3)
        async def test_with_a_fixture(qmp_server, qmp, paused):
            assert len(await qmp.execute("query-cpus-fast")) == 3
            assert (await qmp.execute("query-status"))["status"] == "paused"
            assert (await qmp_server.event("STOP")).name == "STOP"

        @pytest.mark.asyncio(loop_scope="module")
        async def test_on_a_longer_loop(qmp):
            assert await qmp.execute("query-status")

        @pytest.mark.asyncio(loop_scope="module")
        async def test_on_two_loops(qmp, paused):
            assert (await qmp.execute("query-status"))["status"] == "paused"

        def test_on_a_loop_of_its_own(qmp):
            asyncio.run(qmp.execute("stop"))
            asyncio.run(qmp.event("STOP"))

        @pytest.mark.asyncio
        async def test_what_comes_later(qmp_server, qmp):
            own = QMPClient("own")
            await own.connect(qmp_server.path)
            waiting = asyncio.gather(
                qmp_server.until_received("cont", count=2), qmp_server.event("RESUME")
            )
            await asyncio.sleep(0)
            for command in ("cont", "stop", "cont"):
                assert not waiting.done()
                await own.execute(command)
            await waiting
            # Two clients got it, and it is one event.
            assert len(qmp_server.sent("RESUME")) == 1
            await own.disconnect()
        """
    )
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=5)


def test_the_client_may_quit_and_others_be_left(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import socket
        import pytest

        def test_quit(qmp_server, qmp):
            qmp.cmd("quit")
            qmp_server.wait_event("SHUTDOWN", reason="host-qmp-quit")

        @pytest.mark.asyncio
        async def test_quit_on_a_loop(qmp_server, qmp):
            await qmp.execute("quit")

        def test_left(qmp_server):
            with socket.socket(socket.AF_UNIX) as left:
                left.connect(qmp_server.path)
                left.sendall(b'nonsense\\n{"execute": "qmp_capabilities", "arguments": 5}')
                qmp_server.wait_received("qmp_capabilities")
        """
    )
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=3)


def test_a_schema_of_ones_own(suite: pytest.Pytester) -> None:
    suite.path.joinpath("kettle.json").write_text(
        "{ 'struct': 'Heat', 'data': { 'is': 'int' } }\n"
        "{ 'command': 'heat', 'data': { 'to': 'int' }, 'returns': 'Heat' }\n"
        "{ 'event': 'HOT', 'data': { 'at': 'int' } }\n"
    )
    suite.makepyfile(
        """
        import asyncio

        import pytest
        from qmpserver import CommandError

        pytestmark = pytest.mark.qmp(schema="kettle.json")

        def test(qmp_server, qmp):
            assert qmp.cmd("heat", to=1) == {"is": 0}  # the smallest that the schema allows

            @qmp_server.handler("heat")
            def heat(to):
                qmp_server.emit("HOT", {"at": to})
                return {"is": to + 1}

            assert qmp.cmd("heat", to=1) == {"is": 2}
            qmp_server.handler("heat")(lambda to: {"is": to})
            assert qmp.cmd("heat", to=1) == {"is": 1}

            @qmp_server.handler("heat")
            async def heat_slowly(to):
                await asyncio.sleep(0)
                return {"is": to + 2, "not in the schema": True}

            assert qmp.cmd("heat", to=1) == {"is": 3}
            with pytest.raises(CommandError, match="Parameter 'to' is missing"):
                qmp.cmd("heat")
            assert qmp_server.sent("HOT") == [("HOT", {"at": 1})]
            qmp_server.emit("HOT", {"at": 9})
            assert qmp_server.sent("HOT", at=9)
            with pytest.raises(KeyError, match="the schema has no event 'COLD'"):
                qmp_server.emit("COLD")
            with pytest.raises(ValueError, match="at"):
                qmp_server.emit("HOT", {"at": "once"})
            with pytest.raises(KeyError, match="the schema has no command 'cool'"):
                qmp_server.handler("cool")
        """
    )
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=1)


def test_a_scenario(suite: pytest.Pytester) -> None:
    suite.path.joinpath("stuck.toml").write_text(
        """
        [machine]
        status = "paused"
        cpus = 2

        [[on]]
        command = "cont"
        error = "not now"
        times = 1

        [[expect]]
        command = "cont"
        times = 2
        """
    )
    suite.makepyfile(
        """
        import pytest
        from qmpserver import CommandError

        @pytest.mark.qmp(scenario="stuck.toml", smp=3)
        def test_file(qmp_server, qmp):
            assert len(qmp.cmd("query-cpus-fast")) == 3
            with pytest.raises(CommandError, match="not now"):
                qmp.cmd("cont")
            assert qmp_server.failures()
            qmp.cmd("cont")
            assert qmp.cmd("query-status")["status"] == "running"
            assert not qmp_server.failures()

        @pytest.mark.qmp(scenario={"expect": [{"command": "stop"}]})
        def test_not_as_expected(qmp_server, qmp):
            qmp.cmd("cont")
        """
    )
    result = suite.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["expected stop at least once; it was never sent", "commands sent: *, cont"]
    )


def test_a_transcript_as_scenario(suite: pytest.Pytester) -> None:
    suite.path.joinpath("recorded.qmp").write_text(
        '-> {"execute": "query-name"}\n<- {"return": {"name": "recorded"}}\n'
    )
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.qmp(scenario="recorded.qmp")
        async def test(qmp):
            assert await qmp.execute("query-name") == {"name": "recorded"}
        """
    )
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=1)


def test_a_fault(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.qmp(fault="disconnect-mid-reply:query-name")
        async def test_one(qmp_server, qmp):
            assert await qmp.execute("query-status")
            with pytest.raises(ConnectionError, match="the server has hung up"):
                await qmp.execute("query-name")
            assert qmp_server.received("query-name")

        @pytest.mark.qmp(fault=["disconnect-mid-reply:query-name"])
        def test_many(qmp):
            with pytest.raises(ConnectionError, match="the server has hung up"):
                qmp.cmd("query-name")
        """
    )
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=2)


@pytest.mark.slow
def test_failures_show_what_was_said(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        def test_never(qmp_server, qmp):
            qmp.cmd("query-name")
            assert qmp_server.received("stop")

        def test_order(qmp_server, qmp):
            qmp.cmd("stop")
            qmp.cmd("cont")
            qmp_server.assert_received("cont", ("stop", {}))

        def test_late(qmp_server, qmp):
            qmp_server.wait_event("STOP", patience=0.01)

        def test_too_few(qmp_server, qmp):
            qmp.cmd("stop")
            qmp_server.wait_received("stop", count=2, patience=0.01)

        def test_long(qmp_server, qmp):
            for _ in range(150):
                qmp.cmd("query-name")
            assert False
        """
    )
    result = suite.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines(
        [
            "*no stop among: qmp_capabilities*, query-name*",
            "*- QMP conversation -*",
            '-> {"execute": "query-name"*',
            '<- {"return": {}*',
            "E *AssertionError: no stop after cont among: qmp_capabilities*, stop, cont",
            "E *AssertionError: STOP: none in 0.01 s among: nothing",
            "E *AssertionError: stop: 1 instead of 2 in 0.01 s among: qmp_capabilities*, stop",
            "(103 messages before)",
        ]
    )


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        (
            "smpp=2",
            "pytest.mark.qmp(smpp=...): must be one of accel, fault, keep, max_clients, *",
        ),
        ("'soft'", "pytest.mark.qmp takes keywords only, not 'soft'"),
        (
            "accel='tcg'",
            "pytest.mark.qmp(accel='tcg'): -accel tcg,*: invalid accelerator tcg",
        ),
        (
            "accel='soft', fault='x'",
            "*: accel='soft': only a fake has a schema, a version, a scenario or faults",
        ),
        ("schema='no.json'", "pytest.mark.qmp(schema='no.json'): *no.json*"),
        ("scenario='no.toml'", "pytest.mark.qmp(scenario='no.toml'): *no.toml: No such file*"),
        ("scenario={'no': 1}", "pytest.mark.qmp(scenario={'no': 1}): scenario: no: *"),
        ("fault='trunc'", "pytest.mark.qmp(fault='trunc'): fault: name: *"),
    ],
)
def test_a_wrong_mark_is_told(suite: pytest.Pytester, mark: str, told: str) -> None:
    suite.makepyfile(
        f"""
        import pytest

        @pytest.mark.qmp({mark})
        def test(qmp_server):
            pass
        """
    )
    result = suite.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([told])


def test_one_client_at_a_time_as_in_qemu_or_more(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import socket
        import pytest

        def greeted(path):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(0.1)
            client.connect(path)
            try:
                return client, b"QMP" in client.recv(1000)
            except TimeoutError:
                return client, False

        def test_one(qmp_server):
            (first, ok), (second, waits) = greeted(qmp_server.path), greeted(qmp_server.path)
            assert ok and not waits
            first.close()
            assert b"QMP" in second.recv(1000)
            second.close()

        @pytest.mark.qmp(max_clients=2)
        def test_two(qmp_server):
            for client, ok in (greeted(qmp_server.path), greeted(qmp_server.path)):
                assert ok
                client.close()
        """
    )
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=1 + 1)


TRANSCRIBED = """
import pytest

def test(qmp, qmp_transcript):
    qmp.cmd("stop")
    qmp.cmd("query-status")
    qmp_transcript("pause.qmp")
"""


def test_a_transcript_that_is_a_pipe(suite: pytest.Pytester) -> None:
    suite.makepyfile(TRANSCRIBED)
    os.mkfifo(suite.path / "pause.qmp")
    for options in ([], ["--qmp-record"]):
        ran = suite.runpytest_inprocess(*OPTIONS, *options)
        ran.assert_outcomes(failed=1)
        ran.stdout.fnmatch_lines(["*pause.qmp: not a regular file"])


@pytest.mark.slow
def test_a_transcript_is_written_and_compared_with(suite: pytest.Pytester) -> None:
    suite.makepyfile(TRANSCRIBED)
    transcript = suite.path / "pause.qmp"
    missing = suite.runpytest_inprocess(*OPTIONS)
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["no such file: *pause.qmp; pytest --qmp-record writes it"])
    suite.runpytest_inprocess(*OPTIONS, "--qmp-record").assert_outcomes(passed=1)
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=1)
    transcript.write_text(transcript.read_text().replace('"paused"', '"running"'))
    changed = suite.runpytest_inprocess(*OPTIONS)
    changed.assert_outcomes(failed=1)
    changed.stdout.fnmatch_lines(['E *line *: answer return.status: "paused" instead of "running"'])


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ['-> {"execute": "stop"}', '<- {"return": {}}'],
            'unexpected command {"execute": "query-s*',
        ),
        (
            [
                '-> {"execute": "stop"}',
                '<- {"return": {}}',
                '-> {"execute": "query-status"}',
                '<- {"return": "<any>"}',
                '<- {"event": "RESUME"}',
            ],
            'line 8: no event {"event": "RESUME"}',
        ),
        (
            [
                "#! exact",
                "#! ignore timestamp arguments",
                '-> {"execute": "stop"}',
                '<- {"return": {}}',
                '<- {"event": "STOP"}',
                '-> {"execute": "query-status"}',
                '<- {"return": {"status": "paused", "running": false}}',
            ],
            "line 7: answer *",
        ),
    ],
)
def test_a_transcript_by_hand(suite: pytest.Pytester, lines: list[str], told: str) -> None:
    suite.makepyfile(TRANSCRIBED)
    header = ["#! ignore id arguments", "", "#! events ignore"]
    transcript = suite.path / "pause.qmp"
    whole = [
        '-> {"execute": "stop"}',
        '<- {"return": {}}',
        '-> {"execute": "query-status"}',
        '<- {"return": {"status": "<string>", "...": "..."}}',
    ]
    transcript.write_text("\n".join(header + whole))
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=1)
    transcript.write_text("\n".join([header[0], "", "# as it was", *lines]))
    result = suite.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E *{told}"])


def test_a_transcript_of_two_clients(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import asyncio
        from qemu.qmp import QMPClient

        async def resume(path):
            client = QMPClient()
            await client.connect(path)
            await client.execute("cont")
            await client.disconnect()

        def test(qmp_server, qmp, qmp_transcript):
            qmp.cmd("stop")
            asyncio.run(resume(qmp_server.path))
            qmp_transcript("two.qmp")
        """
    )
    transcript = suite.path / "two.qmp"
    suite.runpytest_inprocess(*OPTIONS, "--qmp-record").assert_outcomes(passed=1)
    text = transcript.read_text()
    assert '\n2-> {"execute":"cont"' in text
    assert '\n-> {"execute": "stop"' in text
    suite.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=1)
    transcript.write_text(text.replace("2-> ", "3-> ").replace("2<- ", "3<- "))
    result = suite.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['E *unexpected command {"execute":"cont"*'])


@pytest.mark.slow
def test_under_xdist(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.parametrize("_", range(6))
        async def test_async(qmp_server, qmp, _):
            await qmp.execute("stop")
            assert len(qmp_server.received("stop")) == 1

        @pytest.mark.parametrize("_", range(6))
        def test_sync(qmp_server, qmp, _):
            qmp.cmd("stop")
            assert len(qmp_server.received("stop")) == 1

        def test_fails(qmp_server, qmp):
            assert qmp_server.received("stop")
        """
    )
    result = suite.runpytest_subprocess(*OPTIONS, "-n", "2")
    result.assert_outcomes(passed=12, failed=1)
    result.stdout.fnmatch_lines(["*- QMP conversation -*"])


def test_a_blocking_handler_is_told(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import threading
        import pytest
        from qmpserver.testing import thread

        release = threading.Event()

        @pytest.fixture
        def impatient(monkeypatch):
            monkeypatch.setattr(thread, "_PATIENCE_S", 0.05)

        def test(impatient, qmp_server):
            import socket
            qmp_server.handler("query-name")(lambda: release.wait())
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(qmp_server.path)
                client.sendall(b'{"execute": "qmp_capabilities"} {"execute": "query-name"}')
                qmp_server.wait_received("query-name")

        def test_after():
            release.set()
            for one in threading.enumerate():
                if one.name == "qmp-server":
                    one.join(5)
        """
    )
    result = suite.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the server has not ended in 0.05 s: a handler blocks"])


def test_fixtures_of_the_same_name_are_left_alone(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        class Own:
            def __str__(self):
                raise ValueError("it was looked at")

            messages = conversation = property(__str__)

        @pytest.fixture
        def qmp_server():
            return Own()

        def test(qmp_server):
            assert False, "as it should"
        """
    )
    result = suite.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *AssertionError: as it should"])
    result.stdout.no_fnmatch_line("*QMP conversation*")
    result.stdout.no_fnmatch_line("*it was looked at*")


@pytest.mark.parametrize("text", [b"\xff", b"-> {}\n<- nonsense", b"nothing"])
def test_a_transcript_that_is_none(suite: pytest.Pytester, text: bytes) -> None:
    suite.makepyfile(TRANSCRIBED)
    transcript = suite.path / "pause.qmp"
    transcript.write_bytes(text)
    result = suite.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"{transcript}: *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_transcript_needs_all_messages(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.qmp(keep=2)
        def test_cut(qmp, qmp_transcript):
            qmp.cmd("query-name")
            qmp_transcript("name.qmp")

        @pytest.mark.qmp(keep=None)
        def test_whole(qmp, qmp_transcript):
            qmp.cmd("query-name")
            qmp_transcript("name.qmp")
        """
    )
    result = suite.runpytest_inprocess(*OPTIONS, "--qmp-record")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["name.qmp: the first 3 messages were dropped: pytest.mark.qmp(keep=None)"]
    )
    assert suite.path.joinpath("name.qmp").exists()


def test_up_in_50_ms() -> None:
    from time import perf_counter

    took = []
    for _ in range(5):
        began = perf_counter()
        with ServerThread():
            took.append(perf_counter() - began)
    assert min(took) < 0.05


@pytest.mark.parametrize("asyncio", [False, True])
@pytest.mark.slow
def test_pytest_pays_nothing_where_it_is_not_used(tmp_path: Path, asyncio: bool) -> None:
    others = {"cffi", "uvloop", "qemu"}
    if not asyncio and sys.version_info < (3, 14):  # where pytest's debugger imports it
        others.add("asyncio")
    tmp_path.joinpath("test_it.py").write_text(
        "import sys\n"
        "def test(request):\n"
        "    assert request.config.pluginmanager.hasplugin('qmpserver')\n"
        "    ours = {name for name in sys.modules if name.split('.')[0] == 'qmpserver'}\n"
        "    assert ours == {'qmpserver', 'qmpserver.pytest_plugin'}\n"
        f"    assert not {others} & set(sys.modules)\n"
    )
    plugins = ["-p", "no:xdist", "-p", "no:anyio", "-p", "no:hypothesispytest"]
    if asyncio:
        tmp_path.joinpath("pytest.ini").write_text(INI)
    else:
        plugins += ["-p", "no:asyncio"]
    command = [sys.executable, "-m", "pytest", *OPTIONS, *plugins, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stdout
