"""Records a release's facts: what it answers to clients that probe it, and which devices it adds.

The accelerator is TCG, so the answers depend on the release alone. The format is that of
`qmpserver.releases.facts`.
"""

import contextlib
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.qemu.probe import Qemu

PLAIN = (
    "query-machines",
    "query-cpu-definitions",
    "query-command-line-options",
    "query-tpm-models",
    "query-tpm-types",
)
# Options that make a bus of each type; devices for other buses are not tried.
CONTROLLERS = {
    None: "",
    "PCI": "",
    "ISA": "",
    "IDE": "",
    "i2c-bus": "",
    "floppy-bus": "",
    "System": "",
    "usb-bus": "-device qemu-xhci",
    "SCSI": "-device virtio-scsi-pci",
    "virtio-serial-bus": "-device virtio-serial-pci",
    "HDA": "-device intel-hda",
    "sd-bus": "-device sdhci-pci",
    "nvme-bus": "-device nvme,serial=s",
    "IndustryPack": "-device tpci200",
}
# Refusals that are about the host, or about the id that a device has here.
HOSTS = re.compile(
    "audio driver|voice|OpenGL|vhost_|vhost init|requires kvm|KVM|fd parameter|"
    "Failed to|failed to|Could not"
)
DYNAMIC = "Parameter 'driver' expects a dynamic sysbus device type for the machine"
# Properties that may belong to an object inside of a device.
INNER = ("netdev", "drive", "chardev", "mac")
# Properties without which devices that make buses are refused.
NEEDED = {
    "pci-bridge": "chassis_nr=1",
    "nvme": "serial=s",
    "pxb": "bus_nr=8",
    "pxb-pcie": "bus_nr=8",
}
# Properties without which other PCI devices are refused, and the backends that these name.
BACKENDS = (
    "-m 128M,maxmem=256M -object memory-backend-ram,id=m,size=2M -blockdev null-co,node-name=n"
    " -object cryptodev-backend-builtin,id=c -audiodev none,id=a"
    " -fsdev local,id=f,path=/,security_model=none"
)
PROVIDED = {
    "AC97": "audiodev=a",
    "ES1370": "audiodev=a",
    "ivshmem-plain": "memdev=m",
    "virtio-9p-pci": "fsdev=f,mount_tag=t",
    "virtio-9p-pci-non-transitional": "fsdev=f,mount_tag=t",
    "virtio-9p-pci-transitional": "fsdev=f,mount_tag=t",
    "virtio-blk-pci": "drive=n",
    "virtio-blk-pci-transitional": "drive=n",
    "virtio-blk-pci-non-transitional": "drive=n",
    "virtio-crypto-pci": "cryptodev=c",
    "virtio-pmem-pci": "memdev=m",
    "virtio-mem-pci": "memdev=m",
    "virtio-sound-pci": "audiodev=a",
}
PORT = "-device pcie-root-port,id=root"
# Numbers the bus behind the port, as firmware does: QEMU lists nothing on a bus without number.
NUMBER = ("o /w 0xcf8 0x80000818", "o /w 0xcfc 0x00010100")
# What depends on the place of a function.
PLACED = ("bus", "slot", "function", "qdev_id")
BEFORE_MACHINE = "permitted only after"
ENDS_PRECONFIG = {"quit", "x-exit-preconfig"}
QUIT = b'{"execute": "qmp_capabilities"}{"execute": "quit"}'
ID = "ID"


def record(program: str, path: Path) -> None:
    """Write the facts about a QEMU to a file."""
    with _talking(program, "-machine none") as qemu:
        answers = {one: _answer(qemu, one) for one in PLAIN}
        types = _answer(qemu, "qom-list-types", {"abstract": True})
        answers["query-cpu-model-expansion"] = {
            kind: _answer(
                qemu, "query-cpu-model-expansion", {"type": kind, "model": {"name": "max"}}
            )["model"]
            for kind in ("full", "static")
        }
        single, lists = _Shared(), _Shared()
        listed: dict[str, dict[str, int]] = {}
        inner: dict[str, list[str]] = {}
        for command in ("device-list-properties", "qom-list-properties"):
            listed[command] = {}
            for one in types:
                reply = qemu.execute(command, {"typename": one["name"]})
                if "return" in reply:
                    indexes = [single.index(property_) for property_ in reply["return"]]
                    listed[command][one["name"]] = lists.index(indexes)
                    names = {property_["name"] for property_ in reply["return"]}
                    inner[one["name"]] = [name for name in INNER if name in names]
    devices = _Devices(program, {one["name"]: one.get("parent") for one in types}, inner)
    facts = {
        "answers": answers,
        "types": sorted(types, key=lambda one: str(one["name"])),
        "properties": single.values,
        "lists": lists.values,
        "listed": listed,
        "devices": devices.record(),
        "machines": devices.machines([one["name"] for one in answers["query-machines"]]),
        "functions": devices.functions(),
        "preconfig": preconfig(program),
    }
    path.write_bytes(gzip.compress(json.dumps(facts).encode(), mtime=0))


