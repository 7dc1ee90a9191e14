"""The tree of objects: the machine, its vCPUs and devices, user-created objects, character devices.

The tree is a view: it is made from the state whenever a command asks for a part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.qmp import CommandError
from qmpserver.standin.state.backends.queries import IOTHREAD_POLL_NS
from qmpserver.standin.state.devices.plugging import check_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State
    from qmpserver.standin.state.budget import Kept

    Children = Callable[[], Mapping[str, "_Object"]]

# Entries of the state that are not properties.
_HIDDEN = ("driver", "qom-type", "named", "id")
# Properties that every device has, and nobody sets.
_READ_ONLY = ("hotplugged", "hotpluggable", "parent_bus")
# Those that are set while a device is in use.
_ALWAYS_WRITABLE = ("realized", "bootindex", "drive", "guest-stats-polling-interval")
# Values that facts do not tell, of properties that nobody has set, by the driver.
_STANDARD: Mapping[str, Mapping[str, Any]] = {
    "virtio-balloon-pci": {
        "guest-stats-polling-interval": 0,
        "guest-stats": {"stats": {}, "last-update": 0},
    },
}


# Values of properties of objects that nobody has set, by the beginning of the type.
_OBJECTS: Mapping[str, Mapping[str, Any]] = {
    "iothread": {
        "thread-pool-min": 0, "thread-pool-max": 64, "aio-max-batch": 0, "poll-weight": 3,
        "poll-max-ns": IOTHREAD_POLL_NS,
    },
    "memory-backend-": {
        "share": False, "dump": True, "x-use-canonical-path-for-ramblock-id": False,
        "policy": "default", "prealloc-context": "", "prealloc": False, "reserve": True,
        "host-nodes": [], "merge": True,
    },
}  # fmt: skip
_SOCKETS = ("unix", "tcp", "telnet", "tn3270", "websocket", "fd", "vsock")
_MIGRATABLE = ("host", "max")  # models of vCPUs that have the property of that name


def _none() -> Mapping[str, _Object]:
    return {}


class _Object(NamedTuple):
    """An object of the tree.

    Attributes:
        type: Its QOM type.
        properties: Function that returns its properties, without `type` and children.
        types: Function that returns the types of properties, as far as the release declares them.
        children: Function that returns its children by name.
        kept: Where the state keeps it, and its id there; None if no property can be set.
    """

    type: str
    properties: Callable[[], Mapping[str, Any]] = dict
    types: Callable[[], Mapping[str, str]] = dict
    children: Children = _none
    kept: tuple[Kept, str] | None = None


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("qom-list")
    def qom_list(path: str) -> Any:
        found = _find(state, path)
        children, types = found.children(), found.types()
        return [
            {"name": "type", "type": "string"},
            *(
                {"name": n, "type": types.get(n) or _type_name(n, one)}
                for n, one in found.properties().items()
            ),
            *({"name": n, "type": f"child<{one.type}>"} for n, one in children.items()),
        ]

    @registry.command("qom-get")
    def qom_get(path: str, property: str) -> Any:  # noqa: A002 -- the schema's name
        found = _find(state, path)
        if property == "type":
            return found.type
        properties = found.properties()
        if property in properties:
            return properties[property]
        if property in found.children():
            return f"{path.rstrip('/')}/{property}"
        raise _no_property(found, property)

    @registry.command("qom-set")
    def qom_set(path: str, property: str, value: Any) -> None:  # noqa: A002
        found = _find(state, path)
        properties = found.properties()
        if property in ("type", *_READ_ONLY):
            raise CommandError(f"Property '{found.type}.{property}' is not writable")
        if property not in properties or found.kept is None:
            raise _no_property(found, property)
        if found.kept[0] is state.devices and property not in _ALWAYS_WRITABLE:
            _check_realized(state, found.kept[1], property)
        if property == "size" and found.type.startswith("memory-backend-"):
            raise CommandError(f"cannot change property size of {found.type} ")
        check_type(property, value, type(properties[property]))
        where, name = found.kept
        where[name] = {**where[name], property: value}


def _check_realized(state: State, device: str, name: str) -> None:
    """Check that a property of a device can be set although the device is in use.

    Raises:
        CommandError: It is declared, so it cannot.
    """
    one = state.devices[device]
    owner = state.drivers.owner(one["driver"], name)
    if owner is None:
        return
    is_named = one["named"] and owner == one["driver"]
    whose = f"device '{device}'" if is_named else "anonymous device"
    raise CommandError(
        f"Attempt to set property '{name}' on {whose} (type '{owner}') after it was realized"
    )


def _no_property(found: _Object, name: str) -> CommandError:
    return CommandError(f"Property '{found.type}.{name}' not found")


def _find(state: State, path: str) -> _Object:
    """Return the object at a path; one that does not begin with `/` may begin anywhere.

    Raises:
        CommandError: There is no such object, or there is more than one.
    """
    root = _root(state)
    names = [name for name in path.split("/") if name]
    if path.startswith("/"):
        found = [_below(root, names)]
    else:
        found = [_below(one, names) for one in _all(root)] if names else []
    known = [one for one in found if one is not None]
    if len(known) > 1:
        raise CommandError(f"Path '{path}' does not uniquely identify an object")
    if not known:
        raise CommandError(f"Device '{path}' not found", "DeviceNotFound")
    return known[0]


def _below(start: _Object, names: list[str]) -> _Object | None:
    found: _Object | None = start
    for name in names:
        found = None if found is None else found.children().get(name)
    return found


def _all(start: _Object) -> Iterator[_Object]:
    yield start
    for child in start.children().values():
        yield from _all(child)


def _root(state: State) -> _Object:
    return _container(
        lambda: {
            "backend": _container(_none),
            "machine": _machine(state),
            "objects": _container(lambda: _objects(state)),
            "chardevs": _container(lambda: _chardevs(state)),
            **({"audiodevs": _container(lambda: _audiodevs(state))} if _has_audio(state) else {}),
        }
    )


def _container(children: Children) -> _Object:
    return _Object("container", children=children)


def _has_audio(state: State) -> bool:
    """Return whether the release has audio backends in the tree."""
    return "audio-none" in state.facts.types


def _audiodevs(state: State) -> dict[str, _Object]:
    return {name: _Object(f"audio-{one['driver']}") for name, one in state.audiodevs.items()}


def _chardevs(state: State) -> dict[str, _Object]:
    types = {name: str(one["type"]) for name, one in state.chardevs.items()}
    for device in state.host.devices:
        kind = device.filename.removeprefix("disconnected:").partition(":")[0]
        types[device.id] = "socket" if kind in _SOCKETS else kind
    return {name: _Object(f"chardev-{kind}") for name, kind in types.items()}


def _machine(state: State) -> _Object:
    type_ = f"{_machine_type(state)}-machine"
    return _Object(
        type_,
        lambda: _declared(state, type_, _of_machine(state)),
        lambda: _types(state, type_),
        children=lambda: {
            "peripheral": _container(lambda: _devices(state, named=True)),
            "peripheral-anon": _container(lambda: _devices(state, named=False)),
            "unattached": _container(lambda: {**_vcpus(state), **_onboard(state)}),
        },
    )


def _of_machine(state: State) -> dict[str, Any]:
    """Return the properties of the machine whose values are known."""
    machine, places = state.machine, state.cpus.places
    memory = {"size": 0 if machine.empty else machine.memory}
    if machine.slots and machine.max_memory:
        memory |= {"slots": machine.slots, "max-size": machine.max_memory}
    levels = dict.fromkeys(state.option_names("smp-opts"), 1)
    return {
        "memory": memory,
        "usb": machine.usb,
        "smp": levels | places._asdict() | {"cpus": machine.cpus, "maxcpus": places.number},
        "nvdimm": machine.nvdimm,
    }


def _declared(state: State, type_: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those values that a type of the release declares, in the order in which it does."""
    return {name: values[name] for name in _types(state, type_) if name in values}


