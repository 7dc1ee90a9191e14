"""Dumps of the guest's memory: an ELF header without segments, since there is no memory."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_CORE, _X86_64, _SIZE = 4, 62, 64
_HEADER = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
    "<HHIQQQIHHHHHH", _CORE, _X86_64, 1, 0, _SIZE, 0, 0, _SIZE, 56, 0, 0, 0, 0
)


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    last: dict[str, Any] = {"status": "none", "completed": 0, "total": 0}

    def opened(protocol: str) -> int:
        scheme, _, where = protocol.partition(":")
        if scheme == "fd":
            return state.take_fd(where)
        if scheme != "file":
            raise CommandError("Invalid parameter 'protocol'")
        try:
            return os.open(where, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CommandError(f"Could not open '{where}': {error.strerror}") from None

    def write(fd: int) -> None:
        status, size = "completed", state.machine.memory
        try:
            os.write(fd, _HEADER)
        except OSError:
            status = "failed"
        finally:
            os.close(fd)
        last.update(status=status, completed=size if status == "completed" else 0, total=size)

    def write_detached(fd: int) -> None:
        write(fd)
        state.emit("DUMP_COMPLETED", {"result": dict(last)})

    @registry.command("dump-guest-memory")
    def dump_guest_memory(
        protocol: str,
        paging: bool = False,
        detach: bool = False,
        **_: Any,
    ) -> None:
        if state.status == "inmigrate":
            raise CommandError("Dump not allowed during incoming migration.")
        fd = opened(protocol)
        if detach:
            last["status"] = "active"
            state.later(0, write_detached, fd)
        else:
            write(fd)
            if last["status"] == "failed":
                raise CommandError("dump: failed to write elf header")

    @registry.command("query-dump")
    def query_dump() -> Any:
        return last

    @registry.command("query-dump-guest-memory-capability")
    def query_capability() -> Any:
        return {"formats": ["elf", "kdump-zlib", "win-dmp"]}
