"""A QEMU without a machine, asked about its vocabulary."""

import json
import subprocess
from typing import Any


class Qemu:
    """A QEMU without a machine, spoken to over its standard input and output."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen(
            [program, "-machine", "none", "-display", "none", "-qmp", "stdio"],
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
        self.process.communicate()
