"""Devices: plugging and unplugging, and their views by bus."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import IDENTIFIER
from qmpserver.qmp import CommandError
from qmpserver.standin.state.backends.chardevs import is_taken
from qmpserver.standin.state.backends.objects import is_used
from qmpserver.standin.state.block import disks
from qmpserver.standin.state.devices import memory, nics, pci, realize
from qmpserver.standin.state.devices.properties import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.monitor import Registry
    from qmpserver.releases.facts import Device
    from qmpserver.standin.state import State

PERIPHERAL = "/machine/peripheral"
# Properties that refer to a backend, which must exist.
_REFERENCES = ("netdev", "chardev", "drive", "tpmdev")
_WITHOUT_GUEST = ("SCSI", "usb-bus", "virtio-serial-bus")  # buses that devices leave at once
_EXPECTED = {str: "string", int: "integer", bool: "boolean", float: "number"}


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    unnamed = itertools.count()
    asked_when_stopped: set[str] = set()  # devices; the guest cannot have heard of it

    def exists(key: str, name: str) -> bool:
        match key:
            case "netdev":
                return name in state.netdevs
            case "drive":
                return state.drives.named(name) is not None or name in state.nodes
            case "tpmdev":
                return name in state.tpms
        return state.has_chardev(name)

    def check_unused(owner: str, key: str, value: str) -> None:
        refused = f"Property '{owner}.{key}' can't take value '{value}'"
        if key == "netdev" and any(one.get(key) == value for one in state.devices.values()):
            raise CommandError(f"{refused}, it's in use")
        if key == "chardev" and is_taken(state, value):
            raise CommandError(f"{refused}: chardev '{value}' is already in use")

    def check_references(
        driver: str, kind: Device | None, types: Mapping[str, str], given: dict[str, Any]
    ) -> None:
        for key in _REFERENCES:
            value = given.get(key)
            if value is not None:
                check_type(key, value, str)
            if value is not None and not exists(key, value):
                owner = driver if kind is None else kind.owner(key)
                raise CommandError(f"Property '{owner}.{key}' can't find value '{value}'")
            if value is not None and kind is not None:
                check_unused(kind.owner(key), key, value)
        for key, value in given.items():
            if not types.get(key, "").startswith("link<") or value.startswith("/") or not value:
                continue  # a path of any object, or none
            if value not in state.objects and value not in state.devices:
                raise CommandError(f"Device '{value}' not found", "DeviceNotFound")
        if "memdev" in given:
            check_type("memdev", given["memdev"], str)
        if driver.startswith("ivshmem-"):
            memory.check_free(state, given)
        if is_used(state, "cryptodev", given.get("cryptodev", "")):
            raise CommandError(f"can't use already used cryptodev backend: {given['cryptodev']}")

    @registry.command("device_add")
    def device_add(**given: Any) -> None:
        add(given, None)

    def add(given: dict[str, Any], path: str | None) -> None:
        driver = given.get("driver")
        if not isinstance(driver, str):
            raise CommandError("Parameter 'driver' is missing")
        kind = state.drivers.find(driver)
        text = kind is not None and not state.release.typed_devices
        if text:
            given = {name: as_text(value) for name, value in given.items()}
            given = {name: value for name, value in given.items() if value is not None}
        for key in ("id", "bus"):
            if not isinstance(given.get(key), str):
                given.pop(key, None)  # QEMU takes another type for none
        hot = not state.in_setup
        if kind is None:
            known, bus = state.drivers.usual(driver, given)
        else:
            known, bus = kind, state.drivers.place(kind, given, hot=hot)
        name = given.get("id")
        if name is not None:
            if name in state.devices:
                raise CommandError(f"Duplicate device ID '{name}'")
            if not re.fullmatch(IDENTIFIER, name):
                raise CommandError(f"Invalid qdev ID '{name}'")
        if kind is not None:
            driver = kind.name
            given = state.drivers.typed(kind, given, text=text)
        types = {} if kind is None else state.drivers.types(kind)
        check_references(driver, kind, types, given)
        # What the machine decides.
        place = memory.place(state, driver, given, hot=hot)
        if bus is not None and pci.is_pci(state, bus):
            place["addr"] = pci.place(state, bus, driver, given, hot=hot)
        if kind is not None:
            state.drivers.check_alone(kind, given, hot=hot)
            place |= realize.check(state, driver, given, bus)
            if "mac" in types and "mac" not in given:
                place["mac"] = nics.next_mac(state)
            place["hotplugged"] = hot
        key = path or name or f"device[{next(unnamed)}]"
        if known is not None and bus is not None:
            buses = () if "masterbus" in given else known.buses  # its ports are on that bus
            state.drivers.buses.plug(key, bus, buses, name)
        try:
            state.devices[key] = {**given, **place, "driver": driver, "named": name is not None}
            if driver.endswith("-cpu"):
                index = state.cpus.plug(_path(state, key), driver, given)
                node = state.cpus.properties(index)
                state.devices[key] = {**state.devices[key], **node}
            disks.attach(state, key, driver, given)
        except CommandError:
            state.devices.pop(key, None)
            state.drivers.buses.unplug(key)
            raise

    state.add_device = add

    @registry.command("device_del")
    def device_del(id: str) -> None:  # noqa: A002 -- the schema's name
        name = id.removeprefix(f"{PERIPHERAL}/")
        if name not in state.devices or not state.devices[name]["named"]:
            raise CommandError(f"Device '{id}' not found", "DeviceNotFound")
        if name in asked_when_stopped:
            raise CommandError(f"Device {name} is already in the process of unplug")
        if name in state.unplugging:
            return  # the guest has been asked
        kind = state.drivers.find(state.devices[name]["driver"])
        if kind is not None and not state.in_setup:
            state.drivers.check_unplug(kind, name)
        state.unplugging[name] = None
        if kind is not None and kind.bus in _WITHOUT_GUEST:
            unplugged(name)
        elif state.running or state.in_setup:
            release(name)
        else:
            asked_when_stopped.add(name)

    def release(name: str) -> None:
        """Let the guest release a device, after its time for that."""
        handle = state.later(state.machine.unplug_time, released, name)
        if name in state.unplugging:
            state.unplugging[name] = handle

    def released(name: str) -> None:
        if state.running or state.in_setup:
            unplugged(name)
        else:
            state.unplugging[name] = None  # the guest goes on with it when it runs again

    def resume() -> None:
        asked_when_stopped.clear()
        for name, handle in list(state.unplugging.items()):
            if handle is None:
                release(name)

    state.resumes.append(resume)

    def unplugged(name: str) -> None:
        asked_when_stopped.discard(name)
        handle = state.unplugging.pop(name, None)
        if handle is not None:
            handle.cancel()  # a reset of the machine comes first
        for inner in reversed(state.drivers.buses.unplug(name)):
            unplugged(inner)
        path = _path(state, name)
        disks.detach(state, name)
        one = state.devices.pop(name)
        driver = one["driver"]
        if (index := state.cpus.unplug(path)) is not None:
            state.threads.end(f"CPU {index}/KVM")
        if driver.startswith(("virtio-", "vhost-")) and driver.endswith(("-pci", "-ccw")):
            state.emit("DEVICE_DELETED", {"path": f"{path}/virtio-backend"})
        device = {"device": name} if one["named"] else {}
        state.emit("DEVICE_DELETED", {**device, "path": path})

    def reset() -> None:
        for name in sorted(state.unplugging):
            if name in state.unplugging:  # and not on a bus of one before
                unplugged(name)

    state.resets.append(reset)


def _path(state: State, key: str) -> str:
    """Return the path of a device."""
    if key.startswith("/"):
        return key
    return f"{PERIPHERAL}{'' if state.devices[key]['named'] else '-anon'}/{key}"


def check_type(name: str, value: object, type_: type) -> None:
    """Check the type of a property's value.

    Raises:
        CommandError: It is another one.
    """
    if type(value) is not type_:
        expected = _EXPECTED.get(type_, "value")
        raise CommandError(f"Invalid parameter type for '{name}', expected: {expected}")
