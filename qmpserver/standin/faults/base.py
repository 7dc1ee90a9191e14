"""The base class of faults, and the table that subclasses enter by their names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from qmpserver.qapi.fitting import smallest
from qmpserver.qmp import event_message
from qmpserver.standin.wire import Kind, Wire, WireMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.monitor import Device
    from qmpserver.qapi import Schema

    Send = Callable[[WireMessage], None]

FAULTS: dict[str, type[Fault]] = {}
_NEGOTIATION = "qmp_capabilities"


class Spec(NamedTuple):
    """A fault as a scenario describes it.

    Attributes:
        name: Name of the fault.
        where: Command or event whose messages have the fault; None for the fault's default.
        times: How many messages have the fault; None for the fault's default.
        seconds: How long the fault takes, if it takes time; None for the fault's default.
    """

    name: str
    where: str | None = None
    times: int | None = None
    seconds: float | None = None


class Fault:
    """One fault of a stand-in; one instance serves all of its clients.

    A subclass with a name is entered in `FAULTS`. By default a fault strikes every reply but the
    negotiation's; a subclass changes this by the class attributes, or by overriding `strikes`.

    Attributes:
        kinds: Kinds of messages that the fault strikes; empty for none.
        default_where: Command or event, if the scenario names none; None for all.
        default_times: How many messages it strikes, if the scenario does not say; None for all.
        default_seconds: How long it takes, if the scenario does not say.
        needs_events: Whether it sends events, so that a schema without events cannot have it.
        needs_process: Whether it stops or ends the process, which must then be the stand-in's own.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("reply",)
    default_where: ClassVar[str | None] = None
    default_times: ClassVar[int | None] = None
    default_seconds: ClassVar[float] = 0.0
    needs_events: ClassVar[bool] = False
    needs_process: ClassVar[bool] = False

    def __init_subclass__(cls, *, name: str | None = None) -> None:
        super().__init_subclass__()
        if name is not None:
            FAULTS[name] = cls

    def __init__(self, spec: Spec, schema: Schema) -> None:
        self.where = spec.where or self.default_where
        self.left = spec.times if spec.times is not None else self.default_times
        self.seconds = spec.seconds if spec.seconds is not None else self.default_seconds
        self.schema = schema

    @property
    def start_after(self) -> float:
        """Seconds before the client is read from and greeted."""
        return 0.0

    def opened(self, device: Device) -> None:
        """Note a device that was opened, before clients connect to it."""

    def refuses(self, wire: Wire) -> bool:
        """Return whether the client is disconnected at once."""
        return False

    def take(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Take a message: `strike` it, or let it `pass_by`."""
        if self.strikes(message):
            self.strike(wire, message, send)
        else:
            self.pass_by(wire, message, send)

    def held(self, wire: Wire) -> int:
        """Return the number of bytes held for later; `Wire.drained` tells when they were sent."""
        return 0

    def forget(self, wire: Wire) -> None:
        """Drop everything that is held for a wire, which is closed."""

    def strikes(self, message: WireMessage) -> bool:
        """Return whether the fault strikes this message, and count it if so."""
        if message.kind not in self.kinds or self.left == 0:
            return False
        if self.where is not None:
            if message.name != self.where:
                return False
        elif message.kind == "reply" and message.name == _NEGOTIATION:
            return False
        if self.left is not None:
            self.left -= 1
        return True

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send a message that has the fault, or something else in its place."""
        send(message)

    def pass_by(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send a message that does not have the fault."""
        send(message)

    def noise(self) -> WireMessage:
        """Return an event that no command has caused."""
        declared = self.schema.events.get("RTC_CHANGE") or next(iter(self.schema.events.values()))
        data = smallest(declared.data) if declared.data.members else None
        return event(declared.name, data)


def event(name: str, data: Any) -> WireMessage:
    """Return an event that happens now."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return WireMessage(event_message(name, data, seconds, rest // 1000), "event", name)
