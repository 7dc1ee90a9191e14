"""Migrations between a pair of servers, and what both sides said: ``python -m tests.qemu.pairs``.

Each function of `COURSES` drives a source and a destination. What they say is kept without what
differs from run to run: numbers are `<number>`, and events are apart from replies, because they
come when they come. Run as a program, this module writes the courses of the QEMU that the variable
`QEMU` names to `courses/`, and the tests compare ours.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conftest import listens

PATIENCE = 30.0
RECORDED = Path(__file__).parent / "courses" / "qemu-11.1"
RAM = "64M"
OVER = ("completed", "failed", "cancelled")


class Side:
    """One of the two servers."""

    def __init__(self, argv: list[str], directory: Path, name: str) -> None:
        self.replies: list[str] = []
        self.events: list[str] = []
        self._directory = str(directory)
        path = directory / name
        monitor = f"unix:{path},server=on,wait=off"
        self.process = subprocess.Popen(
            [*argv, "-display", "none", "-qmp", monitor],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while not listens(path):
            assert self.process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.01)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self._ask("qmp_capabilities")

    def _ask(self, name: str, *fds: int, **arguments: Any) -> dict[str, Any]:
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        command = json.dumps({"execute": name, "arguments": named})
        socket.send_fds(self._socket, [command.encode()], list(fds))
        while True:
            message: dict[str, Any] = json.loads(self._lines.readline())
            if "event" not in message:
                return message
            self._keep(message)

    def _keep(self, event: dict[str, Any]) -> None:
        """Keep an event; how many passes follow the first depends on the guest and on the clock."""
        data = event.get("data", {})
        if data.get("pass", 1) == 1:
            self.events.append(f"{event['event']} {json.dumps(data)}" if data else event["event"])

    def do(self, name: str, *fds: int, **arguments: Any) -> dict[str, Any]:
        """Execute a command, and keep its name and the reply."""
        reply = self._ask(name, *fds, **arguments)
        shown = json.dumps(_shape(reply), sort_keys=True).replace(self._directory, "DIR")
        self.replies.append(f"{name}: {shown}")
        return reply

    def set(self, *names: str, **parameters: int) -> None:
        """Switch capabilities on, and set parameters."""
        states = [{"capability": name, "state": True} for name in ("events", *names)]
        assert "return" in self._ask("migrate-set-capabilities", capabilities=states)
        assert "return" in self._ask("migrate-set-parameters", **parameters)

    def until(self, *statuses: str) -> None:
        """Wait until the migration has one of these statuses; then keep the result."""
        deadline = time.monotonic() + PATIENCE
        while True:
            reply = self._ask("query-migrate")
            assert "return" in reply, reply
            shown = reply["return"]
            if shown.get("status") in statuses:
                break
            assert shown.get("status") not in OVER, shown
            assert time.monotonic() < deadline, shown
            time.sleep(0.01)
        if shown["status"] in OVER:
            self._settle(deadline)
        self.do("query-migrate")
        self.do("query-status")

    def _settle(self, deadline: float) -> None:
        """Wait until the guest's state has followed: QEMU says first that a migration is over."""
        while (shown := self._ask("query-status"))["return"]["status"] == "finish-migrate":
            assert time.monotonic() < deadline, shown
            time.sleep(0.01)

    def ended(self) -> None:
        """Wait for the end of the program."""
        for line in self._lines:
            self._keep(json.loads(line))
        self.replies.append(f"exit status {self.process.wait(PATIENCE)}")

    def close(self) -> None:
        """End the server."""
        self._lines.close()
        self._socket.close()
        self.process.terminate()
        self.process.wait(PATIENCE)


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        shown = {name: _shape(one) for name, one in value.items()}
        if "error-desc" in shown:
            shown["error-desc"] = "<text>"
            if shown["status"] == "cancelled":  # whether a thread noticed it first is chance
                del shown["error-desc"]
        if shown.get("type") == "inet":
            shown["port"] = "<port>"
        return shown
    if isinstance(value, list):
        return [_shape(one) for one in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "<number>"
    return value


class Pair:
    """A source and a destination that waits for its `migrate-incoming`."""

    def __init__(self, argv: list[str], directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.uri = f"unix:{directory / 'stream'}"
        self._argv = argv
        self._stack = stack
        self.source = self.start("source")
        self.destination = self.start("destination", "-incoming", "defer")

    def start(self, name: str, *options: str) -> Side:
        """Start a server."""
        side = Side([*self._argv, "-m", RAM, *options], self.directory, name)
        self._stack.callback(side.close)
        return side


def moved(pair: Pair) -> None:
    """A guest moves; both sides refuse what they cannot do any more."""
    source, destination = pair.source, pair.destination
    for side in (source, destination):
        side.set("return-path")
        side.do("query-migrate")
        side.do("query-status")
    destination.do("migrate-incoming", uri=pair.uri)
    destination.do("query-migrate")
    destination.do("migrate-incoming", uri=pair.uri)
    destination.do("migrate", uri="unix:/nonexistent")
    source.do("migrate", uri=pair.uri)
    source.until("completed")
    destination.until("completed")
    source.do("migrate", uri=pair.uri)
    source.do("migrate_cancel")
    source.do("migrate-continue", state="pre-switchover")
    destination.do("migrate-incoming", uri=pair.uri)
    destination.do("migrate_cancel")
    destination.do("query-migrate")


def moved_back(pair: Pair) -> None:
    """A guest that has moved moves on to a third server."""
    source, destination = pair.source, pair.destination
    third = pair.start("third", "-incoming", "defer")
    for side in (source, destination, third):
        side.set()
    destination.do("migrate-incoming", uri=pair.uri)
    source.do("migrate", uri=pair.uri)
    source.until("completed")
    destination.until("completed")
    third.do("migrate-incoming", uri=f"{pair.uri}-3")
    destination.do("migrate", uri=f"{pair.uri}-3")
    destination.until("completed")
    third.until("completed")


def stopped(pair: Pair) -> None:
    """A guest that was stopped stays stopped."""
    source, destination = pair.source, pair.destination
    source.do("stop")
    source.set()
    destination.set()
    destination.do("migrate-incoming", uri=pair.uri)
    source.do("migrate", uri=pair.uri)
    source.until("completed")
    destination.until("completed")
    destination.do("cont")
    destination.do("query-status")


def not_started(pair: Pair) -> None:
    """A destination with -S does not run the guest; its source runs on if told so."""
    source, destination = pair.source, pair.start("stopped", "-S", "-incoming", "defer")
    source.set()
    destination.set()
    destination.do("query-status")
    destination.do("migrate-incoming", uri=pair.uri)
    source.do("migrate", uri=pair.uri)
    source.until("completed")
    destination.until("completed")
    destination.do("cont")
    destination.do("query-status")
    source.do("cont")
    source.do("query-status")
    source.do("query-migrate")


def paused(pair: Pair) -> None:
    """The switchover waits for a client."""
    source, destination = pair.source, pair.destination
    source.set("pause-before-switchover", "return-path")
    destination.set("return-path")
    destination.do("migrate-incoming", uri=pair.uri)
    source.do("migrate", uri=pair.uri)
    source.until("pre-switchover")
    destination.until("active")
    source.do("migrate-continue", state="device")
    source.do("migrate", uri=pair.uri)
    source.do("migrate-set-capabilities", capabilities=[])
    source.do("migrate-continue", state="pre-switchover")
    source.until("completed")
    destination.until("completed")


def cancelled_when_paused(pair: Pair) -> None:
    """A migration is cancelled while its switchover waits; the guest runs on."""
    source, destination = pair.source, pair.destination
    source.set("pause-before-switchover")
    destination.set()
    destination.do("migrate-incoming", uri=pair.uri, exit_on_error=False)
    source.do("migrate", uri=pair.uri)
    source.until("pre-switchover")
    source.do("migrate_cancel")
    source.until("cancelled")
    destination.until("failed")
    destination.do("migrate-incoming", uri=pair.uri)


def refused_under_way(pair: Pair) -> None:
    """A slow migration refuses what would disturb it, and is cancelled."""
    source, destination = pair.source, pair.destination
    source.set("return-path", max_bandwidth=1 << 16)
    destination.set("return-path")
    destination.do("migrate-incoming", uri=pair.uri)
    source.do("migrate", uri=pair.uri)
    source.until("active")
    destination.until("active")
    source.do("migrate", uri=pair.uri)
    source.do("migrate", uri="foo")
    source.do("migrate", uri="exec:true", resume=True)
    source.do("migrate-set-capabilities", capabilities=[])
    on = {"capability": "postcopy-preempt", "state": True}
    source.do("migrate-set-capabilities", capabilities=[on])
    source.do("migrate-set-parameters", downtime_limit=1)
    source.do("migrate-set-parameters", multifd_channels=0)
    source.do("migrate-continue", state="pre-switchover")
    source.do("migrate-incoming", uri="unix:/nonexistent")
    source.do("set-vcpu-dirty-limit", dirty_rate=5)
    source.do("cancel-vcpu-dirty-limit")
    source.do("stop")
    source.do("query-status")
    source.do("cont")
    destination.do("cont")
    destination.do("stop")
    destination.do("query-status")
    source.do("migrate_cancel")
    source.until("cancelled")
    destination.ended()


def again(pair: Pair) -> None:
    """A cancelled migration is followed by one that completes."""
    source, destination = pair.source, pair.destination
    source.set(max_bandwidth=1 << 16)
    destination.set()
    destination.do("migrate-incoming", uri=pair.uri)
    source.do("migrate", uri=pair.uri)
    source.until("active")
    source.do("migrate_cancel")
    source.until("cancelled")
    second = pair.start("second", "-incoming", f"{pair.uri}-2")
    second.set()
    second.do("query-migrate")
    source.set(max_bandwidth=0)
    source.do("migrate", uri=f"{pair.uri}-2")
    source.until("completed")
    second.until("completed")


def no_connection(pair: Pair) -> None:
    """Nothing listens: the migration fails after the reply."""
    pair.source.set()
    for uri in ("unix:/nonexistent/socket", f"unix:{pair.directory}/source-", "tcp:127.0.0.1:1"):
        pair.source.do("migrate", uri=uri)
        pair.source.until("failed")


def through_a_file(pair: Pair) -> None:
    """A guest is saved to a file and restored from it."""
    source, destination = pair.source, pair.destination
    file = f"file:{pair.directory}/saved,offset=0x1000"
    source.set()
    destination.set()
    source.do("migrate", uri=file)
    source.until("completed")
    destination.do("migrate-incoming", uri=file)
    destination.until("completed")


def through_a_command(pair: Pair) -> None:
    """A guest is saved by a command and restored by another one."""
    source, destination = pair.source, pair.destination
    source.set()
    destination.set()
    source.do("migrate", uri=f"exec:cat >{pair.directory}/saved")
    source.until("completed")
    args = ["/bin/cat", f"{pair.directory}/saved"]
    address = {"transport": "exec", "args": args}
    destination.do("migrate-incoming", channels=[{"channel-type": "main", "addr": address}])
    destination.until("completed")


def through_a_descriptor(pair: Pair) -> None:
    """A guest moves through a socket that a client passes, as libvirt does."""
    source, destination = pair.source, pair.destination
    source.set("pause-before-switchover")
    destination.set()
    ends = socket.socketpair()
    for end, side in zip(ends, (source, destination), strict=True):
        side.do("getfd", end.fileno(), fdname="stream")
        end.close()
    destination.do("migrate-incoming", uri="fd:stream")
    source.do("migrate", uri="fd:stream")
    source.until("pre-switchover")
    source.do("migrate-continue", state="pre-switchover")
    source.until("completed")
    destination.until("completed")


def several_channels(pair: Pair) -> None:
    """A guest moves over several connections."""
    source, destination = pair.source, pair.destination
    for side in (source, destination):
        side.set("multifd", multifd_channels=3)
    destination.do("migrate-incoming", uri="tcp:127.0.0.1:0")
    shown = destination.do("query-migrate")["return"]["socket-address"][0]
    source.do("migrate", uri=f"tcp:127.0.0.1:{shown['port']}")
    source.until("completed")
    destination.until("completed")


def other_machine(pair: Pair) -> None:
    """A destination of another size refuses the guest, which runs on.

    Without events: QEMU finds it out later, in `active`.
    """
    source, destination = pair.source, pair.start("small", "-m", "32M", "-incoming", "defer")
    destination.do("migrate-incoming", uri=pair.uri, exit_on_error=False)
    source.do("migrate", uri=pair.uri)
    source.until("failed")
    destination.until("failed")


COURSES: list[Callable[[Pair], None]] = [
    moved,
    moved_back,
    stopped,
    not_started,
    paused,
    cancelled_when_paused,
    refused_under_way,
    again,
    no_connection,
    through_a_file,
    through_a_command,
    through_a_descriptor,
    several_channels,
    other_machine,
]


def said(course: Callable[[Pair], None], argv: list[str]) -> str:
    """Hold a course, and return what both sides said as text."""
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pair")))
        pair = Pair(argv, directory, stack)
        sides = {"source": pair.source, "destination": pair.destination}
        start = pair.start

        def started(name: str, *options: str) -> Side:
            sides[name] = start(name, *options)
            return sides[name]

        pair.start = started  # type: ignore[method-assign]
        course(pair)
        for name, side in sides.items():
            lines += [f"[{name}]", *side.replies, "", *side.events, ""]
    return "\n".join(lines)


@contextlib.contextmanager
def guest_image() -> Iterator[str]:
    """Write the guest `dirty` as firmware, which QEMU boots."""
    with tempfile.TemporaryDirectory(prefix="pair") as directory:
        image = f"{directory}/dirty.bin"
        command = [sys.executable, "-m", "qmpserver.tools.qmpctl", "guest", "--output", image]
        subprocess.run([*command, "--ram", RAM, "--size", "1M"], check=True)
        yield image


def main() -> None:
    """Record all courses."""
    with guest_image() as image:
        qemu = os.environ.get("QEMU", "qemu-system-x86_64")
        argv = [qemu, "-nodefaults", "-accel", "kvm,dirty-ring-size=4096"]
        for course in COURSES:
            text = said(course, [*argv, "-bios", image])
            (RECORDED / f"{course.__name__}.txt").write_text(text)
            print(course.__name__)


if __name__ == "__main__":
    main()
