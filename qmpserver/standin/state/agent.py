"""The guest agent: its time, files, processes, and frozen file systems."""

from __future__ import annotations

import base64
import binascii
import itertools
import time
from typing import TYPE_CHECKING, Any

from qmpserver._version import VERSION
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_WHILE_FROZEN = (
    "guest-ping", "guest-info", "guest-sync", "guest-sync-delimited", "guest-fsfreeze-status",
    "guest-fsfreeze-thaw",
)  # fmt: skip


class _File:
    """A file that a client has opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.at = 0


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    frozen: list[bool] = [False]
    contents: dict[str, bytes] = {}
    files: dict[int, _File] = {}
    handles = itertools.count(1000)
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
        pid = 1000 + len(pids)
        pids.add(pid)
        return {"pid": pid}

    @registry.command("guest-exec-status")
    def guest_exec_status(pid: int) -> Any:
        if pid not in pids:
            raise CommandError("PID " + str(pid) + " does not exist")
        return {"exited": True, "exitcode": 0}

    def opened(handle: int) -> _File:
        if handle not in files:
            raise CommandError(f"handle '{handle}' has not been found")
        return files[handle]

    @registry.command("guest-file-open")
    def file_open(path: str, mode: str = "r") -> Any:
        if mode.startswith("r") and path not in contents:
            raise CommandError(
                f"failed to open file '{path}' (mode: '{mode}'): No such file or directory"
            )
        if mode.startswith("w"):
            contents[path] = b""
        handle = next(handles)
        files[handle] = _File(path)
        return handle

    @registry.command("guest-file-write")
    def file_write(handle: int, buf_b64: str, count: int | None = None) -> Any:
        file = opened(handle)
        try:
            data = base64.b64decode(buf_b64, validate=True)[:count]
        except binascii.Error:
            raise CommandError("Base64 data is not valid") from None
        contents[file.path] += data
        return {"count": len(data), "eof": False}

    @registry.command("guest-file-read")
    def file_read(handle: int, count: int = 4096) -> Any:
        file = opened(handle)
        data = contents[file.path][file.at : file.at + count]
        file.at += len(data)
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
