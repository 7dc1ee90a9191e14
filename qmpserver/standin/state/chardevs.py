"""Character devices: their backends, of which only pseudo-terminals are real."""

from __future__ import annotations

import os
import tty
import weakref
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.values import as_object

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State


class _Pty:
    """A pseudo-terminal in raw mode, as long as it is open; nobody reads what others write to it.

    Raises:
        CommandError: The system has none left.
    """

    def __init__(self) -> None:
        try:
            controller, terminal = os.openpty()
        except OSError as error:
            raise CommandError(f"Failed to create PTY: {error.strerror}") from None
        self.path = os.ttyname(terminal)
        tty.setraw(terminal)
        os.close(terminal)
        self._close = weakref.finalize(self, os.close, controller)

    def close(self) -> None:
        """Close it; a client that has it open finds the end of it."""
        self._close()


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    ptys: dict[str, _Pty] = {}

    def close(name: str) -> None:
        pty = ptys.pop(name, None)
        if pty is not None:
            pty.close()

    def close_all() -> None:
        for name in list(ptys):
            close(name)

    state.closes.append(close_all)

    def opened(name: str, backend: dict[str, Any]) -> Any:
        """Open a character device, or reopen it with another backend; return the reply."""
        if backend.get("type") != "pty":
            state.chardevs[name] = backend
            close(name)
            return {}
        pty = _Pty()
        try:
            state.chardevs[name] = {**backend, "pty": pty.path}
        except CommandError:
            pty.close()
            raise
        close(name)
        ptys[name] = pty
        return {"pty": pty.path}

    def named() -> set[str]:
        return {*state.chardevs, *(device.id for device in state.host.devices)}

    @registry.command("chardev-add")
    def chardev_add(id: str, backend: dict[str, Any]) -> Any:  # noqa: A002 -- the schema's name
        if id in named():
            raise CommandError(f"Chardev with id '{id}' already exists")
        return opened(id, backend)

    @registry.command("chardev-change")
    def chardev_change(id: str, backend: dict[str, Any]) -> Any:  # noqa: A002
        if id not in state.chardevs:
            raise CommandError(f"Chardev '{id}' does not exist")
        return opened(id, backend)

    @registry.command("chardev-remove")
    def chardev_remove(id: str) -> None:  # noqa: A002
        monitors = [device.id for device in state.host.devices]
        if id in monitors or any(one.get("chardev") == id for one in state.devices.values()):
            raise CommandError(f"Chardev '{id}' is busy")
        if state.chardevs.pop(id, None) is None:
            raise CommandError(f"Chardev '{id}' not found")
        close(id)

    @registry.command("query-chardev")
    def query_chardev() -> Any:
        used = {one.get("chardev") for one in state.devices.values()}
        return [
            {
                "label": name,
                "filename": filename(state.chardevs[name]),
                "frontend-open": name in used,
            }
            for name in reversed(state.chardevs)
        ] + [
            {"label": device.id, "filename": device.filename, "frontend-open": True}
            for device in state.host.devices
        ]


def filename(backend: dict[str, Any]) -> str:
    """Return the `filename` that `query-chardev` shows for a backend."""
    kind = backend.get("type", "null")
    data = as_object(backend.get("data"))
    match kind:
        case "pty":
            return f"pty:{backend['pty']}"
        case "socket":
            return _socket(data)
        case "vc":
            return "vc"
        case "udp":
            remote = as_object(as_object(data.get("remote")).get("data"))
            return f"udp:{remote.get('host', '')}:{remote.get('port', '')}"
    return str(kind)


def _socket(data: dict[str, Any]) -> str:
    address = as_object(data.get("addr"))
    where = as_object(address.get("data"))
    path = where.get("path") or f"{where.get('host', '')}:{where.get('port', where.get('str', ''))}"
    kind = str(address.get("type", "unix"))
    scheme = {"inet": "tcp"}.get(kind, kind)
    server = ",server=on" if data.get("server", True) else ""
    return f"disconnected:{scheme}:{path}{server}"
