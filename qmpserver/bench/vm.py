"""A running machine as a measurement needs it: controlled by QMP, its guest watched from outside.

The same for this server and for QEMU, both with the guest `dirty`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpserver.tools.errors import QmpctlError, sensible
from qmpserver.tools.watching import QUERY_RING
from qmpserver.vm.accel.native._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpserver.tools.client import Client

_PROGRESS: int = ffi.offsetof("struct dirty_guest", "progress")
_CONTROL: int = lib.GUEST_CONTROL


class VmError(QmpctlError):
    """The machine cannot be measured; the text says why."""


class Vm:
    """A running machine: `qmp`, its `pid`, and what its guest `dirty` has done so far.

    Raises VmError: Its guest's memory can't be watched.
    """

    def __init__(self, name: str, qmp: Client) -> None:
        self.name = name
        self.qmp = qmp
        self.pid = peer(qmp.socket)
        self.load = 0  # a process that loads it, and is stopped
        self.log: Path | None = None  # what it prints, where it was launched here
        with sensible(name, "query-commands"):
            self.commands = {command["name"] for command in qmp.execute("query-commands")}
        with open(_ram_file(self.pid), "rb") as file:
            self._ram = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def vcpus(self) -> int:
        """How many there are."""
        return len(self.qmp.execute("query-cpus-fast"))

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
        if QUERY_RING not in self.commands:
            return None
        return self.qmp.execute(QUERY_RING)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Have its guest run, and what loads it, for as long as the context lasts."""
        self.qmp.execute("cont")
        if self.load:
            os.kill(self.load, signal.SIGCONT)
        try:
            yield
        finally:
            if self.load:
                os.kill(self.load, signal.SIGSTOP)
            self.qmp.execute("stop")

    def polls(self) -> bool:
        """Whether its reaper sleeps a second whatever happens, as QEMU's does."""
        ring = self.dirty_ring()
        return ring is None or ring["mode"] == "poll"

    def close(self) -> None:
        """Watch no more."""
        self._ram.close()
        self.qmp.close()


def peer(connection: socket.socket) -> int:
    """The process that listens, whatever has launched it."""
    if connection.family is not socket.AF_UNIX:
        raise VmError("only by way of a UNIX socket can it be told which process that is")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, _uid, _gid = struct.unpack("3i", credentials)
    return int(pid)


def _ram_file(pid: int) -> str:
    """The guest's memory is a memfd in both: ours by its nature, QEMU's by its command line."""
    with contextlib.suppress(PermissionError, FileNotFoundError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                name = os.readlink(entry)
                if "memfd:qmpserver-ram" in name or "memfd:memory-backend-memfd" in name:
                    return str(entry)
    raise VmError(f"process {pid} has no guest memory that could be watched")
