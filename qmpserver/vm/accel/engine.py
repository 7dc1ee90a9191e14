"""Python's side of `struct engine`: requests go in, counters come out.

No method blocks unless its description says that it does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from qmpserver.vm.accel.native._native import ffi, lib

if TYPE_CHECKING:
    from qmpserver.vm.accel.memory import Ram
    from qmpserver.vm.accel.options import Controller, ReaperMode


class VcpuState(IntEnum):
    """The state of a vCPU's thread."""

    PARKED = lib.VCPU_PARKED
    RUNNING = lib.VCPU_RUNNING
    THROTTLED = lib.VCPU_THROTTLED
    HOLDING = lib.VCPU_HOLDING
    HALTED = lib.VCPU_HALTED
    FAILED = lib.VCPU_FAILED


@dataclass(frozen=True, slots=True)
class VcpuCounters:
    """Counters of a vCPU's thread. Times are in ns, points in time on `CLOCK_MONOTONIC`."""

    index: int
    thread_id: int
    state: VcpuState
    exit_reason: int
    limit: int
    ring_size: int
    waiting: int
    harvested: int
    full_exits: int
    overflows: int
    throttle_time: int
    throttle_count: int
    longest_pause: int
    last_resume: int

    @property
    def throttled(self) -> bool:
        """Return whether the dirty limit makes it wait now."""
        return self.state in (VcpuState.THROTTLED, VcpuState.HOLDING)


@dataclass(frozen=True, slots=True)
class ReaperCounters:
    """Counters of the reaper's thread. Times are ns on `CLOCK_MONOTONIC`; 0 is never."""

    mode: ReaperMode
    thread_id: int
    reaping: bool
    turns: int
    kicks: int
    wakes: int
    coalesced_kicks: int
    fallback_turns: int
    last_kick: int
    last_wake: int
    last_idle_wake: int
    kick_to_wake_ns: int  # the sum of the times in the histogram
    kick_to_wake: list[int]  # log2 histograms of ns, as KVM's
    cancel_to_wake: list[int]


