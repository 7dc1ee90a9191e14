"""A QEMU that is asked about its vocabulary."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def link_to_stand_in(release: str, directory: Path, more: str = "") -> str:
    """Return a program named as QEMU's that is a stand-in for a release.

    Args:
        release: The release.
        directory: Where to make it.
        more: More of its scenario.
    """
    link = directory / "qemu-system-x86_64"
    link.symlink_to(Path(sys.executable).parent / "qmpserver")
    link.with_name(f"{link.name}.toml").write_text(f'schema = "{release}"\n{more}')
    return str(link)


class Qemu:
    """A QEMU, spoken to over its standard input and output; by default without a machine."""

    def __init__(self, program: str, options: Sequence[str] = ("-machine", "none")) -> None:
        self.process = subprocess.Popen(
            [program, *options, "-display", "none", "-qmp", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        greeting = json.loads(self.process.stdout.readline())
        self.version = greeting["QMP"]["version"]
        self.execute("qmp_capabilities")

    def execute(self, command: str, arguments: object = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"execute": command, "arguments": {} if arguments is None else arguments}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        while True:
            reply: dict[str, Any] = json.loads(self.process.stdout.readline())
            if "event" not in reply:
                return reply

    def close(self) -> None:
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()