def preconfig(program: str) -> list[str]:
    """Return the commands that are permitted before the machine is made."""
    permitted = []
    with _talking(program, "-machine none --preconfig") as qemu:
        names = {one["name"] for one in _answer(qemu, "query-commands")} - ENDS_PRECONFIG
        for name in sorted(names):
            error = qemu.execute(name).get("error", {})
            if BEFORE_MACHINE not in error.get("desc", ""):
                permitted.append(name)
    return sorted({*permitted, *ENDS_PRECONFIG})


class _Shared:
    """Values that are written once, and referred to by their index."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._indexes: dict[str, int] = {}

    def index(self, value: Any) -> int:
        key = json.dumps(value, sort_keys=True)
        if key not in self._indexes:
            self._indexes[key] = len(self.values)
            self.values.append(value)
        return self._indexes[key]


class _Devices:
    """The types of devices, tried one by one."""

    def __init__(
        self, program: str, parents: dict[str, str | None], inner: dict[str, list[str]]
    ) -> None:
        self._program = program
        self._parents = parents
        self._inner = inner
        self._found: dict[str, dict[str, Any]] = {}
        self._machines: dict[str, list[Any]] = {}

    def record(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each type."""
        with _talking(self._program, "-machine none") as qemu:
            for name in sorted(one for one in self._parents if "device" in self._line(one)):
                found: dict[str, str | None] = {}
                self._found[name] = found
                words = _refusal(qemu, {"driver": name}) or ""
                if words.startswith("Parameter 'driver' expects "):
                    cold = _refused_option(self._program, f"-machine none -device {name}") or ""
                    if cold == DYNAMIC:
                        found |= self._dynamic(name)
                    else:
                        found["refused" if cold == words else "hot"] = words
                    words = cold
                match = re.match("No '(.*)' bus found for device", words)
                found.setdefault("bus", match[1] if match else None)
        ran = subprocess.run(
            [self._program, "-device", "help"], capture_output=True, text=True, check=True
        )
        for name, alias in re.findall('name "([^"]*)".*, alias "([^"]*)"', ran.stdout):
            self._found[name]["alias"] = alias
        for bus, controller in CONTROLLERS.items():
            names = [
                name
                for name, one in self._found.items()
                if one["bus"] == bus and ("refused" not in one or "taken_by" in one)
            ]
            for name, words in self._hot(controller, names).items():
                self._found[name].setdefault("hot", words)
            for name in names:
                if not name.endswith("-cpu"):
                    self._found[name] |= self._cold(controller, name)
        return self._found

    def machines(self, names: list[str]) -> dict[str, list[Any]]:
        """Return the buses of each machine that starts without more options."""
        for name in names:
            with contextlib.suppress(ValueError):
                self._machines[name] = self.buses(f"-machine {name}")
        return self._machines

    def functions(self) -> dict[str, Any]:
        """Return what `query-pci` tells, before firmware has run, of machines and of devices.

        Of a machine: the functions that it has without more devices, with their addresses and
        drivers. Of a type of device: its function on a bus of the machine, and on a PCIe port if
        it differs.
        """
        machines = {}
        for name, buses in self._machines.items():
            if any("PCI" in self._line(bus[1]) for bus in buses):
                with _talking(self._program, f"-machine {name}") as qemu:
                    machines[name] = _own_functions(qemu)
        devices = {}
        for name, one in self._found.items():
            if one["bus"] != "PCI" or "refused" in one:
                continue
            given = ",".join(
                [f"{name},id={ID}", *(all_[name] for all_ in (NEEDED, PROVIDED) if name in all_)]
            )
            on_bus = self._function(f"-machine pc {BACKENDS} -device {given}")
            on_bus = on_bus or self._function(f"-machine q35 {BACKENDS} -device {given}")
            on_port = self._function(f"-machine q35 {BACKENDS} {PORT} -device {given},bus=root")
            found = [one for one in (on_bus, on_port) if one is not None]
            devices[name] = found[:1] if found[:1] == found[1:] else found
        return {"machines": machines, "devices": {n: one for n, one in devices.items() if one}}

    def _function(self, options: str) -> dict[str, Any] | None:
        """Return what `query-pci` tells of the device with the id; None if QEMU does not start."""
        if _refused_option(self._program, options) is not None:
            return None
        with _talking(self._program, options) as qemu:
            if PORT in options:
                for line in NUMBER:
                    _answer(qemu, "human-monitor-command", {"command-line": line})
            for bus in reversed(_answer(qemu, "query-pci")):  # the machine's own is the last one
                for one in bus["devices"]:
                    for inner in (one, *one.get("pci_bridge", {}).get("devices", ())):
                        if inner["qdev_id"] == ID:
                            return _without_place(inner)
        return None

    def buses(self, options: str, owner: str | None = None) -> list[Any]:
        """Return the buses of a machine, or of one device.

        Of each: name, type, the bus that its device is on, and whether it supports hot plugging.
        """
        made = []
        with _talking(self._program, options) as qemu:
            text = _answer(qemu, "human-monitor-command", {"command-line": "info qtree"})
            for name, kind, parent, owners in _tree(text):
                is_owned = owner in owners or name == owner or name.startswith(f"{owner}.")
                if owner is not None and not is_owned:
                    continue
                line = self._line(kind)
                device = next((n for n, one in self._found.items() if one["bus"] in line), None)
                words = device and _refusal(qemu, {"driver": device, "bus": name})
                hot = device is not None and f"Bus '{name}' does not" not in str(words)
                made.append([_general(name), kind, parent and _general(parent), hot])
        return made

    def _line(self, name: str | None) -> list[str]:
        """Return a type and its ancestors."""
        line = []
        while name is not None:
            line.append(name)
            name = self._parents.get(name)
        return line

    def _dynamic(self, name: str) -> dict[str, str | None]:
        """Return what is known of a device that only some machines take: those that PCs take."""
        taken = [
            machine
            for machine in ("q35", "pc")
            if _refused_option(self._program, f"-machine {machine} -device {name}") != DYNAMIC
        ]
        if not taken:
            return {"refused": DYNAMIC, "bus": None}
        with _talking(self._program, f"-machine {taken[0]}") as qemu:
            words = _refusal(qemu, {"driver": name})
        on_bus = (words or "").startswith("Bus 'main-system-bus'")
        found: dict[str, str | None] = {"bus": "System"} if on_bus else {"bus": None, "hot": words}
        return found if len(taken) == 2 else {**found, "refused": DYNAMIC, "taken_by": taken[0]}

    def _hot(self, controller: str, names: list[str]) -> dict[str, str]:
        """Return why devices without properties are refused while a machine exists."""
        found: dict[str, str] = {}
        left = list(names)
        while left:
            with _talking(self._program, f"-machine pc {controller}") as qemu:
                while left:
                    name = left.pop(0)
                    words = _refusal(qemu, {"driver": name})
                    if words is None:
                        break  # the others are to find free buses
                    about_bus = words.startswith(("Bus '", "No '", "Invalid CPU type, "))
                    if not about_bus and not HOSTS.search(words):
                        found[name] = words
        return found

    def _cold(self, controller: str, name: str) -> dict[str, Any]:
        """Return why a device without properties is refused on the command line, or its buses."""
        device = f"-device {name},id={ID}"
        needed = f",{NEEDED[name]}" if name in NEEDED else ""
        words = _refused_option(self._program, f"-machine pc {controller} {device}")
        if words == f"'{name}' is not a valid device model name":
            return {"refused": words}
        found: dict[str, Any] = {}
        if words is not None and not HOSTS.search(words):
            found["cold"] = words
        for machine in ("pc", "q35"):
            options = f"-machine {machine} {controller} {device}{needed}"
            if _refused_option(self._program, options) is not None:
                continue
            if not needed:
                found.pop("cold", None)  # it is the machine's
            if buses := self.buses(options, ID):
                found["buses"] = buses
            break
        owners = {}
        for inner in self._inner.get(name, []):
            device = f"-device {name},{inner}=?"
            words = _refused_option(self._program, f"-machine pc {controller} {device}")
            owner = re.match(rf"Property '(.*)\.{inner}'", words or "")
            if owner and owner[1] != name:
                owners[inner] = owner[1]
        return {**found, "owners": owners} if owners else found


