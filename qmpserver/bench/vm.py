"""A virtual machine as a measurement needs it: launched, spoken to, and watched from outside.

The same for this server and for QEMU, both with the guest `dirty`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpserver.bench.firmware import firmware_image, ram_size
from qmpserver.tools.address import ServerAddress
from qmpserver.tools.errors import (
    HUNG_UP,
    MAX_MESSAGE,
    NO_GREETING,
    TOO_LONG,
    QmpctlError,
    ServerError,
    UsageError,
    not_qmp,
    sensible,
)
from qmpserver.vm.accel.native._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RAM_MIB = 512
START_S = 10.0
GREETING_S = 5.0
REPLY_S = 10.0
EXTENSION = "__org.qmpserver_query-dirty-ring"
_PROGRESS: int = ffi.offsetof("struct dirty_guest", "progress")
_CONTROL: int = lib.GUEST_CONTROL


class VmError(QmpctlError):
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

    def __init__(self, address: ServerAddress, patience: float = REPLY_S) -> None:
        """Connect and negotiate; `patience` is how many seconds to wait for each message.

        Raises:
            OSError: It can't be connected to.
            ServerError: What answers there does not speak QMP.
        """
        self.received = 0  # when the last message came: CLOCK_MONOTONIC, ns
        self._address = address
        self._patience = min(patience, GREETING_S)
        self.socket = address.connect(self._patience)
        self._input = self.socket.makefile("rb")
        try:
            self._greet()
        except BaseException:
            self.close()
            raise
        self._patience = patience
        self.socket.settimeout(patience)

    def _greet(self) -> None:
        try:
            greeting = self._read()
        except TimeoutError:
            raise ServerError(
                f"{self._address}: {NO_GREETING} (after {self._patience:g} s)"
            ) from None
        if not isinstance(greeting.get("QMP"), dict):
            raise ServerError(f"{self._address}: {not_qmp(json.dumps(greeting))}")
        try:
            self.execute("qmp_capabilities")
        except VmError as error:
            raise ServerError(f"{self._address}: it refuses qmp_capabilities: {error}") from None

    def send(self, message: bytes) -> None:
        """Send what `encode` made; `receive` its answer."""
        try:
            self.socket.sendall(message)
        except OSError:
            raise ServerError(f"{self._address}: {HUNG_UP}") from None

    def receive(self) -> Any:
        """Wait for the answer to the command that was sent; events are passed over."""
        end = time.monotonic() + self._patience
        while time.monotonic() < end:
            try:
                message = self._read()
            except TimeoutError:
                break
            if "return" in message:
                return message["return"]
            if "error" in message:
                with sensible(self._address, "a command"):
                    raise VmError(message["error"]["desc"])
        raise ServerError(f"{self._address}: no answer within {self._patience:g} s")

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Send a command and wait for its answer."""
        self.send(encode(command, arguments))
        return self.receive()

    def _read(self) -> dict[str, Any]:
        """Raises TimeoutError, ServerError."""
        try:
            line = self._input.readline(MAX_MESSAGE)
            self.received = time.monotonic_ns()
            message: dict[str, Any] = json.loads(line)
        except TimeoutError:
            raise
        except OSError:
            raise ServerError(f"{self._address}: {HUNG_UP}") from None
        except (ValueError, RecursionError):
            why = not_qmp(line) if line.endswith(b"\n") else HUNG_UP
            why = TOO_LONG if len(line) == MAX_MESSAGE else why
            raise ServerError(f"{self._address}: {why}") from None
        if not isinstance(message, dict):
            raise ServerError(f"{self._address}: {not_qmp(line)}")
        return message

    def close(self) -> None:
        """Hang up."""
        self._input.close()
        self.socket.close()


class Vm:
    """A running machine: `qmp`, its `pid`, and what its guest `dirty` has done so far.

    Raises VmError: Its guest's memory can't be watched.
    """

    def __init__(self, name: str, qmp: Qmp) -> None:
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
        if EXTENSION not in self.commands:
            return None
        return self.qmp.execute(EXTENSION)

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


@contextlib.contextmanager
def real_time() -> Iterator[None]:
    """Where permitted, look without having to wait for a processor that the guest has."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


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


QEMU = "qemu-system-x86_64"


def has_qemu() -> bool:
    """Whether there is a QEMU to compare with."""
    return shutil.which(QEMU) is not None


def _option(words: Sequence[str], name: str) -> str | None:
    """Return what an option of a command line was given last; None where it is not there."""
    given = [value for word, value in pairwise(words) if word.lstrip("-") == name]
    return given[-1] if given else None


def _number(text: str, key: str) -> str:
    """Return the number in ``N,...`` or ``key=N,...``."""
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        if name in ("", key):
            return value
    return text


def complete(server: str, directory: str, *, vcpus: int, accel: str) -> list[str]:
    """Return the words of a command, with the options that it leaves open.

    These are ``-accel``, ``-smp`` and ``-m``, a QMP socket in `directory`, and for QEMU what has it
    run the guest `dirty` from memory that can be watched.
    """
    words = shlex.split(server)
    if not words:
        raise UsageError("--server needs a command")
    if _option(words, "accel") is None:
        words += ["-accel", accel]
    if (smp := _option(words, "smp")) is None:
        words += ["-smp", str(vcpus)]
    elif not _number(smp, "cpus").isdecimal():
        raise UsageError(f"-smp {smp}: how many vCPUs is that?")
    if (memory := _option(words, "m")) is None:
        words += ["-m", memory := f"{RAM_MIB}M"]
    words += ["-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"]
    if "qemu-system" in words[0]:
        if _option(words, "bios") is None:
            memory = _number(memory, "size")
            ram = ram_size(memory)
            cpus = vcpus if smp is None else int(_number(smp, "cpus"))
            firmware = Path(directory) / "dirty.bin"
            firmware.write_bytes(firmware_image(ram, cpus))
            words += ["-bios", str(firmware)]
            words += ["-object", f"memory-backend-memfd,id=ram,size={ram},share=on"]
            words += ["-machine", "pc,memory-backend=ram"]
        words += ["-display", "none", "-nodefaults", "-name", "debug-threads=on"]
    return words


@contextlib.contextmanager
def launch(server: str, *, vcpus: int, accel: str, name: str = "") -> Iterator[Vm]:
    """Run a machine for as long as the context lasts, with `complete`'s options.

    Raises VmError: It does not start; the text is what it said.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="qmpctl-"))
        argv = complete(server, directory, vcpus=vcpus, accel=accel)
        log = stack.enter_context(open(Path(directory) / "log", "w+b"))
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            raise VmError(f"{argv[0]}: {error.strerror}") from None
        stack.callback(_end, process)
        deadline = time.monotonic() + START_S
        while True:
            try:
                qmp = Qmp(ServerAddress(f"{directory}/qmp.sock"))
                break
            except (OSError, ServerError):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()
                    raise VmError(said or f"{server}: the server does not answer") from None
                time.sleep(0.01)
        stack.callback(qmp.close)
        vm = Vm(name or server, qmp)
        stack.callback(vm.close)
        vm.log = Path(log.name)
        yield vm


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
