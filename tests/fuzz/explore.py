"""Runs the cases of a subject in a child process, and names the seed of one that fails.

A subject is a module with a context manager `cases` that gives a function: it makes one case from a
`random.Random`, checks what must hold, and returns the number of inputs. A seed always makes the
same case. After each case no descriptor, no thread and no error in the log may be left, and over
many cases no memory. A run may be stopped for a while, with its whole process group.

An input is one thing that the product reads and answers: a message, a request, a frame of a stream,
a value, a file, an option. A case has many of them if it has to begin with something that takes
long, such as a server.
"""

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import logging
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from operator import gt

import uvloop

from tests.fuzz.trend import growth

Case = Callable[[random.Random], int]

# Each subject's share of the inputs, in thousandths: what takes long gets fewer.
SUBJECTS = {
    "qmp": 120,
    "sessions": 40,
    "qemu": 10,
    "human": 20,
    "qapi": 425,
    "options": 235,
    "qtest": 5,
    "scenarios": 20,
    "transcripts": 90,
    "web": 5,
    "destination": 20,
    "source": 2,
    "receiver": 8,
}
HANG = 120.0  # seconds without the end of a case, if the run is not stopped meanwhile
POLL = 0.02  # seconds
MOST_FAILURES = 10
PATIENCE = 10.0  # seconds until a thread that is about to end has ended
SAMPLES = 40  # of memory in a run
LEAK = 20_000  # blocks of memory in a run that are none, and this part of those there are:
LEAK_PART = 0.05


@dataclass
class Outcome:
    """The result of exploring a subject.

    Attributes:
        subject: Its name.
        cases: The cases that ended.
        inputs: The inputs in them.
        seconds: The time that it took.
        failures: The seeds that failed.
    """

    subject: str
    cases: int = 0
    inputs: int = 0
    seconds: float = 0.0
    failures: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        failed = f", {len(self.failures)} FAILED" if self.failures else ""
        return (
            f"{self.subject:12} {self.cases:9,} cases {self.inputs:11,} inputs in "
            f"{self.seconds:5.0f} s: {self.inputs / self.seconds:6.0f} a second{failed}"
        )


class Progress:
    """Numbers that a child process writes and its parent reads."""

    _LAYOUT = struct.Struct("qqq")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._LAYOUT.size)

    def write(self, seed: int, cases: int, inputs: int) -> None:
        """Note the seed that is being run, and the counts of those that ended."""
        self._LAYOUT.pack_into(self._memory, 0, seed, cases, inputs)

    def read(self) -> tuple[int, int, int]:
        """Return the seed, the cases and the inputs."""
        seed, cases, inputs = self._LAYOUT.unpack_from(self._memory)
        return seed, cases, inputs


