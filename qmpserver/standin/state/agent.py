"""The guest agent: its time, files, processes, and frozen file systems."""

from __future__ import annotations

import base64
import errno
import itertools
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from qmpserver._version import VERSION
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State
    from qmpserver.standin.state.budget import Budget

_WHILE_FROZEN = (
    "guest-ping", "guest-info", "guest-sync", "guest-sync-delimited", "guest-fsfreeze-status",
    "guest-fsfreeze-thaw",
)  # fmt: skip


MAX_FILES = 1000
"""Open files."""

MAX_PROCESSES = 1000
"""Processes whose status no client has asked for since they ended."""

MAX_READ = 48 << 20
"""Bytes; the guest agent's own limit."""

# As in fopen(), with the agent's "b" for binary at either place.
_MODES = frozenset(
    ("r", "rb", "w", "wb", "a", "ab", "r+", "rb+", "r+b", "w+", "wb+", "w+b", "a+", "ab+", "a+b")
)


class _File:
    """A file that a client has opened: its content, which others may change, and a position."""

    def __init__(self, content: bytearray, *, reads: bool, writes: bool, appends: bool) -> None:
        self._content = content
        self._reads = reads
        self._writes = writes
        self._appends = appends
        self._at = 0

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes from the position on.

        Raises:
            CommandError: The file is open for writing only.
        """
        if not self._reads:
            raise CommandError(f"failed to read file: {os.strerror(errno.EBADF)}")
        data = bytes(self._content[self._at : self._at + count])
        self._at += len(data)
        return data

    def write(self, data: bytes, budget: Budget) -> int:
        """Write at the position, or at the end if the file is open for appending.

        Raises:
            CommandError: The file is open for reading only, or there is no space.
        """
        if not self._writes:
            raise CommandError(f"failed to write to file: {os.strerror(errno.EBADF)}")
        if not data:
            return 0
        content = self._content
        at = len(content) if self._appends else self._at
        if not budget.take(max(0, at + len(data) - len(content))):
            raise CommandError(f"failed to write to file: {os.strerror(errno.ENOSPC)}")
        content.extend(bytes(max(0, at - len(content))))  # another client has emptied it
        content[at : at + len(data)] = data
        self._at = at + len(data)
        return len(data)


def _open_error(path: str, mode: str, number: int) -> CommandError:
    return CommandError(f"failed to open file '{path}' (mode: '{mode}'): {os.strerror(number)}")


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    frozen: list[bool] = [False]
    contents: dict[str, bytearray] = {}
    files: dict[int, _File] = {}
    handles = itertools.count(1000)
    numbers = itertools.count(1000)
    pids: set[int] = set()

    registry.command("guest-sync")(lambda id: id)  # noqa: A006 -- the schema's name
    registry.command("guest-sync-delimited")(lambda id: id)  # noqa: A006
    registry.command("guest-get-time")(time.time_ns)

    @registry.command("guest-info")
    def guest_info() -> Any:
        return {
            "version": VERSION,
            "supported_commands": [
                {
                    "name": name,
                    "enabled": not frozen[0] or name in _WHILE_FROZEN,
                    "success-response": command.success_response,
                }
                for name, command in registry.schema.commands.items()
            ],
        }

    @registry.command("guest-fsfreeze-status")
    def status() -> Any:
        return "frozen" if frozen[0] else "thawed"

    def freeze(**_: Any) -> Any:
        frozen[0] = True
        return 1

    registry.command("guest-fsfreeze-freeze")(freeze)
    registry.command("guest-fsfreeze-freeze-list")(freeze)

    @registry.command("guest-fsfreeze-thaw")
    def thaw() -> Any:
        was, frozen[0] = frozen[0], False
        return int(was)

    @registry.command("guest-shutdown")
    def shutdown(mode: str = "powerdown") -> None:
        if mode not in ("halt", "powerdown", "reboot"):
            raise CommandError(
                "Invalid parameter 'mode', expected: 'halt', 'powerdown', or 'reboot'"
            )

    @registry.command("guest-exec")
    def guest_exec(**_: Any) -> Any:
        if len(pids) >= MAX_PROCESSES:
            why = os.strerror(errno.EAGAIN)
            raise CommandError(f"Guest agent command failed, error was 'Failed to fork ({why})'")
        pid = next(numbers)
        pids.add(pid)
        return {"pid": pid}

    @registry.command("guest-exec-status")
    def guest_exec_status(pid: int) -> Any:
        if pid not in pids:
            raise CommandError(f"PID {pid} does not exist")
        pids.discard(pid)  # the agent forgets a process whose end it has told
        return {"exited": True, "exitcode": 0}

    def opened(handle: int) -> _File:
        if handle not in files:
            raise CommandError(f"handle '{handle}' has not been found")
        return files[handle]

    @registry.command("guest-file-open")
    def file_open(path: str, mode: str = "r") -> Any:
        if mode not in _MODES:
            raise CommandError(f"invalid file open mode '{mode}'")
        kind, both = mode[0], "+" in mode
        if kind == "r" and path not in contents:
            raise _open_error(path, mode, errno.ENOENT)
        if len(files) >= MAX_FILES:
            raise _open_error(path, mode, errno.EMFILE)
        if path not in contents and not state.budget.take(sys.getsizeof(path)):
            raise _open_error(path, mode, errno.ENOSPC)
        content = contents.setdefault(path, bytearray())
        if kind == "w":
            state.budget.take(-len(content))
            content.clear()
        handle = next(handles)
        files[handle] = _File(content, reads=kind == "r" or both, writes=kind != "r" or both,
                              appends=kind == "a")  # fmt: skip
        return handle

    @registry.command("guest-file-write")
    def file_write(handle: int, buf_b64: str, count: int | None = None) -> Any:
        file = opened(handle)
        try:
            data = base64.b64decode(buf_b64, validate=True)
        except ValueError:
            raise CommandError("Base64 data is not valid") from None
        if count is not None and not 0 <= count <= len(data):
            raise CommandError(f"value '{count}' is invalid for argument count")
        return {"count": file.write(data[:count], state.budget), "eof": False}

    @registry.command("guest-file-read")
    def file_read(handle: int, count: int = 4096) -> Any:
        file = opened(handle)
        if not 0 <= count <= MAX_READ:
            raise CommandError(f"value '{count}' is invalid for argument count")
        data = file.read(count)
        return {
            "count": len(data),
            "buf-b64": base64.b64encode(data).decode("ascii"),
            "eof": len(data) < count,
        }

    @registry.command("guest-file-flush")
    def file_flush(handle: int) -> None:
        opened(handle)

    @registry.command("guest-file-close")
    def file_close(handle: int) -> None:
        opened(handle)
        del files[handle]

    @registry.command("guest-network-get-interfaces")
    def interfaces() -> Any:
        address = {"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}
        return [{"name": "lo", "ip-addresses": [address]}]

    @registry.command("guest-get-host-name")
    def host_name() -> Any:
        return {"host-name": state.machine.name or "localhost"}

    @registry.command("guest-get-vcpus")
    def vcpus() -> Any:
        return [
            {"logical-id": index, "online": True, "can-offline": index > 0}
            for index in range(state.machine.cpus)
        ]
