"""A virtual machine as a measurement needs it: launched, spoken to, and watched from outside.

The same for this server and for QEMU, both with the guest `dirty`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qmpserver.accel.native._native import ffi, lib
from qmpserver.tools.firmware import firmware_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["qmpserver", "qemu"]

RAM_MIB = 512
START_S = 10.0
REPLY_S = 30.0
_PROGRESS: int = ffi.offsetof("struct dirty_guest", "progress")
_CONTROL: int = lib.GUEST_CONTROL


class VmError(Exception):
    """The machine can't be measured; the text says why."""


def encode(command: str, arguments: Mapping[str, object] | None = None) -> bytes:
    """Return the bytes of a command, so that sending them is all that is left to do."""
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = arguments
    return json.dumps(message).encode()


class Qmp:
    """A QMP client that does nothing between a request and its answer but wait for it.

    What it costs is what it measures, which is why it is no asyncio client.
    """

    def __init__(self, path: str) -> None:
        self.received = 0  # when the last message came: CLOCK_MONOTONIC, ns
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(REPLY_S)
        self._socket.connect(path)
        self._input = self._socket.makefile("rb")
        self._read()
        self.execute("qmp_capabilities")

    def send(self, message: bytes) -> None:
        """Send what `encode` made; `receive` its answer."""
        self._socket.sendall(message)

    def receive(self) -> Any:
        """Wait for the answer to the command that was sent; events are passed over."""
        while True:
            message = self._read()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise VmError(message["error"]["desc"])

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Send a command and wait for its answer."""
        self.send(encode(command, arguments))
        return self.receive()

    def _read(self) -> dict[str, Any]:
        line = self._input.readline()
        self.received = time.monotonic_ns()
        if not line:
            raise VmError("the server has closed the connection")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Hang up."""
        self._input.close()
        self._socket.close()


class Vm:
    """A running machine: `qmp`, its `pid`, and what its guest has done so far."""

    def __init__(self, kind: Kind, pid: int, qmp: Qmp) -> None:
        self.kind = kind
        self.pid = pid
        self.qmp = qmp
        with open(_ram_file(pid), "rb") as file:
            self._ram = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def progress(self, cpu_index: int) -> int:
        """Pages that the guest has stored to, by its own count."""
        where = _CONTROL + cpu_index * mmap.PAGESIZE + _PROGRESS
        return int(struct.unpack_from("Q", self._ram, where)[0])

    def rates(self, seconds: float, vcpus: int) -> list[float]:
        """MB/s that each vCPU's guest stores to over the next `seconds`."""
        from_time, before = time.monotonic(), [self.progress(i) for i in range(vcpus)]
        time.sleep(seconds)
        elapsed = time.monotonic() - from_time
        return [(self.progress(i) - b) / 256 / elapsed for i, b in enumerate(before)]

    def dirty_ring(self) -> Any:
        """What the extension tells; None where the server has none."""
        if self.kind == "qemu":
            return None
        return self.qmp.execute("__org.qmpserver_query-dirty-ring")

    def close(self) -> None:
        """Watch no more."""
        self._ram.close()
        self.qmp.close()


def _ram_file(pid: int) -> str:
    """The guest's memory is a memfd in both: ours by its nature, QEMU's by its command line."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = os.readlink(entry)
            if "memfd:qmpserver-ram" in name or "memfd:memory-backend-memfd" in name:
                return str(entry)
    raise VmError(f"process {pid} has no guest memory that could be watched")


def has_qemu() -> bool:
    """Whether there is a QEMU to compare with."""
    return shutil.which("qemu-system-x86_64") is not None


def command(
    kind: Kind, directory: str, *, vcpus: int, accel: str, stopped: bool = False
) -> list[str]:
    """Return the command line of a machine whose QMP socket and firmware are in `directory`."""
    common = ["-accel", accel, "-smp", str(vcpus), "-m", f"{RAM_MIB}M"]
    common += ["-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"]
    if stopped:
        common.append("-S")
    if kind == "qmpserver":
        return [sys.executable, "-m", "qmpserver.cli", *common]
    firmware = Path(directory) / "dirty.bin"
    firmware.write_bytes(firmware_image(RAM_MIB << 20, vcpus))
    backend = f"memory-backend-memfd,id=ram,size={RAM_MIB}M,share=on"
    return [
        *("qemu-system-x86_64", *common, "-display", "none", "-nodefaults"),
        *("-name", "debug-threads=on"),
        *("-object", backend, "-machine", "pc,memory-backend=ram", "-bios", str(firmware)),
    ]


@contextlib.contextmanager
def launch(kind: Kind, *, vcpus: int, accel: str, stopped: bool = False) -> Iterator[Vm]:
    """Run a machine for as long as the context lasts.

    Raises VmError: It does not start; the text is what it said.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="qmpctl-"))
        argv = command(kind, directory, vcpus=vcpus, accel=accel, stopped=stopped)
        log = stack.enter_context(open(Path(directory) / "log", "w+b"))
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(_end, process)
        path = f"{directory}/qmp.sock"
        deadline = time.monotonic() + START_S
        while True:
            try:
                qmp = Qmp(path)
                break
            except (FileNotFoundError, ConnectionError, VmError):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()
                    raise VmError(said or "the server does not answer") from None
                time.sleep(0.01)
        vm = Vm(kind, process.pid, qmp)
        stack.callback(vm.close)
        yield vm


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
