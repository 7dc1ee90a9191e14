"""Options that describe the machine itself, as changes to `MachineState`, and their checks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import (
    Kind,
    OptionError,
    parse_bool,
    parse_keyval,
    parse_number,
    parse_options,
    parse_size,
    split_options,
)
from qmpserver.qmp import CommandError
from qmpserver.standin.commandline.launch import MachineError
from qmpserver.standin.parts import Topology
from qmpserver.standin.state.devices.properties import from_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qmpserver.standin.commandline.launch import Launch
    from qmpserver.standin.state import State

_SMP = "cpus maxcpus drawers books sockets dies clusters modules cores threads".split()  # noqa: SIM905
_LEVELS = ("sockets", "dies", "modules", "cores", "threads")  # that machines of x86 have
_MAX_CPUS = 1024
# Keys of -machine that are not always properties: the others stand for the accelerator's.
_NO_PROPERTIES = frozenset({"type", "accel", "kernel-irqchip", "kvm-shadow-mem", "igd-passthru"})
_MEMORY = {"size": Kind.SIZE_IN_MIB, "slots": Kind.NUMBER, "maxmem": Kind.SIZE}
_MAX_SLOTS = 256
_MAX_PARALLEL = 3
_VGAS = frozenset({"none", "std", "cirrus", "vmware", "qxl", "virtio"})


def changes(options: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the attributes of `MachineState` that a command line sets.

    Raises:
        OptionError: A value is malformed.
    """
    made: dict[str, Any] = {}
    smp: dict[str, int] = {}
    for name, value in options:
        if name == "machine":
            for key, one, _ in split_options(value, "type"):
                if key == "type":
                    made["type"] = one
                elif key == "usb":
                    made["usb"] = parse_bool(key, one)
                elif key == "accel":
                    made["accel"] = one.partition(":")[0]
                elif key == "nvdimm":
                    made["nvdimm"] = parse_bool(key, one)
        elif name in ("usb", "usbdevice"):
            made["usb"] = True
        elif name == "m":
            sizes = {key: one for key, one, _ in split_options(value, "size")}
            try:
                made["slots"] = parse_number("slots", sizes.get("slots", "0"))
                made["max_memory"] = parse_size("maxmem", sizes.get("maxmem", "0"))
            except OptionError as error:
                raise OptionError(f"-m {value}: {error}") from None
        elif name == "accel":
            made.setdefault("accel", value.partition(",")[0].removeprefix("accel="))
        elif name == "cpu":
            made["cpu"] = value.partition(",")[0]
        elif name == "smp":
            smp |= _numbers(value)
    if smp:
        made["topology"] = Topology(*(smp.get(one, 0) for one in Topology._fields))
        places = math.prod(smp.get(one) or 1 for one in _SMP[2:])
        made["cpus"] = smp.get("cpus") or smp.get("maxcpus") or places
        if made["cpus"] > _MAX_CPUS:
            raise OptionError(f"Invalid SMP CPUs {made['cpus']}; expected 1 to {_MAX_CPUS}")
    return made


def _numbers(value: str) -> dict[str, int]:
    """Return the numbers in a value of `-smp`."""
    made = {}
    for name, text, _ in split_options(value, "cpus"):
        if name not in _SMP:
            raise OptionError(f"Parameter 'smp.{name}' is unexpected")
        try:
            made[name] = parse_number(name, text)
        except OptionError:
            raise OptionError(f"Parameter 'smp.{name}' expects integer") from None
    return made


def check(launch: Launch, options: Sequence[tuple[str, str]]) -> None:
    """Check what options say about the machine by the facts of its release.

    Raises:
        OptionError: The release has no such machine, or lacks an option.
    """
    state = launch.state
    for name, _ in options:
        if state.has_facts and name in state.release.lacks:
            raise MachineError(f"-{name}: invalid option")
    for value in [value for name, value in options if name == "m"][-1:]:
        _check_memory(value, state.machine.memory)
    parallel = [value for name, value in options if name == "parallel" and value != "none"]
    if len(parallel) > _MAX_PARALLEL:
        raise MachineError(f"-parallel {parallel[_MAX_PARALLEL]}: too many parallel ports")
    given = {name: value for name, value in options if name in ("machine", "smp", "cpu", "vga")}
    if not given or not state.has_facts:
        return
    machines = {one["name"]: one for one in state.facts.answers["query-machines"]}
    machines |= {one["alias"]: one for one in machines.values() if "alias" in one}
    machine = machines.get(state.machine.type)
    if machine is None:
        name = f': "{state.machine.type}"' if state.release.names_machines else ""
        hint = "Use -machine help to list supported machines"
        raise MachineError(f"unsupported machine type{name}", hint)
    _check_properties(state, machine["name"], [one for name, one in options if name == "machine"])
    if "smp" in given:
        numbers: dict[str, int] = {}
        for name, value in options:
            numbers |= _numbers(value) if name == "smp" else {}
        _check_topology(state, machine, numbers)
    if "cpu" in given:
        _check_cpu(state, *given["cpu"].split(","))
    if given.get("vga", "none") not in _VGAS:
        raise MachineError(f"unknown vga type: {given['vga']}")