class Watch(logging.Handler):
    """Watches the process while cases run: descriptors, threads, memory, logged errors.

    Attributes:
        stops: How often the process was stopped, and continued.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.stops = 0
        self._problems: list[str] = []
        self._before = (0, 0)
        self._blocks: list[float] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch during the block; warnings are errors in it."""
        signal.signal(signal.SIGCONT, self._continued)
        root = logging.getLogger()
        root.addHandler(self)
        hooks = sys.unraisablehook, threading.excepthook
        sys.unraisablehook = lambda one: self._problems.append(f"unraisable: {one.exc_value!r}")
        threading.excepthook = lambda one: self._problems.append(f"thread: {one.exc_value!r}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                yield
        finally:
            sys.unraisablehook, threading.excepthook = hooks
            root.removeHandler(self)

    def _continued(self, *_: object) -> None:
        self.stops += 1

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an error of the log."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        self._problems.append(f"logged: {text}")

    def begin(self) -> None:
        """Note what there is before the first case."""
        self._before = self._left()

    def check(self) -> None:
        """Check after a case that nothing of it is left.

        Raises:
            AssertionError: Something is.
        """
        deadline = time.monotonic() + PATIENCE
        # There may be less: a thread of the case before the first one may still have been ending.
        while any(map(gt, left := self._left(), self._before)) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.002)
        assert not any(map(gt, left, self._before)), (
            f"descriptors and threads: {self._before} before, {left} after; "
            f"{_descriptors()}; {_threads()}"
        )
        self._before = left
        assert not self._problems, "\n".join(self._problems)

    def sample(self) -> None:
        """Measure memory, after a collection."""
        gc.collect()
        self._blocks.append(float(sys.getallocatedblocks()))

    def check_memory(self) -> None:
        """Check that memory is flat.

        Raises:
            AssertionError: It grows.
        """
        if len(self._blocks) >= SAMPLES // 2:
            grown = growth(self._blocks)
            assert grown <= max(LEAK, LEAK_PART * self._blocks[0]), (
                f"memory grew by {grown:.0f} blocks: {self._blocks}"
            )

    @staticmethod
    def _left() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def explore(subject: str, first: int, inputs: int, cases: int | None = None) -> Outcome:
    """Run cases with the seeds from `first` on; print failures.

    A failure is printed with the command that repeats it; the next seeds follow.

    Args:
        subject: One of `SUBJECTS`.
        first: The first seed.
        inputs: The inputs after which it ends.
        cases: The most cases.
    """
    outcome = Outcome(subject)
    started = time.monotonic()
    seed = first
    while len(outcome.failures) < MOST_FAILURES:
        left = inputs - outcome.inputs
        if left <= 0 or outcome.cases == cases:
            break
        progress = Progress()
        status = _run_child(subject, seed, left, cases and cases - outcome.cases, progress)
        seed, done, made = progress.read()
        outcome.cases += done
        outcome.inputs += made
        if status == 0:
            break
        outcome.failures.append(seed)
        outcome.cases += 1
        print(
            f"{subject}: seed {seed} failed ({_ended(status)}); repeat it with\n"
            f"    python -m tests.fuzz {subject} --seed {seed} --cases 1",
            file=sys.stderr,
            flush=True,
        )
        seed += 1
    outcome.seconds = time.monotonic() - started
    return outcome


def _run_child(subject: str, first: int, inputs: int, cases: int | None, progress: Progress) -> int:
    """Run cases in a child process in a directory of its own; return how it ended."""
    progress.write(first, 0, 0)
    parent = os.getpid()
    with tempfile.TemporaryDirectory(prefix="fuzz") as directory:
        child = os.fork()
        if not child:
            status = 1
            try:
                os.chdir(directory)
                _run(subject, first, inputs, cases, progress, parent)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        try:
            return _wait(child, progress)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise


def _wait(child: int, progress: Progress) -> int:
    """Return the wait status of a child, which is ended if it makes no progress."""
    last, polls = progress.read(), 0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        polls += 1
        if progress.read() != last:
            last, polls = progress.read(), 0
        elif polls > HANG / POLL:
            os.kill(child, signal.SIGABRT)  # the fault handler shows all stacks
            polls = 0
        time.sleep(POLL)


def _ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"status {os.waitstatus_to_exitcode(status)}"


def _run(
    subject: str, first: int, most: int, most_cases: int | None, progress: Progress, parent: int
) -> None:
    """Run cases until there were so many inputs or cases, or the parent is gone."""
    faulthandler.enable()
    cases: Callable[[], AbstractContextManager[Case]]
    cases = importlib.import_module(f"tests.fuzz.{subject}").cases
    watch = Watch()
    with watch.watching(), cases() as case:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.sleep(0))
        case(random.Random("warm-up"))  # what a process has once is not left by a case
        gc.freeze()
        watch.begin()
        inputs = count = sampled = 0
        while inputs < most and count != most_cases and os.getppid() == parent:
            stops = watch.stops
            try:
                made = case(random.Random(f"{subject} {first + count}"))
                assert made, "a case without an input: the run would never end"
                inputs += made
            except (AssertionError, TimeoutError):
                if watch.stops == stops:
                    raise
                continue  # clocks went on
            watch.check()
            count += 1
            progress.write(first + count, count, inputs)
            if inputs - sampled > most / SAMPLES:
                sampled = inputs
                watch.sample()
        watch.check_memory()
        gc.collect()
        watch.check()  # of exceptions that nobody retrieved


def _descriptors() -> list[str]:
    shown = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            shown.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(shown)


def _threads() -> list[str]:
    shown = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
            shown.append(file.read().strip())
    return sorted(shown)