def _types(state: State, type_: str) -> dict[str, str]:
    """Return the types of the properties that a type of the release declares."""
    declared = state.facts.properties("qom-list-properties", type_) or ()
    return {one["name"]: one["type"] for one in declared}


def _machine_type(state: State) -> str:
    """Return the machine's type; an alias stands for the type of the release."""
    family = {"pc": "pc-i440fx", "q35": "pc-q35"}.get(state.machine.type)
    if family is None:
        return state.machine.type
    numbers = (state.host.version or {}).get("qemu", {})
    return f"{family}-{numbers.get('major', 0)}.{numbers.get('minor', 0)}"


def _vcpus(state: State) -> dict[str, _Object]:
    return {
        path.rpartition("/")[2]: _vcpu(state, index)
        for index, path in sorted(state.cpus.paths.items())
        if path.startswith("/machine/unattached/")
    }


def _vcpu(state: State, index: int) -> _Object:
    type_ = state.cpus.type

    def properties() -> Mapping[str, Any]:
        values = {
            "parent_bus": "",
            "realized": True,
            "hotplugged": False,
            "hotpluggable": True,
            "start-powered-off": False,
            "unavailable-features": [],
            "apic-id": state.cpus.places.apic_id(index),
            "node-id": -1,
            "die-id": 0,
            "module-id": 0,
            **state.cpus.properties(index),
        }
        if state.machine.cpu in _MIGRATABLE:
            values["migratable"] = True
        return _declared(state, type_, values) or values

    return _Object(type_, properties, lambda: _types(state, type_))


