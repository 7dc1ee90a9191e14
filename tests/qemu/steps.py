"""Sessions in steps that a stand-in and a QEMU are compared by; a step may wait for a job."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qmpserver.releases import Release
from tests.qemu.probe import link_to_stand_in
from tests.qemu.sessions import NAME, without_varying

# Statuses of a job that come and go between others.
PASSING = ("paused", "standby")
# Members of replies that differ from run to run, or that depend on the host.
VARYING = ("thread-id", "start-time")


class Until(NamedTuple):
    """Wait for a job to reach a status."""

    status: str


class Look(NamedTuple):
    """Look at the directory that the program runs in; the result counts as a reply."""

    at: Callable[[Path], Any]


Step = str | tuple[str, dict[str, Any]] | Until | Look


def connects(name: str) -> Look:
    """Look whether a UNIX socket in the directory takes a connection."""

    def connect(directory: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(os.path.relpath(directory / name)) == 0

    return Look(connect)


class Said(NamedTuple):
    """The replies by the steps' numbers and names, and the events in their order."""

    replies: list[Any]
    events: list[Any]


class Program:
    """A program in a directory of its own, spoken to over its standard input and output."""

    def __init__(self, program: str, options: Sequence[str], directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        words = [
            "-nodefaults",
            "-S",
            "-accel",
            "tcg",
            "-display",
            "none",
            *options,
            "-qmp",
            "stdio",
        ]
        self.process = subprocess.Popen(
            [program, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=directory,
        )
        self.said = Said([], [])
        self._statuses: list[str] = []
        self._receive()
        self.execute("qmp_capabilities", {})

    def do(self, step: Step) -> None:
        """Take a step, and keep the reply to it."""
        if isinstance(step, Until):
            while step.status not in self._statuses:
                self._keep(self._receive())
            self._statuses.clear()
            return
        if isinstance(step, Look):
            self.said.replies.append((len(self.said.replies), step.at(self.directory)))
            return
        name, arguments = (step, {}) if isinstance(step, str) else step
        reply = self.execute(name, arguments)
        reply.pop("id", None)
        self.said.replies.append(
            (len(self.said.replies), name, arguments, _shape(without_varying(reply)))
        )

    def execute(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a command; events before it are kept."""
        assert self.process.stdin is not None
        request = json.dumps({"execute": name, "arguments": arguments})
        self.process.stdin.write(request.encode() + b"\n")
        self.process.stdin.flush()
        while "event" in (message := self._receive()):
            self._keep(message)
        return message

    def end(self) -> Said:
        """End the program, and return all that it has said."""
        self.execute("quit", {})
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"{"):
                self._keep(json.loads(line))
        return self.said

    def close(self) -> None:
        """End the program at once, if it has not ended."""
        self.process.kill()
        self.process.communicate()

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = b"!"
        while not line.startswith(b"{"):  # QEMU shows there which image it makes
            line = self.process.stdout.readline()
            assert line, "the program has ended"
        message: dict[str, Any] = json.loads(line)
        return message

    def _keep(self, event: dict[str, Any]) -> None:
        data = event.get("data", {})
        status = data.get("status")
        if event["event"] == "JOB_STATUS_CHANGE":
            self._statuses.append(status)
            if status in PASSING:
                return
        shown = [event["event"], data]
        if shown not in self.said.events[-2:]:  # a job runs again after it was paused
            self.said.events.append(shown)


def said(program: str, options: Sequence[str], steps: Sequence[Step], directory: Path) -> Said:
    """Return all that a program says in a session."""
    running = Program(program, options, directory)
    try:
        for step in steps:
            running.do(step)
        return running.end()
    finally:
        running.close()


def assert_same(
    release: Release,
    qemu: str,
    tmp_path: Path,
    options: Sequence[str],
    steps: Sequence[Step],
    more: str = "",
) -> None:
    """Have a session with the stand-in as a release, and with its QEMU, and compare them.

    `more` is more of the stand-in's scenario.
    """
    link = link_to_stand_in(release.name, tmp_path, more)
    ours = said(link, options, steps, tmp_path / "ours")
    theirs = said(qemu, options, steps, tmp_path / "theirs")
    pairs = [*zip(ours.replies, theirs.replies, strict=True), (ours.events, theirs.events)]
    differences = [
        f"stand-in: {got}\nQEMU:     {expected}" for got, expected in pairs if got != expected
    ]
    assert not differences, "\n".join(differences)


def _shape(value: Any) -> Any:
    """Return a reply without the members that vary, with its lists sorted."""
    if isinstance(value, dict):
        return {key: _shape(one) for key, one in value.items() if key not in VARYING}
    if isinstance(value, list):
        return sorted(map(_shape, value), key=json.dumps)
    if isinstance(value, str):
        return NAME.sub("#block", re.sub(r"fd=\d+", "fd=N", value))
    return value
