"""Sessions of one command line and some commands, held with a stand-in and with QEMU.

A session's messages are those that a client receives: replies, and the events between them.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

# What differs between two runs, or that a stand-in does not simulate: the layout of images.
VARIES = (
    *("timestamp", "actual-size", "format-specific", "children", "dirty-flag", "cluster-size"),
    *("limits", "driver-specific", "write_threshold"),
)
NAME = re.compile(r"#block\d+")  # QEMU draws the names of nodes that have none
IN_JSON = re.compile(r"(?<=json:)(\{.*?\}+)(?=$| \()", re.MULTILINE)
REFUSED = re.compile(r"(?m)^(?:.*qemu-system-x86_64|qmpserver): (.*)$")


Command = str | tuple[str, dict[str, Any]]
"""A line of the human monitor, or a command and its arguments."""


class Session(NamedTuple):
    """A command line, and commands: QMP as a pair, the human monitor's as a string.

    Attributes:
        options: The words of the command line, separated by spaces.
        commands: The commands; after `device_del`, `hold` waits for the device to go.
    """

    options: str
    commands: tuple[Command, ...] = ()


def hold(program: str, session: Session, directory: Path) -> list[Any]:
    """Return the messages of a session, or what the program says if it does not start."""
    common = ["-accel", "tcg", "-nodefaults", "-S", "-display", "none", "-qmp", "stdio"]
    process = subprocess.Popen(
        [program, *common, *session.options.split()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=directory,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()  # the greeting
        messages = []
        for command in (("qmp_capabilities", {}), *session.commands, ("query-name", {})):
            if isinstance(command, str):
                command = ("human-monitor-command", {"command-line": command})
            request = {"execute": command[0], "arguments": command[1]}
            with contextlib.suppress(BrokenPipeError):  # it has ended
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            left = {"reply", "DEVICE_DELETED"} if command[0] == "device_del" else {"reply"}
            while left:
                line = process.stdout.readline()
                if not line:
                    return REFUSED.findall(process.communicate()[1].decode())[-1:]
                if not line.startswith(b"{"):
                    continue  # QEMU complains there of strings that do not end
                message = json.loads(NAME.sub("#block", line.decode()))
                left.discard(message.get("event", "reply"))
                if "error" in message:
                    left.clear()
                if message.get("event") != "DEVICE_DELETED":  # before or after the reply
                    messages.append(without_varying(message))
        return messages
    finally:
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.communicate()


def without_varying(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_varying(one) for key, one in value.items() if key not in VARIES}
    if isinstance(value, str):
        return IN_JSON.sub(_sorted, value)
    return [without_varying(one) for one in value] if isinstance(value, list) else value


def _sorted(name: re.Match[str]) -> str:
    """Return an image's name with its members sorted: QEMU's order is that of a hash."""
    return json.dumps(json.loads(name[1]), sort_keys=True)
