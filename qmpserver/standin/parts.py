"""The parts of a scenario, as data: replies, events, expectations, the machine's initial state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.transcript.compare import MORE, compare

if TYPE_CHECKING:
    from collections.abc import Sequence


class ScenarioError(Exception):
    """A scenario that cannot be played; the text names file, key, value and what would be right."""


class Topology(NamedTuple):
    """The places for vCPUs, as `-smp` gives them; 0 for a number that it leaves out."""

    maxcpus: int = 0
    sockets: int = 0
    dies: int = 0
    cores: int = 0
    threads: int = 0


class ScriptedEvent(NamedTuple):
    """An event that the stand-in sends after a delay of `after` seconds."""

    name: str
    data: dict[str, Any] | None
    after: float = 0.0


class Reply(NamedTuple):
    """A scripted answer to a command.

    Attributes:
        command: Name of the command.
        arguments: Pattern that the command's arguments must match; None matches any arguments.
        times: How many commands it answers; None for no bound.
        result: The value returned, if `returns` is set.
        returns: Whether `result` is given; without it, and without an `error`, the machine's state
            or the schema answers.
        error: Description and class of the error to answer with.
        delay: Seconds before the command is answered.
        before: Events sent before the answer.
        events: Events sent after the answer.
        status: Run state that the machine enters.
        shutdown: Reason of the shutdown that follows the answer; None for no shutdown.
        exact: Whether arguments that the pattern does not name are a mismatch.
    """

    command: str
    arguments: dict[str, Any] | None = None
    times: int | None = None
    result: Any = None
    returns: bool = False
    error: tuple[str, str] | None = None
    delay: float = 0.0
    before: Sequence[ScriptedEvent] = ()
    events: Sequence[ScriptedEvent] = ()
    status: str | None = None
    shutdown: str | None = None
    exact: bool = False

    def fits(self, arguments: dict[str, Any]) -> bool:
        """Return whether this reply answers a command with these arguments."""
        return _matches(self.arguments, arguments, exact=self.exact)


class Expectation(NamedTuple):
    """A command that clients must send between `least` and `most` times; None for no maximum."""

    command: str
    arguments: dict[str, Any] | None = None
    least: int = 1
    most: int | None = None

    def fits(self, name: str, arguments: dict[str, Any]) -> bool:
        """Return whether a received command is the expected one."""
        return name == self.command and _matches(self.arguments, arguments)

    def __str__(self) -> str:
        return f"{self.command} {json.dumps(self.arguments)}" if self.arguments else self.command


class MachineState(NamedTuple):
    """The state of the machine at the start; sizes in bytes, times in seconds.

    Attributes:
        type: The machine's type.
        topology: The places for vCPUs, of which the first `cpus` are taken.
        cpu: Model of the vCPUs.
        usb: Whether it has the USB controllers of its type.
        accel: Name of the accelerator.
        slots: The slots for memory devices; None for any number.
        max_memory: The bytes of memory with all memory devices; None for any number.
        nvdimm: Whether it takes devices of type `nvdimm`, if `slots` is given.
        migration_time: Time that a migration takes until it converges.
        migration_peer: Whether a migration needs the other stand-in; without it, one out of this
            machine converges and one into it arrives, and no address is used.
        unplug_time: Time that the guest takes to release a device.
        powerdown_time: Time that the guest takes to shut down after `system_powerdown`; None for
            a guest that does not.
        images: Whether a file of an image must exist, and commands create such files.
        defaults: Whether it has the devices that QEMU gives to a machine that has none of the kind.
        any_device: Whether it takes devices that its release refuses.
    """

    status: str = "running"
    type: str = "pc"
    cpus: int = 1
    topology: Topology = Topology()
    cpu: str = "qemu64"
    usb: bool = False
    accel: str = "kvm"
    slots: int | None = None
    max_memory: int | None = None
    nvdimm: bool = False
    memory: int = 128 << 20
    name: str | None = None
    uuid: str = "00000000-0000-0000-0000-000000000000"
    migration_time: float = 0.1
    migration_peer: bool = True
    unplug_time: float = 0.0
    powerdown_time: float | None = None
    images: bool = False
    defaults: bool = False
    any_device: bool = False

    @property
    def empty(self) -> bool:
        """Whether it has no vCPU, no memory and no bus: its type is `none`."""
        return self.type == "none"


def _matches(
    pattern: dict[str, Any] | None, arguments: dict[str, Any], *, exact: bool = False
) -> bool:
    if pattern is None:
        return True
    more = {} if exact else {MORE: MORE}
    return not compare({**pattern, **more}, arguments)
