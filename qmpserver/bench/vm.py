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
from qmpserver.vm.accel.kvm import Kvm
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.accel.soft import CLOCK_HZ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpserver.tools.client import Client

WARM_S = 2.0
FILLED_S = 60.0
_PROGRESS: int = ffi.offsetof("struct dirty_guest", "progress")
_PAGES: int = ffi.offsetof("struct dirty_guest", "pages")
_PATTERN: int = ffi.offsetof("struct dirty_guest", "pattern")
_INTERVAL: int = ffi.offsetof("struct dirty_guest", "interval")
_CONTROL: int = lib.GUEST_CONTROL


class VmError(QmpctlError):
    """The machine cannot be measured; the text says why."""


class Vm:
    """A running machine with the guest `dirty`.

    Attributes:
        name: Its name in tables.
        qmp: A client, which stays the caller's.
        pid: The server's process.
        load: A process that loads the server while its guest runs, stopped otherwise; or 0.
        log: The file of the server's output, if it was launched here.
        commands: The names of the server's commands.
    """

    def __init__(self, name: str, qmp: Client) -> None:
        """Watch the memory of a server's guest.

        Raises:
            VmError: The memory cannot be watched.
        """
        self.name = name
        self.qmp = qmp
        self.pid = peer(qmp.socket)
        self.load = 0
        self.log: Path | None = None
        with sensible(name, "query-commands"):
            self.commands = {command["name"] for command in qmp.execute("query-commands")}
        with open(_ram_file(self.pid), "rb") as file:
            self._ram = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def vcpus(self) -> int:
        """Return the number of vCPUs."""
        return len(self.qmp.execute("query-cpus-fast"))

    def progress(self, cpu_index: int) -> int:
        """Return the number of pages that the guest has stored to, by its own counter."""
        where = _CONTROL + cpu_index * mmap.PAGESIZE + _PROGRESS
        return int(struct.unpack_from("Q", self._ram, where)[0])

    def pace(
        self, cpu_index: int, pages: int, interval: int, pattern: int = lib.GUEST_SEQUENTIAL
    ) -> None:
        """Have a vCPU's guest store to so many pages, a store each `interval` ticks of its clock.

        The server does not see these writes to its guest's memory. A migration that is under way
        carries them only if the guest makes another store: its counter is in the same page.

        Args:
            cpu_index: The vCPU.
            pages: The size of its working set, at most that of the start.
            interval: Ticks between two stores; 0: full speed.
            pattern: One of the values of `PATTERNS` in `vm/machine/guest.py`.
        """
        where = _CONTROL + cpu_index * mmap.PAGESIZE
        with (
            open(_ram_file(self.pid), "r+b") as file,
            mmap.mmap(file.fileno(), where + mmap.PAGESIZE) as ram,
            # Each is one store: struct.pack_into writes zeros first, which the guest would see.
            memoryview(ram).cast("Q") as words,
        ):
            words[(where + _PAGES) // 8] = pages
            words[(where + _PATTERN) // 8] = pattern
            words[(where + _INTERVAL) // 8] = interval

    def clock_hz(self) -> int:
        """Return the frequency of the clock in whose ticks `pace` counts.

        Raises:
            VmError: The machine uses KVM, which cannot be asked.
        """
        with sensible(self.name, "query-kvm"):
            if not self.qmp.execute("query-kvm")["enabled"]:
                return CLOCK_HZ
        try:
            with contextlib.closing(Kvm()) as kvm, contextlib.closing(kvm.create_vm()) as machine:
                return machine.get_tsc_khz() * 1000  # the same for all
        except OSError as error:
            raise VmError(f"KVM does not tell the vCPUs' clock: {error.strerror}") from None

    def rates(self, seconds: float, vcpus: int) -> list[float]:
        """Return the MB/s that each vCPU's guest stores to over the next `seconds`."""
        from_time, before = time.monotonic(), [self.progress(i) for i in range(vcpus)]
        time.sleep(seconds)
        elapsed = time.monotonic() - from_time
        return [(self.progress(i) - b) / 256 / elapsed for i, b in enumerate(before)]

    def warm(self, vcpus: int) -> None:
        """Wait until the guest has touched all of its memory, but not longer than `WARM_S`.

        A guest with a rate would take too long.
        """
        enough = len(self._ram) // mmap.PAGESIZE // vcpus
        deadline = time.monotonic() + WARM_S
        while min(self.progress(index) for index in range(vcpus)) < enough:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)

    def wait_stores(self, stores: int, vcpus: int) -> None:
        """Wait until each vCPU's guest has stored so often: once to each page of its memory, say.

        Raises:
            VmError: It does not within `FILLED_S`.
        """
        deadline = time.monotonic() + FILLED_S
        while min(self.progress(index) for index in range(vcpus)) < stores:
            if time.monotonic() > deadline:
                raise VmError(f"{self.name}: waited {FILLED_S:.0f} s for the guest to fill memory")
            time.sleep(0.01)

    def dirty_ring(self) -> Any:
        """Return the answer to `QUERY_RING`; None if the server has no such command."""
        if QUERY_RING not in self.commands:
            return None
        return self.qmp.execute(QUERY_RING)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the guest and the load as long as the context lasts."""
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
        """Return whether its reaper always sleeps a second, as QEMU's does."""
        ring = self.dirty_ring()
        return ring is None or ring["mode"] == "poll"

    def close(self) -> None:
        """Stop watching."""
        self._ram.close()


def peer(connection: socket.socket) -> int:
    """Return the process that listens.

    Raises:
        VmError: The connection is not of a UNIX socket, which alone tells it.
    """
    if connection.family is not socket.AF_UNIX:
        raise VmError("the server's process is unknown over TCP: use a UNIX socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, _uid, _gid = struct.unpack("3i", credentials)
    return int(pid)


def _ram_file(pid: int) -> str:
    """Return the path of the guest's memory: a memfd, in QEMU by its command line."""
    with contextlib.suppress(PermissionError, FileNotFoundError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                name = os.readlink(entry)
                if "memfd:qmpserver-ram" in name or "memfd:memory-backend-memfd" in name:
                    return str(entry)
    raise VmError(f"process {pid} has no guest memory that can be watched")