class Engine:
    """The native threads and what they share with Python.

    All methods belong to the event loop's thread, except `reap`, `take_bitmap`, `soft_take_log` and
    `set_tracking`, which any thread may call.
    """

    def __init__(self, ram: Ram, vm_fd: int, reaper: ReaperMode, controller: Controller) -> None:
        """Make an engine over `ram`; `vm_fd` is KVM's VM, or -1 for the software accelerator."""
        self._ram = ram  # keeps the mapping that the threads use
        modes = {"event": lib.REAPER_EVENT, "poll": lib.REAPER_POLL}
        controllers = {"pacer": lib.CONTROLLER_PACER, "qemu": lib.CONTROLLER_QEMU}
        self._ptr = lib.engine_new(
            vm_fd, ram.address, ram.pages, modes[reaper], controllers[controller]
        )
        if not self._ptr:
            raise OSError(ffi.errno, "cannot make the dirty-ring engine")
        for slot in ram.slots:
            if lib.engine_add_slot(self._ptr, slot.gpa, slot.ram_page, slot.pages) < 0:
                raise OSError(ffi.errno, "cannot add a memory slot")
        self._pages: Any = ffi.NULL

    def add_kvm_vcpu(self, fd: int, run: Any, ring: Any, ring_size: int) -> None:
        """Add a vCPU: its descriptor, its `kvm_run`, and its ring (NULL and 0: none)."""
        if lib.engine_add_kvm_vcpu(self._ptr, fd, run, ring, ring_size) < 0:
            raise OSError(ffi.errno, "cannot add a vCPU")

    def add_kvm_canary(self, fd: int, gpa: int, ring: Any, ring_size: int) -> None:
        """Add the canary: a vCPU that was created last and never runs, and its page's address.

        Raises:
            OSError: KVM does not write to the page as expected.
        """
        if lib.engine_add_kvm_canary(self._ptr, fd, gpa, ring, ring_size) < 0:
            raise OSError(ffi.errno, "cannot add the canary")

    def add_soft_vcpu(self, control_gpa: int, ring_size: int) -> None:
        """Add a vCPU of the software accelerator; its guest's control block is given."""
        if lib.engine_add_soft_vcpu(self._ptr, control_gpa, ring_size) < 0:
            raise OSError(ffi.errno, "cannot add a vCPU")

    def start(self, *, stopped: bool) -> None:
        """Start all threads. Once.

        Raises:
            OSError: A thread, or the timer that it needs, is refused; no thread is left.
        """
        error = lib.engine_start(self._ptr, stopped)
        if error:
            raise OSError(
                f"cannot start the vCPU threads: {os.strerror(error)}; raise the limits of threads "
                "(pids.max, ulimit -u) and of pending signals (ulimit -i)"
            )

    def close(self) -> None:
        """End all threads and free what they share. Blocks until they have ended."""
        ptr, self._ptr = self._ptr, None  # whoever comes too late gets an exception, not the memory
        if ptr:
            lib.engine_free(ptr)

    @property
    def vcpus(self) -> int:
        """The number of vCPUs."""
        return int(self._ptr.nvcpus)

    @property
    def notify_fd(self) -> int:
        """An eventfd: a vCPU has parked, halted or failed, or its ring was found overrun."""
        return int(self._ptr.notify_fd)

    def stop(self) -> None:
        """Ask all vCPUs to park. Returns at once; `notify_fd` tells when one has."""
        lib.engine_stop(self._ptr)

    def cont(self) -> None:
        """Let all vCPUs run."""
        lib.engine_cont(self._ptr)

    def restart_vcpus(self) -> None:
        """Park the vCPUs that halted or failed; the software accelerator's begin their guest anew.

        All vCPUs must have stopped.
        """
        lib.engine_restart_vcpus(self._ptr)

    def mark_dirty(self, pages: range) -> None:
        """Tell of RAM pages that the host has written to: dirty, if dirty pages are logged."""
        lib.engine_mark_dirty(self._ptr, pages.start, len(pages))

    @property
    def shut_down(self) -> bool:
        """Whether any vCPU ended in a triple fault."""
        return any(
            self._ptr.vcpus[i].state == lib.VCPU_FAILED
            and self._ptr.vcpus[i].exit_reason == lib.KVM_EXIT_SHUTDOWN
            for i in range(self.vcpus)
        )

    def count(self, state: VcpuState) -> int:
        """Return the number of vCPUs in `state`."""
        return int(lib.engine_count(self._ptr, state))

    def reap(self) -> int:
        """Harvest and reset all rings, as the reaper does in its turn. Return the pages found.

        Blocks.
        """
        return int(lib.engine_reap(self._ptr))

    def take_bitmap(self) -> bytearray:
        """Take the pages found dirty since the last call: a bit each, lowest first.

        While dirty pages are tracked, each page stored to before the call is in this bitmap or an
        earlier one, also when the guest runs. Blocks until each vCPU has left the guest once.
        """
        bitmap = bytearray((self._ram.pages + 63) // 64 * 8)
        lib.engine_take_bitmap(self._ptr, ffi.from_buffer("uint64_t[]", bitmap))
        return bitmap

    def set_tracking(self, on: bool) -> None:
        """Switch the log of dirty pages, of all RAM. Blocks for milliseconds, without the GIL.

        Raises:
            OSError: The accelerator could not switch it.
        """
        if lib.engine_set_tracking(self._ptr, on) < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno))

    def soft_take_log(self) -> bytearray:
        """Take the software accelerator's log, which it keeps where vCPUs have no rings.

        Blocks for the end of stores under way. Any thread.
        """
        bitmap = bytearray((self._ram.pages + 63) // 64 * 8)
        lib.soft_take_log(self._ptr, ffi.from_buffer("uint64_t[]", bitmap))
        return bitmap

    @property
    def tracking(self) -> bool:
        """Whether dirty pages are logged."""
        return bool(self._ptr.log.tracking)

    @property
    def limit_in_service(self) -> bool:
        """Whether any vCPU has a dirty limit."""
        return bool(self._ptr.limit.in_service)

    @property
    def last_cancel(self) -> int:
        """The time of the last cancel of any vCPU's limit: ns on `CLOCK_MONOTONIC`."""
        return int(self._ptr.limit.last_cancel_ns)

    @property
    def overflows(self) -> int:
        """The number of overflows of rings; `notify_fd` becomes readable when it grows."""
        return sum(int(self._ptr.vcpus[i].overflows) for i in range(self.vcpus))

    @property
    def reset_shortfalls(self) -> int:
        """The number of ring resets that were cut short, whatever they returned."""
        return int(self._ptr.log.cut_resets)

    def limit_set(self, cpu_index: int | None, mb_per_s: int) -> None:
        """Limit one vCPU, or all, to `mb_per_s` MB/s of dirtied pages; `limit_kick` must follow."""
        lib.limit_set(self._ptr, -1 if cpu_index is None else cpu_index, mb_per_s)

    def limit_cancel(self, cpu_index: int | None) -> None:
        """End the limit of one vCPU, or of all; `limit_kick` must follow."""
        lib.limit_cancel(self._ptr, -1 if cpu_index is None else cpu_index)

    def limit_kick(self, cpu_index: int | None) -> None:
        """Wake the vCPUs whose limit was changed, and the reaper if no limit is left."""
        lib.limit_kick(self._ptr, -1 if cpu_index is None else cpu_index)

    def limits(self) -> list[int]:
        """Return each vCPU's limit in MB/s, 0 for none."""
        return [int(self._ptr.vcpus[i].limit) for i in range(self.vcpus)]

    def pages(self) -> list[int]:
        """Pages each vCPU was found to dirty since it was made; those in its ring count."""
        if not self._pages:
            self._pages = ffi.new("uint64_t[]", self.vcpus)
        lib.engine_pages(self._ptr, self._pages)
        return list(ffi.unpack(self._pages, self.vcpus))

    def thread_ids(self) -> list[int]:
        """Return the kernel's id of each vCPU's thread."""
        return [int(self._ptr.vcpus[i].tid) for i in range(self.vcpus)]

    def vcpu(self, index: int) -> VcpuCounters:
        """Read one vCPU's counters."""
        vcpu = self._ptr.vcpus[index]
        harvested = vcpu.ring.fetch  # before all pages, or more could be harvested than there are
        return VcpuCounters(
            index=index,
            thread_id=vcpu.tid,
            state=VcpuState(vcpu.state),
            exit_reason=vcpu.exit_reason,
            limit=vcpu.limit,
            ring_size=vcpu.ring.size,
            waiting=lib.vcpu_pages(vcpu) - harvested,
            harvested=harvested,
            full_exits=vcpu.full_exits,
            overflows=vcpu.overflows,
            throttle_time=vcpu.throttle_ns,
            throttle_count=vcpu.throttle_count,
            longest_pause=vcpu.longest_pause_ns,
            last_resume=vcpu.last_resume_ns,
        )

    def reaper(self) -> ReaperCounters:
        """Read the reaper's counters."""
        reaper = self._ptr.reaper
        return ReaperCounters(
            mode="event" if reaper.mode == lib.REAPER_EVENT else "poll",
            thread_id=reaper.tid,
            reaping=bool(reaper.reaping),
            turns=reaper.turns,
            kicks=reaper.kicks,
            wakes=reaper.wakes,
            coalesced_kicks=reaper.coalesced_kicks,
            fallback_turns=reaper.fallback_turns,
            last_kick=reaper.last_kick_ns,
            last_wake=reaper.last_wake_ns,
            last_idle_wake=reaper.last_idle_wake_ns,
            kick_to_wake_ns=reaper.kick_to_wake_ns,
            kick_to_wake=list(reaper.kick_to_wake),
            cancel_to_wake=list(reaper.cancel_to_wake),
        )
