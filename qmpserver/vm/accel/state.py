"""The state of a VM and of its vCPUs as plain data: saving, checking and loading it.

An accelerator makes a `State` of components; here are those that all accelerators have.

The data is `{"vm": {...}, "vcpus": [{...}, ...]}`: the members are components by name, each an
integer, an object, or the base64 text of the bytes of a structure. JSON can carry it.
"""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any, Protocol

from qmpserver.vm.accel.engine import VcpuState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.vm.accel.engine import Engine

STOPPED = {
    "parked": VcpuState.PARKED,
    "halted": VcpuState.HALTED,
    "failed": VcpuState.FAILED,
}
MAX_U32 = (1 << 32) - 1
MAX_U64 = (1 << 64) - 1


class Component(Protocol):
    """A part of the state of a VM or of a vCPU.

    Attributes:
        name: The name of its member in the data.
    """

    name: str

    def save(self) -> Any:
        """Return the value in the data. Raises `OSError` if it cannot be read."""

    def parse(self, value: object) -> Any:
        """Return a value of the data in the form that `load` takes.

        Raises:
            ValueError: The value is invalid; the text says why, and what is expected.
        """

    def load(self, value: Any) -> None:
        """Set the state.

        Raises:
            ValueError: The host refuses the value.
            OSError: The same, from an ioctl.
        """


class State:
    """The state of a VM and of its vCPUs.

    Components are loaded in the order given, the VM's before the vCPUs', and saved in the reverse
    order, the VM's first.
    """

    def __init__(self, vm: Sequence[Component], vcpus: Sequence[Sequence[Component]]) -> None:
        self._vm = vm
        self._vcpus = vcpus

    def save(self) -> dict[str, Any]:
        """Return the state; all vCPUs must have stopped.

        Raises:
            OSError: The kernel refused to tell a component.
        """
        return {"vm": _save(self._vm), "vcpus": [_save(vcpu) for vcpu in self._vcpus]}

    def load(self, state: object) -> None:
        """Load a result of `save`, also of another process; all vCPUs must have stopped.

        If it is refused, the state is as before.

        Raises:
            ValueError: The state is not one of such a machine, or this host refuses it; the text
                names the component and the vCPU, and says what is expected.
        """
        parsed = self._parse(state)
        before = self.save()
        try:
            self._apply(parsed)
        except ValueError:
            self._apply(self._parse(before))
            raise

    def _parse(self, state: object) -> tuple[list[Any], list[list[Any]]]:
        if not isinstance(state, dict) or set(state) != {"vm", "vcpus"}:
            raise ValueError("state: expected an object with the members vm and vcpus")
        vcpus = state["vcpus"]
        if not isinstance(vcpus, list) or len(vcpus) != len(self._vcpus):
            count = f"{len(vcpus)} vCPUs" if isinstance(vcpus, list) else "no list of vCPUs"
            raise ValueError(f"state: has {count}, expected {len(self._vcpus)}")
        return _parse("VM", self._vm, state["vm"]), [
            _parse(f"vCPU {index}", components, value)
            for index, (components, value) in enumerate(zip(self._vcpus, vcpus, strict=True))
        ]

    def _apply(self, parsed: tuple[list[Any], list[list[Any]]]) -> None:
        vm, vcpus = parsed
        _apply("VM", self._vm, vm)
        for index, (components, values) in enumerate(zip(self._vcpus, vcpus, strict=True)):
            _apply(f"vCPU {index}", components, values)


def _save(components: Sequence[Component]) -> dict[str, Any]:
    return {component.name: component.save() for component in reversed(components)}


def _parse(where: str, components: Sequence[Component], value: object) -> list[Any]:
    """Return the parsed values, in the order of `components`."""
    names = [component.name for component in components]
    expected = f"expected {', '.join(names)}"
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not an object; {expected}")
    for name in value:
        if name not in names:
            raise ValueError(f"{where}: component '{name!s:.40}' is unknown; {expected}")
    for name in names:
        if name not in value:
            raise ValueError(f"{where}: component '{name}' is missing; {expected}")
    parsed = []
    for component in components:
        try:
            parsed.append(component.parse(value[component.name]))
        except ValueError as error:
            raise ValueError(f"{where}: {component.name}: {error}") from None
    return parsed


def _apply(where: str, components: Sequence[Component], values: Sequence[Any]) -> None:
    for component, value in zip(components, values, strict=True):
        try:
            component.load(value)
        except OSError as error:
            raise ValueError(
                f"{where}: {component.name}: this host refuses the value ({error.strerror}); "
                "expected the state of a host with the same processor and kernel features"
            ) from error
        except ValueError as error:
            raise ValueError(f"{where}: {component.name}: {error}") from None


def encode(data: Any) -> str:
    """Return the text of a structure's bytes."""
    return base64.b64encode(data).decode()


def decode(value: object) -> bytes:
    """Return the bytes of a structure from their text.

    Raises:
        ValueError: The value is not base64 text.
    """
    if not isinstance(value, str):
        raise ValueError("not a string; expected base64")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("invalid base64") from None


def decode_structure(value: object, size: int) -> bytes:
    """Return the bytes of a structure of `size` bytes.

    Raises:
        ValueError: The value is not base64 text, or has another size.
    """
    data = decode(value)
    if len(data) != size:
        raise ValueError(f"has {len(data)} bytes, expected {size}")
    return data


def check_number(value: object, least: int = 0, most: int = MAX_U64) -> int:
    """Return `value`, an integer from `least` to `most`.

    Raises:
        ValueError: It is not.
    """
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r:.40} is not an integer from {least} to {most}")
    return value


class Realtime:
    """The time of saving, for clocks that go on while the state travels.

    Attributes:
        elapsed: The time from saving to loading, in ns, for the components loaded next; 0 if the
            hosts' clocks disagree and the state seems to come from the future.
    """

    name = "realtime"

    def __init__(self) -> None:
        self.elapsed = 0

    def save(self) -> int:
        """Return the time in ns since 1970."""
        return time.time_ns()

    def parse(self, value: object) -> int:
        """Return `value`, an integer."""
        return check_number(value)

    def load(self, value: int) -> None:
        """Measure the time since `value`."""
        self.elapsed = max(0, time.time_ns() - value)


class Thread:
    """The state in which a vCPU's thread has stopped, and the reason of a halt or a failure."""

    name = "thread"

    def __init__(self, engine: Engine, index: int) -> None:
        self._engine = engine
        self._index = index

    def save(self) -> dict[str, Any]:
        """Return the state and the exit reason."""
        state, exit_reason = self._engine.vcpu_state(self._index)
        return {"state": state.name.lower(), "exit_reason": exit_reason}

    def parse(self, value: object) -> tuple[VcpuState, int]:
        """Return the state and the exit reason."""
        if not isinstance(value, dict) or set(value) != {"state", "exit_reason"}:
            raise ValueError("expected an object with the members state and exit_reason")
        state = value["state"]
        if not isinstance(state, str) or state not in STOPPED:
            raise ValueError(f"state {state!r:.40}: expected {', '.join(STOPPED)}")
        return STOPPED[state], check_number(value["exit_reason"], most=MAX_U32)

    def load(self, value: tuple[VcpuState, int]) -> None:
        """Set the state of the thread, which must have stopped."""
        self._engine.set_vcpu_state(self._index, *value)
