"""The components of a state on KVM, in the order in which KVM takes them.

To add one: a line in `components` or `_vcpu_components`; its structure and ioctls in SYSTEM of
native/build.py; rebuild.

Source: Linux, Documentation/virt/kvm/api.rst and devices/vcpu.rst.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.accel.state import (
    MAX_U32,
    MAX_U64,
    Realtime,
    check_number,
    decode,
    decode_structure,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qmpserver.vm.accel.state import Component

Ioctl: TypeAlias = Callable[[int, Any], int]
"""Calls an ioctl of a VM or a vCPU, with a pointer or a number; raises `OSError`."""

IRQCHIPS = ("pic_master", "pic_slave", "ioapic")  # the components, by KVM's number
FEATURES = (
    (1, 0, "ecx edx"),
    (7, 0, "ebx ecx edx"),
    (7, 1, "eax edx"),
    (0xD, 0, "eax edx"),
    (0xD, 1, "eax"),
    (0x4000_0001, 0, "eax"),
    (0x8000_0001, 0, "ecx edx"),
    (0x8000_0008, 0, "ebx"),
)  # the CPUID leaves, their indices, and the registers that have bits for features
MSR_TSC = 0x10
MOST_MSRS = 255  # that KVM takes at once
TSC_TOLERANCE_PPM = 250  # within which KVM does not scale
_MSR = struct.Struct("=I4xQ")  # struct kvm_msr_entry
MSRS_SIZE = MOST_MSRS * _MSR.size


class Structure:
    """A structure that one ioctl gets and another one sets.

    Args:
        name: The component's name.
        ioctl: The descriptor's.
        type_: The structure's type, or an array of bytes.
        get: The request that gets it.
        set_: The request that sets it.
        prefix: The first bytes of every value, which say to KVM which structure it is.
    """

    def __init__(
        self, name: str, ioctl: Ioctl, type_: str, get: int, set_: int, prefix: bytes = b""
    ) -> None:
        self.name = name
        self._ioctl = ioctl
        self._get, self._set = get, set_
        self._prefix = prefix
        self._pointer = ffi.new(type_)
        self._bytes = ffi.buffer(self._pointer)
        self._bytes[: len(prefix)] = prefix

    def save(self) -> str:
        """Return the structure's bytes."""
        self._ioctl(self._get, self._pointer)
        return encode(self._bytes)

    def parse(self, value: object) -> bytes:
        """Return the structure's bytes."""
        data = decode_structure(value, len(self._bytes))
        if not data.startswith(self._prefix):
            raise ValueError(
                f"begins with {data[: len(self._prefix)].hex()}, expected {self._prefix.hex()}"
            )
        return data

    def load(self, value: bytes) -> None:
        """Set the structure."""
        self._bytes[:] = value
        self._ioctl(self._set, self._pointer)


