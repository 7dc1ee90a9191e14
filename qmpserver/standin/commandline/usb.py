"""USB controllers that a machine has if an option asks for them, and devices on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError
from qmpserver.releases.facts import Bus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qmpserver.standin.commandline.launch import Launch

_DEVICES = {
    "keyboard": "usb-kbd",
    "mouse": "usb-mouse",
    "tablet": "usb-tablet",
    "wacom-tablet": "usb-wacom-tablet",
    "braille": "usb-braille",
}
_CONTROLLERS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "pc": ({"driver": "piix3-usb-uhci", "addr": "01.2"},),
    "q35": (
        {"driver": "ich9-usb-ehci1", "addr": "1d.7", "multifunction": True},
        *(
            {
                "driver": f"ich9-usb-uhci{number + 1}",
                "addr": f"1d.{number}",
                "multifunction": True,
                "masterbus": "usb-bus.0",
                "firstport": 2 * number,
            }
            for number in range(3)
        ),
    ),
}


def controllers(launch: Launch) -> Sequence[Mapping[str, Any]]:
    """Return the controllers that the machine's type has."""
    asked = launch.state.machine.usb
    return _CONTROLLERS.get(launch.state.drivers.family, ()) if asked else ()


def add_controllers(launch: Launch) -> None:
    """Add the controllers that the machine's type has."""
    for one in controllers(launch):
        launch.add_onboard("usb", dict(one))
    if launch.state.machine.usb and launch.state.drivers.machine == "microvm":
        # Its controller cannot be added as a device.
        buses = launch.state.drivers.buses
        buses.plug("usb", next(iter(buses)), (Bus("usb-bus.0", "usb-bus", None, hot=True),), None)


def _usbdevice(launch: Launch, value: str) -> None:
    driver = _DEVICES.get(value)
    if driver is None:
        raise OptionError(f"could not add USB device '{value}'")
    kind = launch.state.drivers.find(driver)
    if kind is not None and not launch.state.drivers.has_bus(kind):
        raise OptionError(
            f"Error: no usb bus to attach usbdevice {value}, please try -machine usb=on and check"
            " that the machine model supports USB"
        )
    launch.execute("device_add", {"driver": driver})


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"usbdevice": _usbdevice}
