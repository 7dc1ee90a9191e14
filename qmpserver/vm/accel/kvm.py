"""KVM: a thin binding with one method per ioctl, and the accelerator that uses it.

To add an ioctl: one method here; its constant and structures in SYSTEM of native/build.py; rebuild.

All calls of the binding raise `OSError` on failure. Source: Linux,
Documentation/virt/kvm/api.rst.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import time
from typing import TYPE_CHECKING, Any

from qmpserver.vm.accel.engine import Engine
from qmpserver.vm.accel.entry import Entry
from qmpserver.vm.accel.errors import AcceleratorError
from qmpserver.vm.accel.kvm_state import components, read_tsc
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.accel.state import State, Thread
from qmpserver.vm.accel.stats import KvmLayout, KvmStats, Statistics

if TYPE_CHECKING:
    from qmpserver.vm.accel.entry import BootSectorEntry, Guest
    from qmpserver.vm.accel.memory import Ram
    from qmpserver.vm.accel.options import AccelOptions

log = logging.getLogger(__name__)

ENTRY_SIZE = ffi.sizeof("struct kvm_dirty_gfn")
MAX_CPUID_ENTRIES = 256
MAX_MSRS = 1024
SUGGESTED_RING_SIZE = 1024
IDENTITY_MAP_ADDRESS = 0xFEFFC000  # outside all slots, like the TSS; Intel needs both for real mode
TSS_ADDRESS = 0xFEFFD000  # three pages
# The canary's page: above all guest memory if KVM allows that, else next to the identity map.
CANARY_ADDRESSES = ((1 << 52) - mmap.PAGESIZE, IDENTITY_MAP_ADDRESS - mmap.PAGESIZE)
ROM_END = 1 << 32
MAX_PC_VCPUS = 255  # 0xff is the broadcast of 8-bit APIC IDs
VIRTUALIZATION = {1: 1 << 5, 0x8000_0001: 1 << 2}  # VMX and SVM: CPUID leaves, bits in ecx
APIC_ID_LEAVES = (0xB, 0x1F)  # the CPUID leaves that have it in edx


class _Descriptor:
    """One of KVM's file descriptors."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def ioctl(self, request: int, arg: Any = 0) -> int:
        """Call `ioctl` with a number or a pointer; return its result.

        Raises:
            OSError: The call failed.
        """
        if isinstance(arg, int):
            arg = ffi.cast("void *", arg)
        result: int = lib.kvm_ioctl(self.fd, request, arg)
        if result < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        return result

    def get_stats_fd(self) -> _Descriptor:
        """KVM_GET_STATS_FD, of a VM or a vCPU."""
        return _Descriptor(self.ioctl(lib.KVM_GET_STATS_FD))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


