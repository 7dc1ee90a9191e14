"""The simulated state of a machine, for the commands that test suites use most.

Handlers take the arguments of all releases and answer as QEMU's latest releases do. Members that
the scenario's schema does not have are dropped from results and events afterwards. Refusals are in
QEMU's words.

The modules here are about the machine itself; those about its devices, what devices are connected
to, and block devices are in packages. `handlers` binds the commands of all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any, Protocol

from qmpserver.monitor.fds import take_inherited
from qmpserver.qapi.fitting import fitted
from qmpserver.qapi.model import EnumType, ObjectType
from qmpserver.standin.state.block.drives import Drives
from qmpserver.standin.state.block.joblist import Jobs
from qmpserver.standin.state.budget import Budget, Kept
from qmpserver.standin.state.cpuplaces import Cpus
from qmpserver.standin.state.devices.drivers import Drivers
from qmpserver.standin.state.devices.onboard import Onboard
from qmpserver.standin.state.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence

    from qmpserver.monitor import Device
    from qmpserver.monitor.fds import FileDescriptors
    from qmpserver.releases.facts import Facts
    from qmpserver.standin.scenario import Scenario


class Host(Protocol):
    """The server whose machine this is."""

    @property
    def version(self) -> Mapping[str, Any] | None:
        """The version that the greeting has; None for a guest agent."""
        ...

    @property
    def own_process(self) -> bool:
        """Whether the process serves nothing else."""
        ...

    @property
    def fds(self) -> FileDescriptors:
        """The descriptors that clients have passed."""
        ...

    @property
    def devices(self) -> Sequence[Device]:
        """The devices of its monitors."""
        ...

    def drop_device(self, name: str) -> None:
        """Close one of its devices that no monitor uses, if there is such a device."""

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to all clients."""

    def later(
        self, seconds: float, function: Callable[..., None], *arguments: Any
    ) -> asyncio.Handle:
        """Call a function after a delay; with 0, after the next replies."""
        ...

    def shutdown(self, reason: str) -> None:
        """End it."""


async def _await_nothing(_: str) -> None:
    """Wait for no migration: the schema has none."""


def _add_nothing(_: dict[str, Any], __: str | None) -> None:
    """Add no device: the schema has none."""


