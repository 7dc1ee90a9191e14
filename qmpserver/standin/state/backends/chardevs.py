"""Character devices: their backends and their users."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from qmpserver.monitor import DeviceError
from qmpserver.qmp import CommandError
from qmpserver.standin.state.backends.charbackends import Backend, Ring, open_backend
from qmpserver.standin.values import as_object, decoded

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    opened: dict[str, Backend] = {}

    def close(name: str) -> None:
        backend = opened.pop(name, None)
        if backend is not None:
            backend.close()

    def close_all() -> None:
        for name in list(opened):
            close(name)

    state.closes.append(close_all)

    def open_as(name: str, backend: dict[str, Any]) -> Any:
        """Open a character device, or reopen it with another backend; return the reply."""
        try:
            check(name, backend)
            made = open_backend(state, name, backend)
        except (DeviceError, CommandError, ValueError) as error:  # ValueError: of a path's letters
            words = error.desc if isinstance(error, CommandError) else str(error)
            if state.in_setup:
                raise CommandError(words) from None
            raise CommandError(f"Failed to add chardev '{name}': {words}") from None
        pty = backend.get("type") == "pty" and made is not None and made.filename.partition(":")[2]
        try:
            state.chardevs[name] = {**backend, "pty": pty} if pty else backend
        except CommandError:
            if made is not None:
                made.close()
            raise
        close(name)
        if made is not None:
            opened[name] = made
        return {"pty": pty} if pty else {}

    def check(name: str, backend: dict[str, Any]) -> None:
        """Check the character devices below a multiplexer or a hub."""
        data = as_object(backend.get("data"))
        kind = backend.get("type")
        below = {"mux": [data.get("chardev")], "hub": data.get("chardevs", [])}.get(str(kind), [])
        if kind == "hub" and not below:
            raise CommandError("hub: 'chardevs' list is not defined")
        for one in below:
            if not state.has_chardev(one):
                missing = f"mux: base chardev {one} not found"
                if kind == "hub":
                    missing = f"hub: chardev can't be found by id '{one}'"
                raise CommandError(missing)
            if is_taken(state, str(one)):
                raise CommandError(f"chardev '{one}' is already in use")

    def require_changeable(name: str) -> None:
        if not state.has_chardev(name):
            raise CommandError(f"Chardev '{name}' does not exist")
        attached = any(one.id == name and one.attached for one in state.host.devices)
        kinds = {one.get("type") for one in _above(state, name)}
        if attached or kinds or state.chardevs.get(name, {}).get("type") == "mux":
            raise CommandError("Chardev user does not support chardev hotswap")

    @registry.command("chardev-add")
    def chardev_add(id: str, backend: dict[str, Any]) -> Any:  # noqa: A002 -- the schema's name
        if state.has_chardev(id):
            raise CommandError(f"Chardev with id '{id}' already exists")
        return open_as(id, backend)

    @registry.command("chardev-change")
    def chardev_change(id: str, backend: dict[str, Any]) -> Any:  # noqa: A002
        require_changeable(id)
        reply = open_as(id, backend)
        state.host.drop_device(id)
        return reply

    @registry.command("chardev-remove")
    def chardev_remove(id: str) -> None:  # noqa: A002
        if not state.has_chardev(id):
            raise CommandError(f"Chardev '{id}' not found")
        attached = any(one.id == id and one.attached for one in state.host.devices)
        if attached or is_taken(state, id) or _users(state, id):
            raise CommandError(f"Chardev '{id}' is busy")
        state.chardevs.pop(id, None)
        state.host.drop_device(id)
        close(id)

    @registry.command("query-chardev")
    def query_chardev() -> Any:
        return [
            {
                "label": name,
                "filename": opened[name].filename if name in opened else filename(backend),
                "frontend-open": bool(_users(state, name)),
            }
            for name, backend in reversed([*state.chardevs.items()])
        ] + [
            {
                "label": device.id,
                "filename": device.filename,
                "frontend-open": device.attached or bool(_users(state, device.id)),
            }
            for device in state.host.devices
        ]

    @registry.command("chardev-send-break")
    def chardev_send_break(id: str) -> None:  # noqa: A002
        if not state.has_chardev(id):
            raise CommandError(f"Chardev '{id}' not found")

    def ring(name: str) -> Ring:
        if not state.has_chardev(name):
            raise CommandError(f"Device '{name}' not found")
        found = opened.get(name)
        if not isinstance(found, Ring):
            raise CommandError(f"{name} is not a ringbuf device")
        return found

    @registry.command("ringbuf-write")
    def ringbuf_write(device: str, data: str, format: str = "utf8") -> None:  # noqa: A002
        found = ring(device)
        found.write(decoded(data) if format == "base64" else data.encode("utf-8", "replace"))

    @registry.command("ringbuf-read")
    def ringbuf_read(device: str, size: int, format: str = "utf8") -> Any:  # noqa: A002
        found = ring(device)
        if size <= 0:
            raise CommandError("size must be greater than zero")
        taken = found.read(size)
        if format == "base64":
            return base64.b64encode(taken).decode()
        return taken.decode("utf-8", "replace")


def is_taken(state: State, name: str) -> bool:
    """Return whether a character device takes no further user; a multiplexer has room for more."""
    if state.chardevs.get(name, {}).get("type") == "mux":
        return False
    return bool(_users(state, name) or _above(state, name))


def _users(state: State, name: str) -> list[str]:
    """Return the devices that use a character device."""
    return [key for key, one in state.devices.items() if one.get("chardev") == name]


def _above(state: State, name: str) -> list[dict[str, Any]]:
    """Return the multiplexers and hubs that use a character device."""
    found = []
    for one in state.chardevs.values():
        data = as_object(one.get("data"))
        if data.get("chardev") == name or name in (data.get("chardevs") or ()):
            found.append(one)
    return found


def filename(backend: dict[str, Any]) -> str:
    """Return the `filename` that `query-chardev` shows for a backend that is not open."""
    kind = backend.get("type", "null")
    data = as_object(backend.get("data"))
    match kind:
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
    return f"disconnected:{scheme}:{path}{',server=on' if data.get('server', True) else ''}"
