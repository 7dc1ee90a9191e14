"""Backends of devices: network backends, character devices, objects."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.values import as_object

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

IOTHREAD_POLL_NS = 32768


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("netdev_add")
    def netdev_add(id: str, **options: Any) -> None:  # noqa: A002 -- the schema's name
        if id in state.netdevs:
            raise CommandError(f"Duplicate ID '{id}'")
        state.netdevs[id] = options

    @registry.command("netdev_del")
    def netdev_del(id: str) -> None:  # noqa: A002
        if state.netdevs.pop(id, None) is None:
            raise CommandError(f"Device '{id}' not found", "DeviceNotFound")

    ptys = itertools.count()

    def open_chardev(name: str, backend: dict[str, Any]) -> Any:
        """Open a character device, or reopen it with another backend; return the reply."""
        if backend.get("type") != "pty":
            state.chardevs[name] = backend
            return {}
        pty = f"/dev/pts/{next(ptys)}"
        state.chardevs[name] = {**backend, "pty": pty}
        return {"pty": pty}

    @registry.command("chardev-add")
    def chardev_add(id: str, backend: dict[str, Any]) -> Any:  # noqa: A002
        if id in state.chardevs:
            raise CommandError(f"Chardev with id '{id}' already exists")
        return open_chardev(id, backend)

    @registry.command("chardev-change")
    def chardev_change(id: str, backend: dict[str, Any]) -> Any:  # noqa: A002
        if id not in state.chardevs:
            raise CommandError(f"Chardev '{id}' does not exist")
        return open_chardev(id, backend)

    @registry.command("chardev-remove")
    def chardev_remove(id: str) -> None:  # noqa: A002
        monitors = [device.id for device in state.host.devices]
        if id in monitors or any(one.get("chardev") == id for one in state.devices.values()):
            raise CommandError(f"Chardev '{id}' is busy")
        if state.chardevs.pop(id, None) is None:
            raise CommandError(f"Chardev '{id}' not found")

    @registry.command("query-chardev")
    def query_chardev() -> Any:
        used = {one.get("chardev") for one in state.devices.values()}
        return [
            {"label": name, "filename": _filename(state, name), "frontend-open": name in used}
            for name in reversed(state.chardevs)
        ] + [
            {"label": device.id, "filename": device.filename, "frontend-open": True}
            for device in state.host.devices
        ]

    @registry.command("object-add")
    def object_add(id: str, qom_type: str, **properties: Any) -> None:  # noqa: A002
        if id in state.objects:
            raise CommandError(
                f"attempt to add duplicate property '{id}' to object (type 'container')"
            )
        state.objects[id] = {
            "qom-type": qom_type,
            **{name.replace("_", "-"): value for name, value in properties.items()},
        }

    @registry.command("object-del")
    def object_del(id: str) -> None:  # noqa: A002
        if id not in state.objects:
            raise CommandError(f"object '{id}' not found")
        if any(id in (one.get("memdev"), one.get("iothread")) for one in state.devices.values()):
            raise CommandError(f"object '{id}' is in use, can not be deleted")
        del state.objects[id]

    @registry.command("query-iothreads")
    def query_iothreads() -> Any:
        return [
            {"id": name, "thread-id": os.getpid() + index, "poll-max-ns": IOTHREAD_POLL_NS}
            for index, name in enumerate(_of_type(state, "iothread"), 100)
        ]

    @registry.command("query-memdev")
    def query_memdev() -> Any:
        return [
            {
                "id": name,
                "merge": True,
                "dump": True,
                "policy": "default",
                "reserve": True,
                **state.objects[name],
            }
            for name in _of_type(state, "memory-backend-")
        ]


def _of_type(state: State, prefix: str) -> list[str]:
    return [name for name, one in state.objects.items() if one["qom-type"].startswith(prefix)]


def _filename(state: State, name: str) -> str:
    backend = state.chardevs[name]
    kind = backend.get("type", "null")
    if kind == "pty":
        return f"pty:{backend['pty']}"
    if kind != "socket":
        return str(kind)
    data = as_object(backend.get("data"))
    address = as_object(data.get("addr"))
    where = as_object(address.get("data"))
    path = where.get("path") or f"{where.get('host', '')}:{where.get('port', where.get('str', ''))}"
    kind = str(address.get("type", "unix"))
    scheme = {"inet": "tcp"}.get(kind, kind)
    server = ",server=on" if data.get("server", True) else ""
    return f"disconnected:{scheme}:{path}{server}"
