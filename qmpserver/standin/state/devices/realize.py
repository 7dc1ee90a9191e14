"""What devices refuse when they are made: values, combinations of properties, and their neighbours.

Only what the people who write command lines meet is here; QEMU refuses more. A rule is a function
of a family of types: it yields QEMU's words for what is wrong, the first of which is the answer.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.qmp import CommandError
from qmpserver.standin.state.devices.properties import is_power_of_2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from qmpserver.standin.state import State
    from qmpserver.standin.state.devices.buses import Node

_NO_UNIT = (1 << 32) - 1  # QEMU's word for any
_SERIAL_PORTS = 31  # of a virtio-serial-pci that does not say


class _New(NamedTuple):
    """A device that is to be made.

    Attributes:
        state: The machine.
        driver: The type.
        given: The properties.
        bus: Where it is to be; None for one without a bus.
        place: Properties that say where on the bus, those that are not given.
    """

    state: State
    driver: str
    given: Mapping[str, Any]
    bus: Node | None
    place: Mapping[str, int]

    @property
    def neighbours(self) -> list[Mapping[str, Any]]:
        """The devices on its bus."""
        return [] if self.bus is None else [self.state.devices[key] for key in self.bus.plugged]

    @property
    def controller(self) -> Mapping[str, Any]:
        """The device that makes its bus; empty if the machine does."""
        owner = None if self.bus is None else self.bus.owner
        return {} if owner is None else self.state.devices[owner]

    def number(self, name: str, standard: int) -> int:
        """Return a property that is a number."""
        value = self.given.get(name)
        return value if isinstance(value, int) else standard


def check(
    state: State, driver: str, given: Mapping[str, Any], bus: Node | None
) -> Mapping[str, int]:
    """Check a device that is to be made, and return the place on its bus that it gets.

    Args:
        state: The machine.
        driver: The type, one of the release's.
        given: The properties, of their types.
        bus: Where the device is to be; None for one without a bus.

    Returns:
        The properties that say so, those that are not given.

    Raises:
        CommandError: QEMU refuses it.
    """
    line = state.facts.line(driver)
    on_bus = [] if bus is None else [state.devices[key] for key in bus.plugged]
    place: Mapping[str, int] = {}
    if "ide-device" in line:
        place = _ide_place(given, on_bus)
    elif "scsi-device" in line:
        place = _scsi_place(given, on_bus)
    new = _New(state, driver, given, bus, place)
    for name in reversed(line):
        for rule in _RULES.get(name, ()):
            for words in rule(new):
                raise CommandError(words)
    return place


def _ide_place(given: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the unit of a disk: the second one if the first is used, even if there is none."""
    if given.get("unit", _NO_UNIT) != _NO_UNIT:
        return {}
    return {"unit": 1 if any(one.get("unit") == 0 for one in others) else 0}


