"""Media and trays of removable drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import disks, images
from qmpserver.standin.state.block.images import Image
from qmpserver.standin.state.block.nodes import add_node, drop_unused, image_options
from qmpserver.standin.state.block.paths import qdev

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    media = _Media(state)

    @registry.command("blockdev-open-tray")
    def open_tray(device: str | None = None, id: str | None = None, force: bool = False) -> None:  # noqa: A002 -- the schema's name
        media.move_tray(disks.find(state, device, id), is_open=True)

    @registry.command("blockdev-close-tray")
    def close_tray(device: str | None = None, id: str | None = None) -> None:  # noqa: A002
        media.move_tray(disks.find(state, device, id), is_open=False)

    @registry.command("blockdev-remove-medium")
    def remove_medium(id: str) -> None:  # noqa: A002
        media.remove(disks.find(state, None, id))

    @registry.command("blockdev-insert-medium")
    def insert_medium(id: str, node_name: str) -> None:  # noqa: A002
        key = disks.find(state, None, id)
        if node_name not in state.nodes:
            raise CommandError(f"Node '{node_name}' not found")
        if any(state.drives.with_node(node_name)):
            raise CommandError(f"Node '{node_name}' is already in use")
        media.insert(key, node_name)

    @registry.command("eject")
    def eject(device: str | None = None, id: str | None = None, force: bool = False) -> None:  # noqa: A002
        key = disks.find(state, device, id)
        media.move_tray(key, is_open=True)
        media.remove(key)

    @registry.command("blockdev-change-medium")
    async def change_medium(
        filename: str,
        device: str | None = None,
        id: str | None = None,  # noqa: A002
        format: str | None = None,  # noqa: A002
        read_only_mode: str = "retain",
        **_: Any,
    ) -> None:
        disks.find(state, device, id)
        options = image_options(filename)
        found = await images.look(images.names(options))
        key = disks.find(state, device, id)
        image = found.get(options["filename"], Image())
        read_only = read_only_mode == "read-only"
        if read_only_mode == "retain":
            before = state.drives[key]["node"]
            read_only = before is None or state.nodes[before].get("read-only", False)
        driver = format or image.format or "raw"
        made = {"driver": driver, "read-only": read_only, "file": options}
        node = add_node(state, made, found, owned=False)
        try:
            media.move_tray(key, is_open=True)
            media.remove(key)
            media.insert(key, node)
        except CommandError:
            drop_unused(state, node)
            raise
        media.move_tray(key, is_open=False)


class _Media:
    """The media of all drives."""

    def __init__(self, state: State) -> None:
        self._state = state

    def check_removable(self, key: str) -> None:
        """Check that a drive is removable.

        Raises:
            CommandError: It is not.
        """
        drive = self._state.drives[key]
        if not disks.is_removable(self._state, drive):
            raise CommandError(f"Device '{self._title(key)}' is not removable")

    def move_tray(self, key: str, *, is_open: bool) -> None:
        """Open or close the tray of a drive, if it has one.

        Raises:
            CommandError: The drive is not removable.
        """
        self.check_removable(key)
        drive = self._state.drives[key]
        if not disks.has_tray(self._state, drive) or drive["tray-open"] == is_open:
            return
        self._state.drives.change(key, **{"tray-open": is_open})
        device = qdev(self._state, drive["device"])
        moved = {"device": drive["name"], "id": device, "tray-open": is_open}
        self._state.emit("DEVICE_TRAY_MOVED", moved)

    def remove(self, key: str) -> None:
        """Take the medium out of a drive.

        Raises:
            CommandError: The drive is not removable, or its tray is closed.
        """
        self.check_removable(key)
        drive = self._state.drives[key]
        if self._is_closed(key):
            raise CommandError(f"Tray of device '{self._title(key)}' is not open")
        self._state.drives.change(key, node=None)
        drop_unused(self._state, drive["node"])

    def insert(self, key: str, node: str) -> None:
        """Put a node into a drive as its medium.

        Raises:
            CommandError: The drive is not removable, its tray is closed, or it has a medium.
        """
        self.check_removable(key)
        if self._is_closed(key):
            raise CommandError("Tray of the device is not open")
        if self._state.drives[key]["node"] is not None:
            raise CommandError("There already is a medium in the device")
        self._state.drives.change(key, node=node)

    def _is_closed(self, key: str) -> bool:
        drive = self._state.drives[key]
        return disks.has_tray(self._state, drive) and not drive["tray-open"]

    def _title(self, key: str) -> str:
        drive = self._state.drives[key]
        return drive["name"] or qdev(self._state, drive["device"])
