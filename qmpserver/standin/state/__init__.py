"""The simulated state of a machine, for the commands that test suites use most.

Handlers take the arguments of all releases and answer as QEMU's latest releases do. Members that
the scenario's schema does not have are dropped from results and events afterwards. Refusals are in
QEMU's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from qmpserver.qapi.fitting import fitted
from qmpserver.standin.state.budget import Budget, Kept

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from qmpserver.monitor import Device
    from qmpserver.standin.scenario import Scenario


class Host(Protocol):
    """The server whose machine this is."""

    @property
    def version(self) -> Mapping[str, Any] | None:
        """The version that the greeting has; None for a guest agent."""
        ...

    @property
    def devices(self) -> Sequence[Device]:
        """The devices of its monitors."""
        ...

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to all clients."""

    def later(
        self, seconds: float, function: Callable[..., None], *arguments: Any
    ) -> asyncio.Handle:
        """Call a function after a delay; with 0, after the next replies."""
        ...

    def shutdown(self, reason: str) -> None:
        """End it."""


class State:
    """The state that handlers share.

    Attributes:
        machine: The initial state.
        status: The run state.
        devices: Properties of each device, by id, as `device_add` received them.
        netdevs: Properties of each network backend, by id.
        chardevs: Properties of each character device, by id.
        objects: Properties of each object, by id.
        nodes: Options of each block node, by name.
        jobs: Properties of each block job, by id.
        budget: The memory that all of these, and the files of a guest agent, may have.
        unplugging: Devices that the guest has not released yet, by id, and when it will do so.
        resets: Functions that a reset of the machine calls.
    """

    def __init__(self, scenario: Scenario, host: Host) -> None:
        self.machine = scenario.machine
        self.host = host
        self.status = scenario.machine.status
        self.budget = Budget()
        self.devices = Kept(self.budget)
        self.netdevs = Kept(self.budget)
        self.chardevs = Kept(self.budget)
        self.objects = Kept(self.budget)
        self.nodes = Kept(self.budget)
        self.jobs = Kept(self.budget)
        self.unplugging: dict[str, asyncio.Handle | None] = {}
        self.resets: list[Callable[[], None]] = []
        self._events = scenario.schema.events
        self._faults = {spec.name for spec in scenario.faults}
        self._settled = False

    @property
    def running(self) -> bool:
        """Whether the guest runs."""
        return self.status == "running"

    def settled(self) -> None:
        """End the setup: from now on, commands send events and take time."""
        self._settled = True

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to clients, if the schema has it and the setup is over."""
        if self._settled and event in self._events:
            fit: Any = None if data is None else fitted(data, self._events[event].data)
            self.host.emit(event, fit)

    def later(
        self, seconds: float, function: Callable[..., None], *arguments: Any
    ) -> asyncio.Handle | None:
        """Call a function after a delay (0: after the reply); during the setup, call it at once."""
        if self._settled:
            return self.host.later(seconds, function, *arguments)
        function(*arguments)
        return None

    def set_status(self, status: str) -> None:
        """Enter a run state, and send STOP or RESUME."""
        was, self.status = self.running, status
        if was and not self.running:
            self.emit("STOP")
        elif self.running and not was:
            self.emit("RESUME")

    def has_fault(self, name: str) -> bool:
        """Return whether the scenario has this fault."""
        return name in self._faults