def _devices(state: State, *, named: bool) -> dict[str, _Object]:
    return {
        name: _device(state, name)
        for name, one in state.devices.items()
        if one["named"] == named and not name.startswith("/")
    }


def _onboard(state: State) -> dict[str, _Object]:
    paths = {name: name.rpartition("/") for name in state.devices}
    return {
        last: _device(state, name)
        for name, (above, _, last) in paths.items()
        if above == "/machine/unattached"
    }


def _device(state: State, name: str) -> _Object:
    one = state.devices[name]
    driver = one["driver"]
    backend = _none
    if driver.startswith("virtio-") and driver.endswith(("-pci", "-ccw")):
        virtio = _Object(f"{driver[:-4]}-device", lambda: {"realized": True})
        backend = lambda: {"virtio-backend": virtio}  # noqa: E731 -- the other is a function

    def properties() -> Mapping[str, Any]:
        defaults = _defaults(state.drivers.properties(driver))
        return {
            "realized": True,
            "hotpluggable": True,
            **defaults,
            **_STANDARD.get(driver, {}),
            **_shown(one),
        }

    def types() -> Mapping[str, str]:
        return {found["name"]: found["type"] for found in state.drivers.properties(driver)}

    return _Object(driver, properties, types, backend, (state.devices, name))


def _defaults(declared: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the values that properties have if nobody sets them, as far as that is known."""
    known = {one["name"]: "" for one in declared if one["type"] == "str"}
    known |= {one["name"]: one["default-value"] for one in declared if "default-value" in one}
    known |= {one["name"]: -1 for one in declared if one["name"] == "bootindex"}
    known.pop("addr", None)  # QEMU chooses one
    return known


def _objects(state: State) -> dict[str, _Object]:
    made = {
        name: _object(state, one["qom-type"], _shown(one), (state.objects, name))
        for name, one in state.objects.items()
    }
    if not (state.machine.empty or any("memdev" in one for one in state.numa.values())):
        made["pc.ram"] = _object(state, "memory-backend-ram", {"size": state.machine.memory}, None)
    return made


def _object(
    state: State, type_: str, given: Mapping[str, Any], kept: tuple[Kept, str] | None
) -> _Object:
    def properties() -> Mapping[str, Any]:
        values: dict[str, Any] = {}
        if type_ == "iothread":
            values |= dict.fromkeys(("poll-grow", "poll-shrink"), state.release.poll_factor)
        if type_.startswith("memory-backend-"):
            values["prealloc-threads"] = state.machine.cpus
        for prefix, defaults in _OBJECTS.items():
            if type_.startswith(prefix):
                values |= defaults
        return {**_declared(state, type_, {**values, **given}), **given}

    return _Object(type_, properties, lambda: _types(state, type_), kept=kept)


def _shown(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name not in _HIDDEN}


def _type_name(name: str, value: Any) -> str:
    if name == "unavailable-features":
        return "strList"
    return {bool: "bool", int: "int", dict: "struct", list: "list"}.get(type(value), "string")