def _tree(text: str) -> Iterator[tuple[str, str, str | None, list[str]]]:
    """Yield name, type, parent and ids of the devices above of each bus in `info qtree`."""
    above: list[tuple[int, str, str]] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if found := re.fullmatch(r' *(bus): (.+)| *(dev): [^,]+, id "(.*)"', line):
            while above and above[-1][0] >= indent:
                above.pop()
            above.append((indent, found[1] or found[3], found[2] or found[4] or ""))
        elif found := re.fullmatch(r" *type (\S+)", line):
            *buses, name = [one for _, kind, one in above if kind == "bus"]
            ids = [one for _, kind, one in above if kind == "dev"]
            yield name, found[1], buses[-1] if buses else None, ids


def _own_functions(qemu: "_Hardy") -> list[dict[str, Any]]:
    """Return the functions of a machine without devices, with their drivers."""
    text = _answer(qemu, "human-monitor-command", {"command-line": "info qtree"})
    drivers: dict[tuple[int, int], dict[str, Any]] = {}
    driver = ""
    for line in text.splitlines():
        if found := re.fullmatch(r' *dev: ([^,]+), id ".*"', line):
            driver = found[1]
        elif found := re.fullmatch(r" *addr = (..)\.(.)", line):
            one = {"driver": driver, "multifunction": False}
            drivers[int(found[1], 16), int(found[2])] = one
        elif re.fullmatch(r" *multifunction = true", line):
            one["multifunction"] = True
    (bus,) = _answer(qemu, "query-pci")
    return [
        {
            **drivers[one["slot"], one["function"]],
            "addr": one["slot"] * 8 + one["function"],
            "shown": _without_place(one),
        }
        for one in bus["devices"]
    ]


