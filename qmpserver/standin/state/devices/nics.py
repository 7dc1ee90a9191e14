"""NICs: their MAC addresses and names, their links and receive filters."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_FIRST_MAC = 0x56
_VLANS = 4096


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("query-rx-filter")
    def query_rx_filter(name: str | None = None) -> Any:
        filters = {known: _filter(known, one) for known, one in nics(state) if _has_filter(one)}
        if name is None:
            return list(filters.values())
        if name in state.netdevs:
            raise CommandError(f"net client({name}) isn't a NIC")
        if name not in dict(nics(state)):
            raise CommandError(f"invalid net client name: {name}")
        if name not in filters:
            raise CommandError(f"net client({name}) doesn't support rx-filter querying")
        return [filters[name]]

    @registry.command("set_link")
    def set_link(name: str, up: bool) -> None:
        del up  # no query shows it
        if name not in state.netdevs and name not in dict(nics(state)):
            raise CommandError(f"Device '{name}' not found", "DeviceNotFound")


def nics(state: State) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and properties of each NIC; one without an id is named by its model."""
    models: Counter[str] = Counter()
    for key, one in state.devices.items():
        if "mac" in one:
            driver = one["driver"]
            yield (key if one["named"] else f"{driver}.{models[driver]}"), one
            models[driver] += 1


def next_mac(state: State) -> str:
    """Return the MAC address of a new NIC that is given none."""
    taken = {str(one["mac"]).lower() for _, one in nics(state)}
    macs = (f"52:54:00:12:34:{last & 255:02x}" for last in itertools.count(_FIRST_MAC))
    return next(mac for mac in itertools.islice(macs, 256) if mac not in taken or len(taken) > 255)


def _has_filter(nic: dict[str, Any]) -> bool:
    return str(nic["driver"]).startswith("virtio-net-")


def _filter(name: str, nic: dict[str, Any]) -> dict[str, Any]:
    """Return the receive filter before a driver has set one."""
    return {
        "name": name,
        "promiscuous": True,
        "multicast": "normal",
        "unicast": "normal",
        "vlan": "all",
        "broadcast-allowed": False,
        "multicast-overflow": False,
        "unicast-overflow": False,
        "main-mac": nic["mac"],
        "vlan-table": list(range(_VLANS - 1, -1, -1)),
        "unicast-table": [],
        "multicast-table": [],
    }
