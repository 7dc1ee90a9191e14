"""Python's side of `struct engine`: requests go in, counters come out.

No method blocks unless its description says that it does.
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

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


class VcpuCounters(NamedTuple):
    """Counters of a vCPU's thread. Times are in ns, points in time on `CLOCK_MONOTONIC`."""

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


class ReaperCounters(NamedTuple):
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
    """The native threads and the memory that they share with Python.

    All methods belong to the event loop's thread, except `reap`, `take_bitmap`, `soft_take_log`,
    `set_tracking` and `defer_protection`, which any thread may call, and those that get or set the
    state of stopped vCPUs: any thread, one at a time.
    """

    def __init__(self, ram: Ram, vm_fd: int, reaper: ReaperMode, controller: Controller) -> None:
        """Create an engine for `ram`; `vm_fd` is KVM's VM, or -1 for the software accelerator.

        Raises:
            OSError: Memory or a file descriptor is not available.
        """
        self._ram = ram  # keeps the mapping alive, which the threads use
        modes = {"event": lib.REAPER_EVENT, "poll": lib.REAPER_POLL}
        controllers = {"pacer": lib.CONTROLLER_PACER, "qemu": lib.CONTROLLER_QEMU}
        self._ptr = lib.engine_new(
            vm_fd, ram.address, ram.pages, modes[reaper], controllers[controller]
        )
        if not self._ptr:
            raise OSError(ffi.errno, "cannot create the dirty-ring engine")
        for slot in ram.slots:
            if lib.engine_add_slot(self._ptr, slot.gpa, slot.ram_page, slot.pages) < 0:
                raise OSError(ffi.errno, "cannot add a memory slot")
        self._pages: Any = ffi.NULL

    def add_kvm_vcpu(self, fd: int, run: Any, ring: Any, ring_size: int) -> None:
        """Add a vCPU: its descriptor, its `kvm_run`, and its ring (NULL and 0: none)."""
        if lib.engine_add_kvm_vcpu(self._ptr, fd, run, ring, ring_size) < 0:
            raise OSError(ffi.errno, "cannot add a vCPU")

    def add_kvm_canary(self, fd: int, gpa: int, ring: Any, ring_size: int) -> None:
        """Add the canary, a vCPU that was created last and never runs; `gpa` is its page's address.

        Raises:
            OSError: KVM does not write to the page as expected.
        """
        if lib.engine_add_kvm_canary(self._ptr, fd, gpa, ring, ring_size) < 0:
            raise OSError(ffi.errno, "cannot add the canary")

    def set_serial(self, fd: int) -> None:
        """Write what guests send through the first serial port of a PC to `fd`, without blocking.

        Before `start`. The descriptor stays the caller's, open until the engine is closed.
        """
        self._ptr.uart.fd = fd

    def reset_serial(self) -> None:
        """Bring the serial port into its first state; all vCPUs must have stopped."""
        self._ptr.uart.line_control = 0

    def add_soft_vcpu(self, control_gpa: int, ring_size: int) -> None:
        """Add a vCPU of the software accelerator, whose guest's control block is at `control_gpa`.

        With `NO_GUEST` it executes nothing.

        Raises:
            OSError: There are too many vCPUs, or not enough memory.
        """
        if lib.engine_add_soft_vcpu(self._ptr, control_gpa, ring_size) < 0:
            raise OSError(ffi.errno, "cannot add a vCPU")

    def start(self, *, stopped: bool) -> None:
        """Start all threads; call it once.

        Raises:
            OSError: The kernel refused a thread or its timer; no thread is left running.
        """
        error = lib.engine_start(self._ptr, stopped)
        if error:
            raise OSError(
                f"cannot start the vCPU threads: {os.strerror(error)}; raise the limits of threads "
                "(pids.max, ulimit -u) and of pending signals (ulimit -i)"
            )

    def close(self) -> None:
        """End all threads and free what they share. Blocks until they have ended."""
        ptr, self._ptr = self._ptr, None  # a later call fails instead of using freed memory
        if ptr:
            lib.engine_free(ptr)

    @property
    def pointer(self) -> Any:
        """The `struct engine *`, for other native threads."""
        return self._ptr

    @property
    def vcpus(self) -> int:
        """The number of vCPUs."""
        return int(self._ptr.nvcpus)

    @property
    def notify_fd(self) -> int:
        """An eventfd, written when a vCPU parks, halts or fails, or an overrun ring is found."""
        return int(self._ptr.notify_fd)

    def stop(self) -> None:
        """Ask all vCPUs to park and return at once; `notify_fd` is written when one has parked."""
        lib.engine_stop(self._ptr)

    def cont(self) -> None:
        """Let all vCPUs run."""
        lib.engine_cont(self._ptr)

    def vcpu_state(self, index: int) -> tuple[VcpuState, int]:
        """Return the state of a vCPU's thread, and the exit reason of a halt or a failure."""
        vcpu = self._ptr.vcpus[index]
        return VcpuState(vcpu.state), int(vcpu.exit_reason)

    def set_vcpu_state(self, index: int, state: VcpuState, exit_reason: int) -> None:
        """Set the state in which a vCPU has stopped; all vCPUs must have stopped."""
        lib.engine_set_vcpu_state(self._ptr, index, state, exit_reason)

    def soft_state(self, index: int) -> Any:
        """Return a software vCPU's `struct soft_vcpu_state`; it must have stopped."""
        state = ffi.new("struct soft_vcpu_state *")
        lib.soft_get_state(self._ptr, index, state)
        return state

    def soft_set_state(self, index: int, state: Any) -> None:
        """Set a software vCPU's `struct soft_vcpu_state`; it must have stopped."""
        lib.soft_set_state(self._ptr, index, state)

    def mark_dirty(self, pages: range) -> None:
        """Mark RAM pages dirty that the host has written, if dirty pages are logged."""
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
        """Harvest and reset all rings, like a turn of the reaper; return the number of pages found.

        Blocks.
        """
        return int(lib.engine_reap(self._ptr))

    def take_bitmap(self) -> bytearray:
        """Return and clear the bitmap of dirty pages: one bit a page, lowest first.

        While dirty pages are logged, each page written before the call is in this bitmap or an
        earlier one, also if the guest runs. Blocks until each vCPU has left the guest once.
        """
        bitmap = bytearray((self._ram.pages + 63) // 64 * 8)
        lib.engine_take_bitmap(self._ptr, ffi.from_buffer("uint64_t[]", bitmap))
        return bitmap

    def set_tracking(self, on: bool) -> None:
        """Switch the log of dirty pages on or off, for all RAM.

        Blocks for milliseconds, without the GIL.

        Raises:
            OSError: The accelerator could not switch the log.
        """
        if lib.engine_set_tracking(self._ptr, on) < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno))

    def defer_protection(self, on: bool) -> None:
        """Leave pages writable that are found dirty, until a sender sends them.

        Such a page is reported once, and costs the guest no fault until then. Without rings, or on
        a KVM that has no canary, nothing is deferred. For one sender at a time, while dirty pages
        are logged. Ending it blocks for tens of milliseconds a GiB, without the GIL.
        """
        lib.engine_defer_protection(self._ptr, on)

    @property
    def defers_protection(self) -> bool:
        """Whether pages are left writable until they are sent."""
        return bool(self._ptr.protection.deferred)

    def soft_take_log(self) -> bytearray:
        """Return and clear the software accelerator's log of dirty pages, used without rings.

        Blocks until stores in progress have ended.
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
    def resets(self) -> int:
        """The number of resets of the rings that were asked of the accelerator."""
        return int(self._ptr.log.resets_begun)

    @property
    def reset_shortfalls(self) -> int:
        """The number of ring resets that ended early, including those that reported success."""
        return int(self._ptr.log.cut_resets)

    def limit_set(self, cpu_index: int | None, mb_per_s: int) -> None:
        """Limit the dirty rate of one vCPU, or of all, in MB/s; `limit_kick` must follow."""
        lib.limit_set(self._ptr, -1 if cpu_index is None else cpu_index, mb_per_s)

    def limit_cancel(self, cpu_index: int | None) -> None:
        """Cancel the limit of one vCPU, or of all; `limit_kick` must follow."""
        lib.limit_cancel(self._ptr, -1 if cpu_index is None else cpu_index)

    def limit_kick(self, cpu_index: int | None) -> None:
        """Wake the vCPUs whose limit has changed, and the reaper if no limit is left."""
        lib.limit_kick(self._ptr, -1 if cpu_index is None else cpu_index)

    def set_cpu_throttle(self, percentage: int) -> None:
        """Hold all vCPUs that have no dirty limit for 0 to 99 % of their time; 0 ends it."""
        self._ptr.cpu_throttle = percentage
        lib.kick_all(self._ptr)

    def limits(self) -> list[int]:
        """Return each vCPU's limit in MB/s, 0 for none."""
        return [int(self._ptr.vcpus[i].limit) for i in range(self.vcpus)]

    def pages(self) -> list[int]:
        """Return the number of pages that each vCPU has dirtied, with the pages in its ring."""
        if not self._pages:
            self._pages = ffi.new("uint64_t[]", self.vcpus)
        lib.engine_pages(self._ptr, self._pages)
        return list(ffi.unpack(self._pages, self.vcpus))

    def dirty_pages(self) -> int:
        """Return how many pages `take_bitmap` would find now, about; 0 without rings.

        A page counts once, however often it was stored to; one that two vCPUs stored to may count
        twice. All of RAM if pages may have been missed, which are all marked then. Blocks for
        microseconds.
        """
        return int(lib.engine_dirty_pages(self._ptr))

    def thread_ids(self) -> list[int]:
        """Return the kernel's thread id of each vCPU."""
        return [int(self._ptr.vcpus[i].tid) for i in range(self.vcpus)]

    def vcpu(self, index: int) -> VcpuCounters:
        """Return one vCPU's counters."""
        vcpu = self._ptr.vcpus[index]
        harvested = vcpu.ring.fetch  # read before all pages, or `waiting` could be negative
        return VcpuCounters(
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
        """Return the reaper's counters."""
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