def _without_place(function: dict[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in function.items() if key not in PLACED}


def _general(name: str) -> str:
    """Return the name of a bus, with a place for the id of its device."""
    return re.sub(rf"^{ID}(?=\.|$)", "{id}", name)


class _Hardy:
    """A QEMU that is started again when a command has ended it; the command has no reply then."""

    def __init__(self, program: str, options: str) -> None:
        self._start = partial(
            Qemu, program, ["-accel", "tcg", "-S", "-nodefaults", *options.split()]
        )
        self._qemu = self._start()

    def execute(self, command: str, arguments: object = None) -> dict[str, Any]:
        """Return the reply to a command."""
        try:
            return self._qemu.execute(command, arguments)
        except (OSError, ValueError):  # nobody reads; or the line that came is empty
            self._qemu.close()
            self._qemu = self._start()
            return {}

    def close(self) -> None:
        """End it."""
        self._qemu.close()


@contextlib.contextmanager
def _talking(program: str, options: str) -> Iterator[_Hardy]:
    qemu = _Hardy(program, options)
    try:
        yield qemu
    finally:
        qemu.close()


def _answer(qemu: _Hardy, command: str, arguments: object = None) -> Any:
    reply = qemu.execute(command, arguments)
    assert "return" in reply, reply
    return reply["return"]


def _refusal(qemu: _Hardy, device: dict[str, str]) -> str | None:
    reply = qemu.execute("device_add", device)
    return str(reply["error"]["desc"]) if "error" in reply else None


def _refused_option(program: str, options: str) -> str | None:
    """Return why QEMU refuses its last option; None if it starts."""
    words = ["-accel", "tcg", "-S", "-nodefaults", "-display", "none", *options.split()]
    ran = subprocess.run(
        [program, *words, "-qmp", "stdio"], input=QUIT, capture_output=True, check=False, timeout=60
    )
    if ran.returncode == 0:
        return None
    return ran.stderr.decode().strip().rpartition(f"{words[-2]} {words[-1]}: ")[2]


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