class Kvm(_Descriptor):
    """`/dev/kvm`."""

    def __init__(self, path: str = "/dev/kvm") -> None:
        super().__init__(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def get_api_version(self) -> int:
        """KVM_GET_API_VERSION."""
        return self.ioctl(lib.KVM_GET_API_VERSION)

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION."""
        return self.ioctl(lib.KVM_CHECK_EXTENSION, capability)

    def get_vcpu_mmap_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE."""
        return self.ioctl(lib.KVM_GET_VCPU_MMAP_SIZE)

    def get_supported_cpuid(self) -> Any:
        """KVM_GET_SUPPORTED_CPUID: a `struct kvm_cpuid2`."""
        count = MAX_CPUID_ENTRIES
        cpuid = ffi.new("struct kvm_cpuid2 *", {"nent": count, "entries": count})
        self.ioctl(lib.KVM_GET_SUPPORTED_CPUID, cpuid)
        return cpuid

    def get_msr_index_list(self) -> list[int]:
        """KVM_GET_MSR_INDEX_LIST: the MSRs that belong to a vCPU's state."""
        count = MAX_MSRS
        indices = ffi.new("struct kvm_msr_list *", {"nmsrs": count, "indices": count})
        self.ioctl(lib.KVM_GET_MSR_INDEX_LIST, indices)
        return [int(indices.indices[i]) for i in range(indices.nmsrs)]

    def create_vm(self) -> VmFd:
        """KVM_CREATE_VM; retried, because any signal interrupts it."""
        while True:
            with contextlib.suppress(InterruptedError):
                return VmFd(self.ioctl(lib.KVM_CREATE_VM))


class VmFd(_Descriptor):
    """A virtual machine."""

    def enable_cap(self, capability: int, arg: int) -> None:
        """KVM_ENABLE_CAP with one argument."""
        self.ioctl(
            lib.KVM_ENABLE_CAP,
            ffi.new("struct kvm_enable_cap *", {"cap": capability, "args": [arg]}),
        )

    def set_tss_addr(self, address: int) -> None:
        """KVM_SET_TSS_ADDR."""
        self.ioctl(lib.KVM_SET_TSS_ADDR, address)

    def set_identity_map_addr(self, address: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR."""
        self.ioctl(lib.KVM_SET_IDENTITY_MAP_ADDR, ffi.new("uint64_t *", address))

    def set_user_memory_region(
        self, slot: int, flags: int, gpa: int, size: int, userspace_addr: int
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION."""
        self.ioctl(
            lib.KVM_SET_USER_MEMORY_REGION,
            ffi.new(
                "struct kvm_userspace_memory_region *",
                {
                    "slot": slot,
                    "flags": flags,
                    "guest_phys_addr": gpa,
                    "memory_size": size,
                    "userspace_addr": userspace_addr,
                },
            ),
        )

    def get_dirty_log(self, slot: int, bitmap: Any) -> None:
        """KVM_GET_DIRTY_LOG, into a bitmap with one bit a page."""
        self.ioctl(
            lib.KVM_GET_DIRTY_LOG,
            ffi.new("struct kvm_dirty_log *", {"slot": slot, "dirty_bitmap": bitmap}),
        )

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ; Linux 5.18 or later for a VM."""
        return self.ioctl(lib.KVM_GET_TSC_KHZ)

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP, before the first vCPU."""
        self.ioctl(lib.KVM_CREATE_IRQCHIP)

    def create_vcpu(self, index: int) -> VcpuFd:
        """KVM_CREATE_VCPU."""
        return VcpuFd(self.ioctl(lib.KVM_CREATE_VCPU, index))


class VcpuFd(_Descriptor):
    """A virtual CPU."""

    def map_run(self, size: int) -> mmap.mmap:
        """Map `struct kvm_run`."""
        return mmap.mmap(self.fd, size)

    def map_ring(self, entries: int) -> mmap.mmap:
        """Map the vCPU's dirty ring."""
        offset = lib.KVM_DIRTY_LOG_PAGE_OFFSET * mmap.PAGESIZE
        return mmap.mmap(self.fd, entries * ENTRY_SIZE, offset=offset)

    def set_cpuid2(self, cpuid: Any) -> None:
        """KVM_SET_CPUID2, with a result of `Kvm.get_supported_cpuid`."""
        self.ioctl(lib.KVM_SET_CPUID2, cpuid)

    def get_sregs(self) -> Any:
        """KVM_GET_SREGS: a `struct kvm_sregs`."""
        sregs = ffi.new("struct kvm_sregs *")
        self.ioctl(lib.KVM_GET_SREGS, sregs)
        return sregs

    def set_sregs(self, sregs: Any) -> None:
        """KVM_SET_SREGS."""
        self.ioctl(lib.KVM_SET_SREGS, sregs)

    def set_regs(self, regs: Any) -> None:
        """KVM_SET_REGS."""
        self.ioctl(lib.KVM_SET_REGS, regs)


def _enter_user_mode(vcpu: VcpuFd, entry: Entry) -> None:
    """Set the registers to 64-bit mode at CPL 3, which runs at full speed on any KVM."""
    sregs = vcpu.get_sregs()
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80050033, entry.cr3, 0x20, 0x500
    code = {"limit": 0xFFFFFFFF, "selector": 0x33, "type": 11, "present": 1, "dpl": 3, "s": 1}
    sregs.cs = code | {"l": 1, "g": 1}
    data = code | {"selector": 0x2B, "type": 3, "db": 1, "g": 1}
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
    vcpu.set_sregs(sregs)
    # IOPL 3: `out` exits with KVM_EXIT_IO instead of faulting
    regs = {"rip": entry.rip, "rdi": entry.rdi, "rflags": 0x3002}
    vcpu.set_regs(ffi.new("struct kvm_regs *", regs))


def _enter_real_mode(vcpu: VcpuFd, entry: BootSectorEntry) -> None:
    """Set the registers to real mode at 0:`ip`, with the stack below."""
    sregs = vcpu.get_sregs()
    sregs.cs.selector, sregs.cs.base = 0, 0
    vcpu.set_sregs(sregs)
    regs = {"rip": entry.ip, "rsp": entry.ip, "rdx": entry.dl, "rflags": 0x2}
    vcpu.set_regs(ffi.new("struct kvm_regs *", regs))


def _set_apic_id(cpuid: Any, number: int) -> None:
    """Set the processor's own number in its CPUID, which KVM leaves to its users."""
    for i in range(cpuid.nent):
        entry = cpuid.entries[i]
        if entry.function == 1:
            entry.ebx = entry.ebx & 0xFFFFFF | (number & 0xFF) << 24
        elif entry.function in APIC_ID_LEAVES:
            entry.edx = number


def _hide_virtualization(cpuid: Any) -> None:
    """Hide VMX and SVM: the state of nested guests is not saved."""
    for i in range(cpuid.nent):
        entry = cpuid.entries[i]
        if entry.function in VIRTUALIZATION:
            entry.ecx &= ~VIRTUALIZATION[entry.function]


class KvmAccelerator:
    """An accelerator that runs vCPUs on KVM, with a dirty ring each if `dirty_ring_size` is not 0.

    Raises:
        AcceleratorError: KVM, or a feature that the options need, is not available.
    """

    name = "kvm"

    def __init__(self, ram: Ram, options: AccelOptions) -> None:
        self.dirty_ring_size = options.dirty_ring_size
        self._ram = ram
        self.statistics: Statistics | None = None
        self._state = State([], [])
        self._first: dict[str, Any] = {}  # the initial state
        self._open: list[Any] = []  # closed by close(), last first
        self.engine: Engine
        if (machine := os.uname().machine) != "x86_64":
            raise AcceleratorError(f"KVM is used on x86-64 only, this is {machine}")
        try:
            self._kvm = self._keep(Kvm())
        except OSError as error:
            raise AcceleratorError(
                f"Could not access KVM kernel module: {error.strerror}"
            ) from error
        try:
            self._create_vm(options)
        except OSError as error:
            self.close()
            raise AcceleratorError(error.strerror) from error
        except BaseException:
            self.close()
            raise

    def _keep(self, resource: Any) -> Any:
        self._open.append(resource)
        return resource

    def _create_vm(self, options: AccelOptions) -> None:
        kvm = self._kvm
        self._check("KVM_CAP_USER_MEMORY", lib.KVM_CAP_USER_MEMORY)
        self._check("KVM_CAP_IMMEDIATE_EXIT", lib.KVM_CAP_IMMEDIATE_EXIT)
        self._check("KVM_CAP_EXT_CPUID", lib.KVM_CAP_EXT_CPUID)
        self._vm = self._keep(kvm.create_vm())
        if self.dirty_ring_size:
            self._enable_dirty_ring()
        # Without it, a triple fault left pending by a kick would survive the reset.
        if kvm.check_extension(lib.KVM_CAP_X86_TRIPLE_FAULT_EVENT):
            self._vm.enable_cap(lib.KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1)
        self._vm.set_identity_map_addr(IDENTITY_MAP_ADDRESS)
        self._vm.set_tss_addr(TSS_ADDRESS)
        self._set_regions()
        self._vcpu_fds: list[VcpuFd] = []
        self.clock_hz = self._vm.get_tsc_khz() * 1000
        self.engine = Engine(self._ram, self._vm.fd, options.reaper, options.dirty_limit)

    def _check(self, name: str, capability: int, why: str = "") -> None:
        if not self._kvm.check_extension(capability):
            raise AcceleratorError(f"kvm does not support {name}{why}")

    def _enable_dirty_ring(self) -> None:
        """Enable the dirty ring; KVM requires this before the first vCPU."""
        for capability in (lib.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, lib.KVM_CAP_DIRTY_LOG_RING):
            largest = self._kvm.check_extension(capability)
            if largest:
                break
        else:
            raise AcceleratorError(
                "KVM dirty ring is not available on this kernel (KVM_CAP_DIRTY_LOG_RING); "
                "leave dirty-ring-size out, or use -accel soft"
            )
        size = self.dirty_ring_size * ENTRY_SIZE
        if size > largest:
            raise AcceleratorError(
                f"KVM dirty ring size {self.dirty_ring_size} too big "
                f"(maximum is {largest // ENTRY_SIZE}).  Please use a smaller value."
            )
        try:
            self._vm.enable_cap(capability, size)
        except OSError as error:
            raise AcceleratorError(
                f"Enabling of KVM dirty ring failed: {error.strerror}. "
                f"Suggested minimum value is {SUGGESTED_RING_SIZE}."
            ) from error

    def _set_regions(self) -> None:
        base = int(ffi.cast("uintptr_t", self._ram.address))
        for number, slot in enumerate(self._ram.slots):
            self._vm.set_user_memory_region(
                number, 0, slot.gpa, slot.pages * 4096, base + slot.ram_page * 4096
            )

    def add_vcpus(self, guest: Guest, count: int) -> None:
        """Create `count` vCPUs, each at its entry of `guest`.

        Raises:
            AcceleratorError: KVM does not support so many vCPUs, or the guest's firmware.
            OSError: KVM refused a vCPU.
        """
        most = self._kvm.check_extension(lib.KVM_CAP_MAX_VCPUS)
        if self.dirty_ring_size:
            most -= 1  # the canary is a vCPU too
        if count > most:
            raise AcceleratorError(
                f"Number of SMP cpus requested ({count}) exceeds the maximum cpus "
                f"supported by KVM ({most})"
            )
        if guest.rom is not None:
            if count > MAX_PC_VCPUS:
                raise AcceleratorError(
                    f"-bios runs 1 to {MAX_PC_VCPUS} vCPUs, not {count}: "
                    "8-bit APIC IDs allow no more"
                )
            self._check("KVM_CAP_IRQCHIP", lib.KVM_CAP_IRQCHIP, ", which -bios and -drive need")
            if guest.rom:
                self._show_rom(guest.rom)
            self._vm.create_irqchip()
        run_size = self._kvm.get_vcpu_mmap_size()
        cpuid = self._kvm.get_supported_cpuid()
        _hide_virtualization(cpuid)
        for index in range(count):
            vcpu = self._keep(self._vm.create_vcpu(index))
            self._vcpu_fds.append(vcpu)
            _set_apic_id(cpuid, index)
            vcpu.set_cpuid2(cpuid)
            entry = guest.entry(index)
            if isinstance(entry, Entry):
                _enter_user_mode(vcpu, entry)
            elif entry is not None:
                _enter_real_mode(vcpu, entry)
            run = self._keep_pointer(self._keep(vcpu.map_run(run_size)))
            ring = (
                self._keep_pointer(self._keep(vcpu.map_ring(self.dirty_ring_size)))
                if self.dirty_ring_size
                else ffi.NULL
            )
            self.engine.add_kvm_vcpu(vcpu.fd, run, ring, self.dirty_ring_size)
        self._state = self._make_state(cpuid, irqchip=guest.rom is not None)
        self._first = self.save_state()
        if self.dirty_ring_size:
            self._add_canary(count)
        self._open_statistics()

    def _make_state(self, cpuid: Any, *, irqchip: bool) -> State:
        vm, vcpus = components(
            self._vm.ioctl,
            [vcpu.ioctl for vcpu in self._vcpu_fds],
            cpuid,
            self._kvm.get_msr_index_list(),
            irqchip=irqchip,
        )
        threads = [Thread(self.engine, index) for index in range(len(vcpus))]
        return State(vm, [[*vcpu, thread] for vcpu, thread in zip(vcpus, threads, strict=True)])

    def _add_canary(self, index: int) -> None:
        """Add the canary, whose ring shows whether a ring reset was complete (`native/dirtylog.c`).

        It is created last, because KVM resets rings in the order of creation. It never runs, and
        it gets no interrupts, because its local APIC is disabled.
        """
        vcpu = self._keep(self._vm.create_vcpu(index))
        sregs = vcpu.get_sregs()
        sregs.apic_base = 0
        vcpu.set_sregs(sregs)
        page = self._keep_pointer(self._keep(mmap.mmap(-1, mmap.PAGESIZE)))
        address = self._show_canary(int(ffi.cast("uintptr_t", page)))
        ring = self._keep_pointer(self._keep(vcpu.map_ring(self.dirty_ring_size)))
        try:
            self.engine.add_kvm_canary(vcpu.fd, address, ring, self.dirty_ring_size)
        except OSError as error:
            log.warning("resets of dirty rings that are cut short may go unnoticed: %s", error)

    def _show_canary(self, page: int) -> int:
        """Map the canary's page in a slot of its own, always logged; return its address."""
        number = len(self._ram.slots) + 1  # the number before is reserved for a ROM
        for address in CANARY_ADDRESSES:
            try:
                self._vm.set_user_memory_region(
                    number, lib.KVM_MEM_LOG_DIRTY_PAGES, address, mmap.PAGESIZE, page
                )
            except OSError as error:
                refused = error
            else:
                return address
        raise refused

    def _show_rom(self, rom: bytes) -> None:
        """Map the firmware below 4 GiB."""
        self._check("KVM_CAP_READONLY_MEM", lib.KVM_CAP_READONLY_MEM, ", which -bios needs")
        mapping = self._keep(mmap.mmap(-1, len(rom)))
        mapping[:] = rom
        pointer = self._keep_pointer(mapping)
        address = int(ffi.cast("uintptr_t", pointer))
        number = len(self._ram.slots)  # the rings never name it: it cannot be written to
        self._vm.set_user_memory_region(
            number, lib.KVM_MEM_READONLY, ROM_END - len(rom), len(rom), address
        )

    def _open_statistics(self) -> None:
        """Open the statistics files before the vCPUs run.

        KVM_GET_STATS_FD takes a lock that KVM_RUN holds; reading takes none.
        """
        if not self._kvm.check_extension(lib.KVM_CAP_BINARY_STATS_FD):
            return
        vm = self._keep(self._vm.get_stats_fd()).fd
        vcpus = [self._keep(vcpu.get_stats_fd()).fd for vcpu in self._vcpu_fds]
        layout = KvmLayout(vcpus[0])
        self.statistics = Statistics(
            "kvm", KvmStats(vm, KvmLayout(vm)), [KvmStats(fd, layout) for fd in vcpus]
        )

    def save_state(self) -> dict[str, Any]:
        """Return the state of the VM and its vCPUs; all must have stopped."""
        return self._state.save()

    def load_state(self, state: object) -> None:
        """Load a result of `save_state`; all vCPUs must have stopped.

        Raises:
            ValueError: The state does not fit; nothing has changed.
        """
        self._state.load(state)

    def read_clock(self) -> int:
        """Return the first vCPU's time stamp counter; all must have stopped."""
        return read_tsc(self._vcpu_fds[0].ioctl) if self._vcpu_fds else 0

    def reset_vcpus(self) -> None:
        """Restore the initial state of every vCPU; all must have stopped."""
        self._first["vm"]["realtime"] = time.time_ns()  # their clocks begin anew
        self.engine.reset_serial()
        self.load_state(self._first)

    def _keep_pointer(self, mapping: mmap.mmap) -> Any:
        pointer = ffi.from_buffer(mapping)
        self._open.append(_Exported(pointer))
        return pointer

    def get_dirty_log(self) -> bytearray:
        """Return and clear the log of dirty pages. Blocks; any thread may call it."""
        log = bytearray((self._ram.pages + 63) // 64 * 8)
        words = ffi.from_buffer("uint64_t[]", log)
        for number, slot in enumerate(self._ram.slots):
            self._vm.get_dirty_log(number, words + slot.ram_page // 64)
        return log

    def close(self) -> None:
        """End all threads, then close all mappings and descriptors, in reverse order."""
        if hasattr(self, "engine"):
            self.engine.close()
        while self._open:
            self._open.pop().close()


class _Exported:
    """A pointer into a mapping, which cannot be unmapped while the pointer exists."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer

    def close(self) -> None:
        ffi.release(self._pointer)