def _scsi_place(given: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return target and LUN of a disk: the first target that lacks the LUN, or the first LUN."""
    channel = given.get("channel", 0)
    taken = {(one.get("scsi-id"), one.get("lun")) for one in others if one["channel"] == channel}
    target, lun = given.get("scsi-id", -1), given.get("lun", -1)
    if target == -1:
        lun = max(lun, 0)
        target = next(free for free in itertools.count() if (free, lun) not in taken)
    elif lun == -1:
        lun = next(free for free in itertools.count() if (target, free) not in taken)
    return {"channel": channel, "scsi-id": target, "lun": lun}


def _boot_order(new: _New) -> Iterator[str]:
    index = new.number("bootindex", -1)
    if index >= 0 and any(one.get("bootindex") == index for one in new.state.devices.values()):
        yield f"The bootindex {index} has already been used"


def _alone(new: _New) -> Iterator[str]:
    balloon = new.driver.startswith("virtio-balloon")
    family = "virtio-balloon" if balloon else new.driver
    if any(one["driver"].startswith(family) for one in new.state.devices.values()):
        if balloon:
            yield "Only one balloon device is supported"
        else:
            yield f"at most one {family} device is permitted"


def _virtio_blk(new: _New) -> Iterator[str]:
    if new.number("num-queues", 1) == 0:
        yield "num-queues property must be larger than 0"
    size = new.number("queue-size", 256)
    if size <= 2:
        yield f"invalid queue-size property ({size}), must be > 2"
    if not is_power_of_2(size) or size > 1024:
        yield f"invalid queue-size property ({size}), must be a power of 2 (max 1024)"
    if new.given.get("iothread") and new.given.get("ioeventfd") is False:
        yield "ioeventfd is required for iothread"


def _sectors(new: _New) -> Iterator[str]:
    logical = new.number("logical_block_size", 0)
    if logical > new.number("physical_block_size", 0) > 0:
        yield "logical_block_size > physical_block_size not supported"


def _virtio_net(new: _New) -> Iterator[str]:
    if new.number("speed", -1) < -1:
        yield "'speed' must be between 0 and INT_MAX"
    if new.given.get("duplex") not in (None, "half", "full"):
        yield "'duplex' must be 'half' or 'full'"
    peer = new.state.netdevs.get(str(new.given.get("netdev")), {}).get("type", "user")
    short = peer == "user" and not new.state.release.takes_long_queues
    for name, least, most, end in (
        ("rx_queue_size", 256, 1024, "."),
        ("tx_queue_size", 256, 256 if short else 1024, ""),
    ):
        size = new.number(name, 256)
        if not is_power_of_2(size) or not least <= size <= most:
            limits = f"must be a power of 2 between {least} and {most}{end}"
            yield f"Invalid {name} (= {size}), {limits}"


def _virtio_rng(new: _New) -> Iterator[str]:
    if new.number("period", 1) <= 0:
        yield "'period' parameter expects a positive integer"
    if not 0 < new.number("max-bytes", 1) < 1 << 63:
        yield "'max-bytes' parameter must be positive, and less than 2^63"


def _virtio_scsi(new: _New) -> Iterator[str]:
    queues = new.number("num_queues", 1)
    if not 0 < queues < 1022:
        limits = "must be a positive integer less than 1022."
        yield f"Invalid number of queues (= {queues}), {limits}"


def _virtio_serial(new: _New) -> Iterator[str]:
    if new.number("max_ports", 1) == 0:
        yield "Maximum number of serial ports not specified"


def _serial_port(new: _New) -> Iterator[str]:
    name, number = new.given.get("name"), new.given.get("nr")
    if number == 0 and new.driver == "virtserialport":
        yield (
            "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward"
            " compatibility."
        )
    if name is not None and any(one.get("name") == name for one in new.neighbours):
        yield f"virtio-serial-bus: A port already exists by name {name}"
    if number is None:
        return
    if any(one.get("nr") == number for one in new.neighbours):
        yield f"virtio-serial-bus: A port already exists at id {number}"
    last = new.controller.get("max_ports", _SERIAL_PORTS) - 1
    if number > last:
        yield f"virtio-serial-bus: Out-of-range port id specified, max. allowed: {last}"


def _scsi_device(new: _New) -> Iterator[str]:
    controller = str(new.controller.get("driver", ""))
    most = next((most for name, most in _SCSI_LIMITS.items() if controller.startswith(name)), None)
    for name, what, last in zip(_SCSI_PLACE, _SCSI_WORDS, most or (), strict=False):
        if new.number(name, 0) > last:
            yield f"bad scsi {what}: {new.number(name, 0)}"
    place = {**new.given, **new.place}
    for key in () if new.bus is None else new.bus.plugged:
        other = new.state.devices[key]
        if all(other.get(name, 0) == place.get(name, 0) for name in _SCSI_PLACE):
            yield f"lun already used by '{key if other['named'] else '(null)'}'"


_SCSI_PLACE = ("channel", "scsi-id", "lun")
_SCSI_WORDS = ("channel id", "device id", "device lun")
# The highest ones, by the beginning of the controller's type.
_SCSI_LIMITS = {"virtio-scsi-pci": (0, 255, 16383), "lsi": (0, 7, 0), "mptsas": (0, 8, 1)}


def _ide_device(new: _New) -> Iterator[str]:
    taken = [one.get("unit") for one in new.neighbours]
    unit: int = {**new.given, **new.place}["unit"]
    if new.bus is None:
        return
    ahci = new.controller.get("driver", "ich9-ahci") == "ich9-ahci"
    if new.bus.owner is None:
        own = new.state.facts.own_functions(new.state.drivers.machine)
        ahci = any(one.driver == "ich9-ahci" for one in own)
    units = 1 if ahci else 2
    if unit >= units:
        yield f"Can't create IDE unit {unit}, bus supports only {units} units"
    if unit in taken:
        yield f"IDE unit {unit} is in use"


def _slot(new: _New) -> Iterator[str]:
    def place(one: Mapping[str, Any]) -> tuple[Any, Any]:
        return one.get("chassis", 0), one.get("slot", 0)

    for one in new.state.devices.values():
        is_slot = "pcie-slot" in new.state.facts.line(one["driver"])
        if is_slot and place(one) == place(new.given):
            yield "Can't add chassis slot, error -16"


def _outputs(new: _New) -> Iterator[str]:
    if new.number("max_outputs", 1) > 16:
        yield "invalid max_outputs > 16"


# By the type, or one that it descends from.
_RULES: Mapping[str, tuple[Callable[[_New], Iterator[str]], ...]] = {
    "device": (_boot_order,),
    "virtio-balloon-pci-base": (_alone,),
    "vmgenid": (_alone,),
    "vmcoreinfo": (_alone,),
    "virtio-blk-pci-base": (_sectors, _virtio_blk),
    "scsi-hd": (_sectors,),
    "ide-hd": (_sectors,),
    "usb-storage": (_sectors,),
    "nvme": (_sectors,),
    "virtio-net-pci-base": (_virtio_net,),
    "virtio-rng-pci-base": (_virtio_rng,),
    "virtio-scsi-pci-base": (_virtio_scsi,),
    "virtio-serial-pci-base": (_virtio_serial,),
    "virtio-serial-port": (_serial_port,),
    "virtio-gpu-pci-base": (_outputs,),
    "virtio-vga-base": (_outputs,),
    "scsi-device": (_scsi_device,),
    "ide-device": (_ide_device,),
    "pcie-slot": (_slot,),
}
