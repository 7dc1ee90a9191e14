"""The machine that does not exist: what the commands that test suites use most have done to it.

Handlers take any arguments and answer as QEMU's later releases do; what a schema has no word for is
left out afterwards.  Refusals are in QEMU's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.monitor import fd_commands
from qmpserver.standin.state import agent, backends, block, devices, dirty, migration, runstate
from qmpserver.standin.values import fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.monitor import Registry
    from qmpserver.standin.scenario import Scenario
    from qmpserver.standin.server import StandIn

MODULES = (agent, backends, block, devices, dirty, migration, runstate)


class State:
    """What handlers share.

    Attributes:
        devices: By id: their properties as `device_add` had them.
        netdevs, chardevs, objects: By id: their properties.
        nodes: Block nodes by name: their options.
        status: The run state.
    """

    def __init__(self, scenario: Scenario, fake: StandIn) -> None:
        self.machine = scenario.machine
        self.fake = fake
        self.status = scenario.machine.status
        self.devices: dict[str, dict[str, Any]] = {}
        self.netdevs: dict[str, dict[str, Any]] = {}
        self.chardevs: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.unplugging: set[str] = set()
        self.resets: list[Callable[[], None]] = []  # what else a reset does
        self._events = scenario.schema.events
        self._settled = False

    @property
    def running(self) -> bool:
        """Whether the guest runs."""
        return self.status == "running"

    def settled(self) -> None:
        """Learn that what is done from now on is done for clients, who hear of it."""
        self._settled = True

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event, if the schema has it."""
        if self._settled and event in self._events:
            fit: Any = None if data is None else fitted(data, self._events[event].data)
            self.fake.emit(event, fit)

    def later(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        """Do it after a while; with 0, after the reply. At the setup, at once."""
        if self._settled:
            self.fake.later(seconds, function, *arguments)
        else:
            function(*arguments)

    def set_status(self, status: str) -> None:
        """Go to a run state, with the events that clients see."""
        was, self.status = self.running, status
        if was and not self.running:
            self.emit("STOP")
        elif self.running and not was:
            self.emit("RESUME")

    def has_fault(self, name: str) -> bool:
        """Whether the scenario has this fault."""
        return any(spec.name == name for spec in self.fake.scenario.faults)


def register_all(registry: Registry, state: State) -> None:
    """Bind the handlers of all commands that have state."""
    for name, handler in fd_commands.HANDLERS.items():
        registry.command(name, client=True)(handler)
    for module in MODULES:
        module.register(registry, state)