class State:
    """The state that handlers share.

    Attributes:
        machine: The initial state.
        release: The release that it has the facts of.
        status: The run state.
        devices: Properties of each device, by id, as `device_add` received them.
        netdevs: Properties of each network backend, by id.
        chardevs: Backend of each character device, by id, as `chardev-add` received it.
        audiodevs: Properties of each audio backend, by id.
        tpms: Options of each TPM backend, by id.
        numa: Size and memory backend of each NUMA node, by its number.
        vncs: What queries show of each VNC server, by id.
        spice: What they show of the SPICE server; None without one.
        objects: Properties of each object, by id.
        nodes: Options of each block node, by name.
        drives: The drives, which connect devices and nodes.
        jobs: Properties of each job, by id.
        exports: Type, node and name of each export of a block node, by id.
        job_list: The functions that start and end jobs.
        budget: The memory that all of these, and the files of a guest agent, may have.
        unplugging: Devices that the guest has not released yet, by id, and when it will do so; None
            while the guest is stopped.
        resets: Functions that a reset of the machine calls.
        resumes: Functions that are called when the guest begins to run.
        closes: Functions that the end of the stand-in calls.
        cpus: The vCPUs and the places for more.
        threads: The threads of vCPUs and I/O threads.
        onboard: The places of devices that are part of the machine.
        add_device: Function that adds a device: the arguments of `device_add`; and its path in
            QOM's tree if it is part of the machine, or None.
        await_migration: Function that waits for the migration that a URI names.
        incoming: The URI of `-incoming`; None without one.
        autostart: Whether the guest runs as soon as it can.
        preconfig: Whether the machine is not made yet: few commands are permitted then.
    """

    def __init__(self, scenario: Scenario, host: Host) -> None:
        self.machine = scenario.machine
        self.release = scenario.release
        self._schema = scenario.schema
        self.host = host
        self.status = scenario.machine.status
        self.budget = Budget()
        self.devices = Kept(self.budget)
        self.netdevs = Kept(self.budget)
        self.chardevs = Kept(self.budget)
        self.audiodevs = Kept(self.budget)
        self.tpms = Kept(self.budget)
        self.numa = Kept(self.budget)
        self.vncs = Kept(self.budget)
        self.spice: dict[str, Any] | None = None
        self.objects = Kept(self.budget)
        self.nodes = Kept(self.budget)
        self.drives = Drives(self.budget)
        self.jobs = Kept(self.budget)
        self.exports = Kept(self.budget)
        self.job_list = Jobs(self.jobs, self.emit, self.later)
        self.unplugging: dict[str, asyncio.Handle | None] = {}
        self.resets: list[Callable[[], None]] = []
        self.resumes: list[Callable[[], None]] = []
        self.threads = Threads()
        self.cpus = Cpus(scenario.machine)
        self.closes: list[Callable[[], None]] = [self.threads.close]
        self.onboard = Onboard()
        self.add_device: Callable[[dict[str, Any], str | None], None] = _add_nothing
        self.await_migration: Callable[[str], Awaitable[None]] = _await_nothing
        self.incoming: str | None = None
        self.autostart = scenario.machine.status != "prelaunch"
        self.preconfig = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = scenario.schema.events
        self._faults = {spec.name for spec in scenario.faults}
        self._settled = False

    @property
    def facts(self) -> Facts:
        """The facts of its release. They are read at their first use."""
        return self.release.facts

    @functools.cached_property
    def drivers(self) -> Drivers:
        """The types of devices that the machine takes, and its buses."""
        checks = self.has_facts and not self.machine.any_device
        return Drivers(self.facts, self.machine.type, self.budget, checks=checks)

    @property
    def has_facts(self) -> bool:
        """Whether the facts are of its schema, which is then the release's."""
        return self._schema is self.release.schema

    def option_names(self, option: str) -> set[str]:
        """Return the keys of an option of the command line; nothing if they are not known."""
        listed = self.facts.answers["query-command-line-options"] if self.has_facts else ()
        return {
            key["name"] for one in listed if one["option"] == option for key in one["parameters"]
        }

    def knows_block_driver(self, name: str) -> bool:
        """Return whether its schema has a driver of block nodes; True if it has no such nodes."""
        tag = None if self._node_type is None else self._node_type.tag
        if tag is None or not isinstance(tag.type, EnumType):
            return True
        return name in {member.name for member in tag.type.values}

    def block_options(self, driver: str) -> set[str] | None:
        """Return the names of the options of a driver of block nodes; None if it is not known."""
        branch = None if self._node_type is None else self._node_type.branches.get(driver)
        if self._node_type is None or branch is None or not isinstance(branch.type, ObjectType):
            return None
        return {member.name for member in (*self._node_type.members, *branch.type.members)}

    @property
    def _node_type(self) -> ObjectType | None:
        add = self._schema.commands.get("blockdev-add")
        return None if add is None else add.arguments

    @property
    def running(self) -> bool:
        """Whether the guest runs."""
        return self.status == "running"

    @property
    def in_setup(self) -> bool:
        """Whether commands send no events and take no time."""
        return not self._settled

    @contextlib.contextmanager
    def setup(self) -> Iterator[None]:
        """Send no event and take no time in the block."""
        was, self._settled = self._settled, False
        try:
            yield
        finally:
            self._settled = was

    def settled(self) -> None:
        """End the setup: from now on, commands send events and take time."""
        self._settled = True

    def start(self, task: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task, which the end of the stand-in cancels; it must handle its own errors."""
        started = asyncio.get_running_loop().create_task(task)
        self._tasks.add(started)
        started.add_done_callback(self._tasks.discard)
        return started

    async def close(self) -> None:
        """Release everything that is not memory."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for close in self.closes:
            close()

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

    def permits(self, command: str) -> bool:
        """Return whether a command is permitted: before the machine is made, most are not."""
        return not self.preconfig or command in self.facts.preconfig

    def has_chardev(self, name: str) -> bool:
        """Return whether there is a character device, simulated or a monitor's, with an id."""
        return name in self.chardevs or any(one.id == name for one in self.host.devices)

    def take_fd(self, name: str) -> int:
        """Return the descriptor with a name or, in a process of its own, with a number.

        Raises:
            CommandError: There is none.
        """
        if name.isdecimal() and self.host.own_process:
            return take_inherited(name)
        return self.host.fds.take_named(name)

    def set_status(self, status: str) -> None:
        """Enter a run state, and send STOP or RESUME."""
        was, self.status = self.running, status
        if was and not self.running:
            self.emit("STOP")
        elif self.running and not was:
            self.emit("RESUME")
            for resume in self.resumes:
                resume()

    def has_fault(self, name: str) -> bool:
        """Return whether the scenario has this fault."""
        return name in self._faults