class Msrs:
    """The model-specific registers, without the TSC: an array of `struct kvm_msr_entry`.

    A register that the data lacks gets its initial value: the kernel of its host did not know it.

    Args:
        ioctl: The vCPU's, which is new.
        indices: The registers to save; all can be read.
    """

    name = "msrs"

    def __init__(self, ioctl: Ioctl, indices: Sequence[int]) -> None:
        self._list = MsrList(ioctl)
        self._indices = indices
        self._request = b"".join(_MSR.pack(index, 0) for index in indices)
        self._initial = dict(_MSR.iter_unpack(self._read()))

    def _read(self) -> bytes:
        data = self._list.get(self._request)
        if len(data) < len(self._request):
            index = self._indices[len(data) // _MSR.size]
            raise OSError(errno.EIO, f"MSR {index:#x} can no longer be read")
        return data

    def save(self) -> str:
        """Return all entries."""
        return encode(self._read())

    def parse(self, value: object) -> bytes:
        """Return the entries of all registers, also of those that `value` lacks."""
        data = decode(value)
        if len(data) % _MSR.size:
            raise ValueError(f"has {len(data)} bytes, expected a multiple of {_MSR.size}")
        given = dict(_MSR.iter_unpack(data))
        if len(given) < len(data) // _MSR.size:
            raise ValueError("has an MSR twice, expected each once")
        if MSR_TSC in given:
            raise ValueError(f"has MSR {MSR_TSC:#x}, expected it as component 'tsc'")
        lacking = [entry for entry in self._initial.items() if entry[0] not in given]
        return data + b"".join(_MSR.pack(*entry) for entry in lacking)

    def load(self, value: bytes) -> None:
        """Set all registers."""
        left = value
        while left:
            part = left[:MSRS_SIZE]
            done = self._list.set(part) * _MSR.size
            left = left[done:]
            if done < len(part):
                refused, left = left[: _MSR.size], left[_MSR.size :]
                index, data = _MSR.unpack(refused)
                if self._list.get(refused) != refused:  # some can be read only
                    raise ValueError(
                        f"this host refuses MSR {index:#x} with the value {data:#x}; expected the "
                        "state of a host with the same processor and kernel features"
                    )


class MsrList:
    """Lists of registers as KVM gets and sets them: until the first that it refuses.

    The lists are the bytes of arrays of `struct kvm_msr_entry`.
    """

    def __init__(self, ioctl: Ioctl) -> None:
        self._ioctl = ioctl
        self._msrs = ffi.new("struct kvm_msrs *", {"entries": MOST_MSRS})
        self._entries = ffi.buffer(ffi.addressof(self._msrs.entries, 0), MSRS_SIZE)

    def get(self, entries: bytes) -> bytes:
        """KVM_GET_MSRS: return the entries up to the first that cannot be read."""
        found = b""
        for start in range(0, len(entries), MSRS_SIZE):
            part = entries[start : start + MSRS_SIZE]
            done = self._call(lib.KVM_GET_MSRS, part) * _MSR.size
            found += self._entries[:done]
            if done < len(part):
                break
        return found

    def set(self, entries: bytes) -> int:
        """KVM_SET_MSRS of at most `MOST_MSRS`: return the number set before the first refusal."""
        return self._call(lib.KVM_SET_MSRS, entries)

    def _call(self, request: int, entries: bytes) -> int:
        self._msrs.nmsrs = len(entries) // _MSR.size
        self._entries[: len(entries)] = entries
        return self._ioctl(request, self._msrs)


def readable_msrs(ioctl: Ioctl, indices: Iterable[int]) -> list[int]:
    """Return those MSRs of `indices` that a vCPU has, without the TSC."""
    msrs = MsrList(ioctl)
    return [index for index in indices if index != MSR_TSC and msrs.get(_MSR.pack(index, 0))]


def read_tsc(ioctl: Ioctl) -> int:
    """Return a vCPU's time stamp counter."""
    _, tsc = _MSR.unpack(MsrList(ioctl).get(_MSR.pack(MSR_TSC, 0)))
    return int(tsc)


class Cpuid:
    """The features of the processor that guests see, by CPUID leaf and register.

    A host may have more features than the state, but must not have fewer.

    Args:
        cpuid: The vCPUs' `struct kvm_cpuid2`.
    """

    name = "cpuid"

    def __init__(self, cpuid: Any) -> None:
        entries = {(entry.function, entry.index): entry for entry in cpuid.entries[0 : cpuid.nent]}
        self._host = {
            f"{function:#x}.{index}.{register}": int(getattr(entries[function, index], register))
            for function, index, registers in FEATURES
            if (function, index) in entries
            for register in registers.split()
        }

    def save(self) -> dict[str, int]:
        """Return the features."""
        return dict(self._host)

    def parse(self, value: object) -> None:
        """Check that this host has the features."""
        if not isinstance(value, dict):
            raise ValueError("not an object; expected CPUID registers")
        for name, bits in value.items():
            missing = check_number(bits, most=MAX_U32) & ~self._host.get(name, 0)
            if missing:
                raise ValueError(
                    f"this host lacks features {missing:#x} of {name!s:.40}, "
                    f"expected no more than {self._host.get(name, 0):#x}"
                )

    def load(self, value: None) -> None:
        """Do nothing: a processor does not change."""


class TscFrequency:
    """The frequency of the vCPUs' time stamp counters.

    Attributes:
        khz: In kHz; all vCPUs have the same.
    """

    name = "tsc_khz"

    def __init__(self, vcpus: Sequence[Ioctl], *, can_scale: bool) -> None:
        self._vcpus = vcpus
        self._can_scale = can_scale
        self._host = self.khz = vcpus[0](lib.KVM_GET_TSC_KHZ, 0)

    def save(self) -> int:
        """Return the frequency."""
        return self.khz

    def parse(self, value: object) -> int:
        """Return `value`, an integer that this host can provide."""
        khz = check_number(value, 1, MAX_U32)
        if not self._can_scale and abs(khz - self._host) > self._host * TSC_TOLERANCE_PPM / 1e6:
            raise ValueError(
                f"this host cannot scale its TSC to {khz} kHz, expected {self._host} kHz "
                f"within {TSC_TOLERANCE_PPM} ppm"
            )
        return khz

    def load(self, value: int) -> None:
        """Set the frequency of all vCPUs, if it is another one."""
        if value != self.khz:
            for ioctl in self._vcpus:
                ioctl(lib.KVM_SET_TSC_KHZ, value)
            self.khz = value


class Moment(Realtime):
    """The time of saving, and the counter of which the vCPUs' TSCs differ by constants.

    Attributes:
        counter: The host's TSC, scaled as the vCPUs' are, at the time that was saved or loaded.
    """

    def __init__(self, vcpu: Ioctl) -> None:
        super().__init__()
        self._vcpu = vcpu
        self._offset = TscOffset(vcpu)
        self.counter = 0

    def save(self) -> int:
        """Return the time in ns since 1970."""
        self._read()
        return super().save()

    def load(self, value: int) -> None:
        """Measure the time since `value`."""
        super().load(value)
        self._read()

    def _read(self) -> None:
        self.counter = read_tsc(self._vcpu) - self._offset.get()


class TscOffset:
    """The attribute of a vCPU that KVM adds to the host's TSC."""

    def __init__(self, ioctl: Ioctl) -> None:
        self._ioctl = ioctl
        self._value = ffi.new("uint64_t *")
        self._attribute = ffi.new(
            "struct kvm_device_attr *",
            {
                "group": lib.KVM_VCPU_TSC_CTRL,
                "attr": lib.KVM_VCPU_TSC_OFFSET,
                "addr": int(ffi.cast("uintptr_t", self._value)),
            },
        )

    def get(self) -> int:
        """KVM_GET_DEVICE_ATTR."""
        self._ioctl(lib.KVM_GET_DEVICE_ATTR, self._attribute)
        return int(self._value[0])

    def set(self, offset: int) -> None:
        """KVM_SET_DEVICE_ATTR, modulo 2^64."""
        self._value[0] = offset & MAX_U64
        self._ioctl(lib.KVM_SET_DEVICE_ATTR, self._attribute)


class Tsc:
    """A vCPU's time stamp counter at the time of saving.

    It goes on while the state travels, as while a machine is stopped, and never goes back. All
    vCPUs are saved and set as of one moment: they keep their distances exactly.
    """

    name = "tsc"

    def __init__(self, ioctl: Ioctl, moment: Moment, frequency: TscFrequency) -> None:
        self._offset = TscOffset(ioctl)
        self._moment = moment
        self._frequency = frequency

    def save(self) -> int:
        """Return the counter's value."""
        return (self._moment.counter + self._offset.get()) & MAX_U64

    def parse(self, value: object) -> int:
        """Return `value`, an integer."""
        return check_number(value)

    def load(self, value: int) -> None:
        """Set the counter to `value` and the time since it was saved.

        A KVM that shows the host's TSC to guests as it is (`kvm_pvm`) ignores that, silently; then
        the counter may be ahead, as after a pause.
        """
        elapsed = self._moment.elapsed * self._frequency.khz // 1_000_000
        self._offset.set(value + elapsed - self._moment.counter)
        behind = (value - self._moment.counter - self._offset.get()) & MAX_U64
        if 0 < behind <= MAX_U64 // 2:
            raise ValueError(
                f"this host cannot set the TSC, which would go back by {behind} ticks; expected a "
                f"value up to {value - behind}"
            )


class Clock:
    """The VM's paravirtual clock, kvmclock, in ns; it goes on while the state travels."""

    name = "clock"

    def __init__(self, ioctl: Ioctl, moment: Moment) -> None:
        self._ioctl = ioctl
        self._moment = moment
        self._data = ffi.new("struct kvm_clock_data *")

    def save(self) -> int:
        """Return the clock's value."""
        self._ioctl(lib.KVM_GET_CLOCK, self._data)
        return int(self._data.clock)

    def parse(self, value: object) -> int:
        """Return `value`, an integer."""
        return check_number(value, most=MAX_U64 // 2)

    def load(self, value: int) -> None:
        """Set the clock to `value` and the time since it was saved."""
        data = ffi.new("struct kvm_clock_data *", {"clock": value + self._moment.elapsed})
        self._ioctl(lib.KVM_SET_CLOCK, data)


def components(
    vm: Ioctl, vcpus: Sequence[Ioctl], cpuid: Any, msrs: Iterable[int], *, irqchip: bool
) -> tuple[list[Component], list[list[Component]]]:
    """Return the components of a VM and those of its vCPUs, which are new.

    Args:
        vm: The VM's ioctl.
        vcpus: Those of its vCPUs.
        cpuid: The vCPUs' `struct kvm_cpuid2`.
        msrs: The MSRs that belong to a state.
        irqchip: Whether KVM has the interrupt controllers.
    """

    def check(capability: int) -> int:
        return vm(lib.KVM_CHECK_EXTENSION, capability)

    moment = Moment(vcpus[0])
    frequency = TscFrequency(vcpus, can_scale=bool(check(lib.KVM_CAP_TSC_CONTROL)))
    readable = readable_msrs(vcpus[0], msrs)
    xsave_size, xcrs = check(lib.KVM_CAP_XSAVE2), bool(check(lib.KVM_CAP_XCRS))
    return [
        Cpuid(cpuid),
        frequency,
        moment,
        Clock(vm, moment),
        *(_irqchips(vm) if irqchip else ()),
    ], [
        _vcpu_components(
            vcpu,
            Tsc(vcpu, moment, frequency),
            Msrs(vcpu, readable),
            xsave_size,
            irqchip=irqchip,
            xcrs=xcrs,
        )
        for vcpu in vcpus
    ]


def _irqchips(ioctl: Ioctl) -> list[Structure]:
    """Return KVM's PICs and IOAPIC.

    They are loaded before the local APICs: KVM delivers pending interrupts of the IOAPIC to them.
    """
    return [
        Structure(
            name,
            ioctl,
            "struct kvm_irqchip *",
            lib.KVM_GET_IRQCHIP,
            lib.KVM_SET_IRQCHIP,
            struct.pack("=I", number),
        )
        for number, name in enumerate(IRQCHIPS)
    ]


def _vcpu_components(
    ioctl: Ioctl, tsc: Tsc, msrs: Msrs, xsave_size: int, *, irqchip: bool, xcrs: bool
) -> list[Component]:
    """Return the components of a vCPU.

    The order of loading matters: `sregs2` has the base of the local APIC; XCR0 says which parts of
    `xsave2` exist; the MSR of the TSC deadline needs TSC and local APIC; `regs` clears exceptions,
    which `vcpu_events` has; `sregs2` may wake the vCPU, which `mp_state` corrects.

    The reverse is right for saving: reading `mp_state` delivers INIT and SIPI, reading
    `vcpu_events` may change CR2 and DR6, and a deadline that passes meanwhile comes twice rather
    than never.
    """

    def part(name: str, type_: str, get: int, set_: int) -> Structure:
        return Structure(name, ioctl, type_, get, set_)

    sregs2 = part("sregs2", "struct kvm_sregs2 *", lib.KVM_GET_SREGS2, lib.KVM_SET_SREGS2)
    regs = part("regs", "struct kvm_regs *", lib.KVM_GET_REGS, lib.KVM_SET_REGS)
    xcr = part("xcrs", "struct kvm_xcrs *", lib.KVM_GET_XCRS, lib.KVM_SET_XCRS)
    xsave2 = part("xsave2", f"uint8_t[{xsave_size}]", lib.KVM_GET_XSAVE2, lib.KVM_SET_XSAVE)
    debugregs = part(
        "debugregs", "struct kvm_debugregs *", lib.KVM_GET_DEBUGREGS, lib.KVM_SET_DEBUGREGS
    )
    lapic = part("lapic", "struct kvm_lapic_state *", lib.KVM_GET_LAPIC, lib.KVM_SET_LAPIC)
    events = part(
        "vcpu_events", "struct kvm_vcpu_events *", lib.KVM_GET_VCPU_EVENTS, lib.KVM_SET_VCPU_EVENTS
    )
    mp_state = part("mp_state", "struct kvm_mp_state *", lib.KVM_GET_MP_STATE, lib.KVM_SET_MP_STATE)
    return [
        sregs2,
        regs,
        *((xcr,) if xcrs else ()),
        xsave2,
        debugregs,
        *((lapic,) if irqchip else ()),
        tsc,
        msrs,
        events,
        mp_state,
    ]