def _check_memory(value: str, size: int) -> None:
    """Check the room for more memory than the machine starts with."""
    try:
        given = parse_options(value, _MEMORY, implied="size")
    except OptionError as error:
        raise MachineError(f"-m {value}: {error}", error.hint) from None
    slots, most = given.number("slots"), given.number("maxmem")
    if "maxmem" not in given:
        if slots:
            raise MachineError("slots specified but no max-size")
        return
    if most < size:
        words = f"maximum memory size ({most:#x}) must be at least the initial memory size"
        raise MachineError(f"invalid value of maxmem: {words} ({size:#x})")
    if slots and most == size:
        words = f"memory slots were specified but maximum memory size ({most:#x}) is equal to"
        raise MachineError(f"invalid value of maxmem: {words} the initial memory size ({size:#x})")
    if slots > _MAX_SLOTS:
        raise MachineError(f"unsupported amount of memory slots: {slots}")


def _check_properties(state: State, machine: str, values: Iterable[str]) -> None:
    listed = state.facts.properties("qom-list-properties", f"{machine}-machine") or ()
    known = {one["name"] for one in listed} | _NO_PROPERTIES
    for value in values:
        try:
            given = parse_keyval(value, "type")
        except OptionError as error:
            raise MachineError(f"-machine {value}: {error}") from None
        for name in given:
            if name.replace("_", "-") not in known:
                raise MachineError(f"Property '{machine}-machine.{name}' not found")


def _check_topology(state: State, machine: Mapping[str, Any], given: Mapping[str, int]) -> None:
    """Check the number of vCPUs and the hierarchy of their places."""
    names = state.option_names("smp-opts")
    for name, number in given.items():
        if name not in names:
            raise MachineError(f"Parameter 'smp.{name}' is unexpected")
        if not number and not state.release.takes_zero_cpus:
            words = "CPU topology parameters must be greater than zero"
            raise MachineError(f"Invalid CPU topology: {words}")
        if name in ("drawers", "books", "clusters") and number > 1:
            words = f"{name} > 1 not supported by this machine's CPU topology"
            raise MachineError(state.release.words.get(words, words))
    numbers = {name: given.get(name, 0) for name in _LEVELS if name in names}
    places = given.get("maxcpus") or given.get("cpus")
    # The level that is left out takes the places that the others leave, cores at first.
    left_out = next((one for one in ("cores", "sockets", "threads") if not numbers[one]), None)
    numbers = {name: number or 1 for name, number in numbers.items()}
    if places and left_out is not None:
        numbers[left_out] = places // math.prod(numbers.values())
    product = math.prod(numbers.values())
    places = places or product
    cpus = given.get("cpus") or places
    shown = " * ".join(f"{name} ({number})" for name, number in numbers.items())
    if product != places:
        words = f"product of the hierarchy must match maxcpus: {shown} != maxcpus ({places})"
        raise MachineError(f"Invalid CPU topology: {words}")
    if places < cpus:
        words = f"{shown} == maxcpus ({places}) < smp_cpus ({cpus})"
        words = f"maxcpus must be equal to or greater than smp: {words}"
        raise MachineError(f"Invalid CPU topology: {words}")
    most = machine["cpu-max"]
    if places > most:
        words = f"The max CPUs supported by machine '{machine['name']}' is {most}"
        raise MachineError(f"Invalid SMP CPUs {places}. {words}")


def _check_cpu(state: State, model: str, *features: str) -> None:
    """Check a model of vCPUs, and the features that are given or taken with it."""
    if model not in {one["name"] for one in state.facts.answers["query-cpu-definitions"]}:
        raise MachineError(f"unable to find CPU model '{model}'")
    type_ = f"{model}-x86_64-cpu"
    listed = state.facts.properties("device-list-properties", type_)
    if listed is None or state.machine.empty:
        return
    types = {one["name"]: one["type"] for one in listed}
    for feature in filter(None, features):
        name, _, value = feature.partition("=")
        sign = name.startswith(("+", "-"))
        name, value = name[sign:].replace("_", "-"), value or "on"
        try:
            if name not in types:
                raise CommandError(f"Property '{type_}.{name}' not found")
            if not sign:
                from_text(name, types[name], value)
        except CommandError as error:
            where = "" if sign else f"can't apply global {type_}.{name}={value}: "
            raise MachineError(f"{where}{error.desc}") from None
