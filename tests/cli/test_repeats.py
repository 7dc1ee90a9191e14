"""Log lines that repeat: how many are written, and that the others are counted."""

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver.cli import messages, repeats
from qmpserver.cli.repeats import BURST, WINDOW_S, RepeatLimit
from tests.cli.conftest import Start, execute, hang_up
from tests.cli.test_process import SOFT


class Lines(logging.Handler):
    """Keeps the lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")
        if "left out" in self.lines[-1]:
            self.more.set()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def log(lines: Lines) -> Iterator[logging.Logger]:
    """A logger with the limit."""
    logger = logging.Logger("test")
    limit = RepeatLimit(lines)
    logger.addHandler(limit)
    yield logger
    limit.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def repeat(log: logging.Logger, count: int) -> None:
    for number in range(count):
        log.warning("line %d", number)


def test_as_many_as_are_allowed(log: logging.Logger, lines: Lines, clock: list[float]) -> None:
    repeat(log, BURST)
    clock[0] = WINDOW_S
    repeat(log, BURST)
    assert lines.lines == 2 * [f"WARNING line {number}" for number in range(BURST)]


def test_the_others_are_counted(log: logging.Logger, lines: Lines, clock: list[float]) -> None:
    repeat(log, BURST + 600)
    assert len(lines.lines) == BURST
    clock[0] = WINDOW_S
    log.error("another")
    assert lines.lines[BURST:] == [
        f"WARNING 600 more lines were left out, such as: line {BURST}",
        "ERROR another",
    ]


def test_places_do_not_disturb_each_other(log: logging.Logger, lines: Lines) -> None:
    repeat(log, BURST + 1)
    log.warning("elsewhere")
    for error in (KeyError("1"), ValueError("2")):
        for _ in range(BURST + 1):
            log.error("failed", exc_info=error)
    assert lines.lines.count("ERROR failed") == 2 * BURST
    assert "WARNING elsewhere" in lines.lines


def test_levels_that_are_not_written_do_not_count(log: logging.Logger, lines: Lines) -> None:
    for level in BURST * [logging.INFO] + [logging.WARNING]:
        log.log(level, "line")
    assert lines.lines == ["WARNING line"]


async def test_the_number_comes_in_time(
    log: logging.Logger, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without another line."""
    monkeypatch.setattr(repeats, "WINDOW_S", 0.01)
    repeat(log, BURST + 2)
    async with asyncio.timeout(5):
        await lines.more.wait()
    assert lines.lines[-1] == f"WARNING 2 more lines were left out, such as: line {BURST}"


def test_the_number_comes_at_the_end(log: logging.Logger, lines: Lines) -> None:
    repeat(log, BURST + 3)
    log.handlers[0].close()
    assert lines.lines[-1] == f"WARNING 3 more lines were left out, such as: line {BURST}"


def test_standard_error_is_limited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warnings go there without `-D`."""
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    messages.limit_repeats()
    log = logging.Logger("test")
    repeat(log, BURST + 1)
    assert capsys.readouterr().err == "".join(f"line {number}\n" for number in range(BURST))


@pytest.mark.slow
async def test_a_client_that_causes_lines(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with start(*SOFT, "-D", str(path)) as program:
        client = await program.connect()
        for rate in range(1, 501):
            await execute(client, "set-vcpu-dirty-limit", dirty_rate=rate)
        await execute(client, "cancel-vcpu-dirty-limit")
        await hang_up(client)
    said = path.read_text()
    written = len(re.findall(r"dirty limit of .*: \d+ MB/s", said)) - said.count("left out")
    left_out = sum(map(int, re.findall(r"(\d+) more lines were left out", said)))
    assert written + left_out == 500
    assert written < 250  # far fewer, unless the commands take half a minute
    assert "dirty limit of all vCPUs: cancelled" in said
