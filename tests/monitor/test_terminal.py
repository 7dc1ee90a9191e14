"""The human monitor: keys, history, completion and output, as in QEMU."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from qmpserver.keyval import OptionError
from qmpserver.monitor import Server
from qmpserver.monitor.channel import READ_SIZE
from qmpserver.monitor.readline import LineEditor
from qmpserver.monitor.terminal import _MAX_WAITING
from tests.monitor.conftest import until

if TYPE_CHECKING:
    from tests.monitor.conftest import Commands, Connect

NAMES = ["info", "stop", "status", "step"]


def complete(line: str) -> tuple[str, list[str]]:
    word = line.rpartition(" ")[2]
    return word, [name for name in NAMES if name.startswith(word)]


def enter(editor: LineEditor, keys: bytes) -> list[str]:
    lines = []
    while keys:
        line, keys = editor.feed(keys)
        if line is not None:
            lines.append(line)
    return lines


@pytest.fixture
def editor() -> LineEditor:
    return LineEditor("(qemu) ", complete)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (b"info name\n", "info name"),
        (b"info name\r", "info name"),
        (b"in\x7fx\x08y\r", "iy"),
        (b"ab\x1b[D\x1b[DX\x1b[3~\x05Z\n", "XbZ"),
        (b"bc\x01a\n", "abc"),
        (b"abc\x1bOHx\x1bOFy\n", "xabcy"),
        (b"abc\x1b[1~x\x1b[4~y\n", "xabcy"),
        (b"abc\x1b[D\x1b[D\x04\n", "ac"),
        (b"ab cd  \x17x\n", "ab x"),
        (b"ab\x1b[Dx\x1b[Cy\n", "axby"),
        (b"a\x1bxb\x00c\n", "abc"),
        (b"in\t\n", "info "),
        (b"ab\x1b[" + b"9" * 10_000 + b"~c\n", "abc"),
        (b"st\tx\n", "stx"),
        (b"sto\tx\n", "stop x"),
        (b"x\t\n", "x"),
        ("\u00e9\n".encode(), "\u00e9"),
    ],
)
def test_keys(editor: LineEditor, keys: bytes, line: str) -> None:
    assert enter(editor, keys) == [line]


@pytest.mark.parametrize("keys", [b"\x7f" * 10_000, b"x" * 4000 + b"\x01\x05" * 3000])
def test_many_keys_are_not_handled_at_once(editor: LineEditor, keys: bytes) -> None:
    while keys:
        left = len(keys)
        line, keys = editor.feed(keys)
        assert line is None
        assert left - len(keys) <= 256
        assert len(editor.take_output()) < 50_000


def test_history(editor: LineEditor) -> None:
    up, down = b"\x1b[A", b"\x1b[B"
    assert enter(editor, b"a\nb\nc\n\n") == ["a", "b", "c", ""]
    assert enter(editor, up + b"\n") == ["c"]
    assert enter(editor, up * 9 + b"\n") == ["a"]
    # That one is the newest now, and there is only one of it.
    assert enter(editor, up + up + b"\n") == ["c"]
    assert enter(editor, up * 3 + down + b"x\n") == ["ax"]
    assert enter(editor, up * 3 + down * 3 + b"y\n") == ["y"]


def test_what_is_shown_is_what_qemu_shows(editor: LineEditor) -> None:
    editor.show_prompt()
    assert editor.take_output() == b"(qemu) "
    for keys, shown in [
        (b"in\x7fx\r", b"i\x1b[K\x1b[Din\x1b[K\x1b[D\x1b[Di\x1b[K\x1b[Dix\x1b[K\r\n"),
        (b"\x1b[A", b"ix\x1b[K"),
        (b"\n", b"\r\n"),
        (
            b"ab\x1b[D\x1b[DX\x1b[3~\x05Z\x0b\x01\x0b\n",
            b"a\x1b[K\x1b[Dab\x1b[K\x1b[D\x1b[DXab\x1b[K\x1b[D\x1b[D\x1b[DXb\x1b[K\x1b[D"
            b"\x1b[C\x1b[D\x1b[DXbZ\x1b[K\x1b[D\x1b[D\x1b[D\r\n",
        ),
        (b"\n", b"\r\n"),
    ]:
        enter(editor, keys)
        assert editor.take_output() == shown


def test_choices_are_listed(editor: LineEditor) -> None:
    enter(editor, b"s")
    editor.take_output()
    enter(editor, b"\t")
    shown = editor.take_output()
    assert shown == b"\r\nstatus    step      stop      \r\n(qemu) st\x1b[K"


def test_what_follows_a_line_is_left(editor: LineEditor) -> None:
    assert editor.feed(b"a\nb\nc") == ("a", b"b\nc")
    assert editor.feed(b"b\nc") == ("b", b"c")
    assert editor.feed(b"c") == (None, b"")


class UnprintableError(Exception):
    """An exception that cannot even be shown."""

    def __str__(self) -> str:
        raise ValueError("no str")

    __repr__ = __str__


class Human:
    """Commands of a human monitor."""

    def __init__(self) -> None:
        self.outcome: object = None
        self.executed: list[str] = []
        self.started = asyncio.Event()
        self.released = asyncio.Event()

    async def execute(self, line: str, history: Sequence[str]) -> str | None:
        self.executed.append(line)
        match line:
            case "":
                return ""
            case "outcome" if isinstance(self.outcome, BaseException):
                raise self.outcome
            case "outcome":
                return self.outcome  # type: ignore[return-value]
            case "cancelled":
                task = asyncio.ensure_future(asyncio.Event().wait())
                asyncio.get_running_loop().call_soon(task.cancel)
                await task
                return "not reached"
            case "quit":
                return None
            case "history":
                return f"{history}\n"
            case "wait":
                self.started.set()
                await self.released.wait()
                return "waited\n"
            case _:
                return f"did {line}\n"

    def complete(self, line: str) -> tuple[str, list[str]]:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        if self.outcome is not None:
            return self.outcome  # type: ignore[return-value]
        return complete(line)


@pytest_asyncio.fixture
async def human() -> Human:
    return Human()


@pytest_asyncio.fixture
async def server(commands: "Commands", human: Human) -> AsyncIterator[Server]:
    version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
    server = Server(commands.registry, version=version, human=lambda: human)
    yield server
    await server.close(grace=0.1)


PROMPT = b"(qemu) "


async def test_a_conversation(
    server: Server, human: Human, directory: Path, connect: "Connect"
) -> None:
    path = str(directory / "m")
    await server.serve_unix(path, mode="readline")
    peer = await connect(path)
    async with asyncio.timeout(10):
        banner = await peer.reader.readuntil(PROMPT)
        assert banner == (b"QEMU 7.2.0 monitor - type 'help' for more information\r\n(qemu) ")
        peer.send(b"x\n")
        assert await peer.reader.readuntil(PROMPT) == b"x\x1b[K\r\ndid x\r\n(qemu) "
        peer.send(b"\n")
        assert await peer.reader.readuntil(PROMPT) == b"\r\n(qemu) "
        # The next line waits for the one that is being executed.
        peer.send(b"wait\ny\n")
        await human.started.wait()
        assert human.executed == ["x", "", "wait"]
        human.released.set()
        assert (await peer.reader.readuntil(PROMPT)).endswith(b"waited\r\n(qemu) ")
        assert (await peer.reader.readuntil(PROMPT)).endswith(b"did y\r\n(qemu) ")


@pytest.mark.parametrize(
    ("line", "outcome", "shown"),
    [
        (b"outcome", ZeroDivisionError("boom"), b"Error: ZeroDivisionError('boom')"),
        (b"outcome", KeyboardInterrupt(), b"Error: KeyboardInterrupt()"),
        (b"outcome", SystemExit(1), b"Error: SystemExit(1)"),
        (b"outcome", UnprintableError(), b"Error: <unprintable UnprintableError object>"),
        (b"outcome", 5, b"Error: AttributeError("),
        (b"outcome", "\ud800\n", b"?\r\n"),
        (b"outcome", "\udcff\n", b"\xff\r\n"),
        (b"cancelled", None, b"Error: CancelledError()"),
    ],
)
async def test_an_outcome_of_any_kind(
    server: Server,
    human: Human,
    directory: Path,
    connect: "Connect",
    caplog: pytest.LogCaptureFixture,
    line: bytes,
    outcome: object,
    shown: bytes,
) -> None:
    human.outcome = outcome
    await server.serve_unix(directory / "m", mode="readline")
    peer = await connect(directory / "m")
    async with asyncio.timeout(10):
        await peer.reader.readuntil(PROMPT)
        peer.send(line + b"\n")
        assert b"\r\n" + shown in await peer.reader.readuntil(PROMPT)
        peer.send(b"x\n")
        assert b"did x" in await peer.reader.readuntil(PROMPT)
    assert [record.exc_info is not None for record in caplog.records] == (
        [True] if shown.startswith(b"Error") else []
    )


@pytest.mark.parametrize(
    "outcome", [ZeroDivisionError("boom"), SystemExit(3), 5, ("x", [5])], ids=repr
)
async def test_completion_that_fails(
    server: Server,
    human: Human,
    directory: Path,
    connect: "Connect",
    caplog: pytest.LogCaptureFixture,
    outcome: object,
) -> None:
    human.outcome = outcome
    await server.serve_unix(directory / "m", mode="readline")
    peer = await connect(directory / "m")
    async with asyncio.timeout(10):
        await peer.reader.readuntil(PROMPT)
        peer.send(b"x\t\n")
        assert b"did x" in await peer.reader.readuntil(PROMPT)
    assert "completion failed" in caplog.text


async def test_lines_are_not_begun_after_close(
    server: Server, human: Human, directory: Path, connect: "Connect"
) -> None:
    await server.serve_unix(directory / "m", mode="readline")
    peer = await connect(directory / "m")
    async with asyncio.timeout(10):
        await peer.reader.readuntil(PROMPT)
        assert (server.human_clients, server.clients) == (1, 0)
        peer.send(b"wait\nx\n")
        await human.started.wait()
        closing = asyncio.create_task(server.close(10))
        await asyncio.sleep(0)
        human.released.set()
        assert (await peer.ends()).endswith(b"waited\r\n(qemu) ")
        await closing
    assert human.executed == ["wait"]
    assert server.human_clients == 0


async def test_nothing_follows_quit(
    server: Server, human: Human, directory: Path, connect: "Connect"
) -> None:
    await server.serve_unix(directory / "m", mode="readline")
    peer = await connect(directory / "m")
    await peer.reader.readuntil(PROMPT)
    peer.send(b"quit\nx\n")
    async with asyncio.timeout(10):
        await peer.reader.readuntil(b"quit\x1b[K\r\n")
        await until(lambda: human.executed == ["quit"])
        peer.send(b"y\n")
        for _ in range(10):  # more than it takes to read it
            await asyncio.sleep(0)
        await server.close()
    assert human.executed == ["quit"]


async def test_input_that_ends(server: Server, directory: Path, connect: "Connect") -> None:
    path = str(directory / "m")
    await server.serve_unix(path, mode="readline")
    peer = await connect(path)
    peer.send(b"x\ny\n")
    peer.writer.write_eof()
    shown = await peer.ends()
    assert b"did x\r\n" in shown
    assert b"did y\r\n" in shown


async def test_lines_of_a_client_that_left_are_not_executed(
    server: Server, human: Human, directory: Path, connect: "Connect"
) -> None:
    path = str(directory / "m")
    await server.serve_unix(path, mode="readline")
    peer = await connect(path)
    async with asyncio.timeout(10):
        await peer.reader.readuntil(PROMPT)
        peer.send(b"wait\nx\ny\n")
        await human.started.wait()
        peer.close()
        # The next one is let in only when the first is gone.
        other = await connect(path)
        await other.reader.readuntil(PROMPT)
        human.released.set()
        other.send(b"z\n")
        await other.reader.readuntil(b"did z\r\n")
    assert human.executed == ["wait", "z"]


async def test_lines_that_wait_are_bounded(
    server: Server, human: Human, directory: Path, connect: "Connect"
) -> None:
    await server.serve_unix(directory / "m", mode="readline")
    peer = await connect(directory / "m")
    peer.send(b"wait\n")
    await human.started.wait()
    peer.send(b"x\n" * 500_000)
    [client] = server._human_clients
    await until(lambda: len(client._waiting) > _MAX_WAITING)
    for _ in range(100):  # more than it takes to read everything
        await asyncio.sleep(0)
    assert len(client._waiting) <= _MAX_WAITING + READ_SIZE


async def test_pasted_lines(
    server: Server, human: Human, directory: Path, connect: "Connect"
) -> None:
    """Many lines at once, in pieces anyhow, are executed one by one, each under its prompt."""
    path = str(directory / "m")
    await server.serve_unix(path, mode="readline")
    peer = await connect(path)
    lines = [f"line {number} " + "\u00e9" * (number % 7) for number in range(500)]
    pasted = "\r".join([*lines, ""]).encode()
    async with asyncio.timeout(10):
        await peer.reader.readuntil(PROMPT)
        for start in range(0, len(pasted), 1001):
            peer.send(pasted[start : start + 1001])
        for line in lines:
            assert (await peer.reader.readuntil(PROMPT)).endswith(
                f"\r\ndid {line}\r\n(qemu) ".encode()
            )
    assert human.executed == lines


async def test_monitors_by_name(server: Server, directory: Path) -> None:
    await server.add_chardev(f"socket,id=c,path={directory}/m,server=on,wait=off")
    with pytest.raises(OptionError, match="'pretty' is not compatible with HMP monitors"):
        server.add_monitor("c,mode=readline,pretty=on")
    assert server.add_monitor("c").attached


async def test_without_human_commands(commands: "Commands") -> None:
    server = Server(commands.registry, version={})
    with pytest.raises(OptionError, match="Only QMP is supported"):
        await server.open_monitor("null", mode="readline")
    await server.close()
