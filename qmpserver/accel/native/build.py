"""Builds the native data plane with cffi, in API mode.

KVM's structures come from the system's own ``linux/kvm.h``.
"""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
HEADERS = [
    "pacer.h",
    "qemu_throttle.h",
    "controller.h",
    "guest.h",
    "engine.h",
    "sample.h",
    "trace.h",
]
SOURCES = sorted(path.name for path in HERE.glob("[!_]*.c"))

# What the engine's structures hold of the C library, and what Python fills in of KVM's.
SYSTEM = """
int ioctl(int fd, unsigned long request, ...);

typedef struct { ...; } pthread_mutex_t;
typedef unsigned long pthread_t;
typedef void *timer_t;

struct kvm_dirty_gfn { uint32_t flags; uint32_t slot; uint64_t offset; ...; };
struct ring { struct kvm_dirty_gfn *entries; uint32_t size; uint64_t fetch; };
struct kvm_run { uint8_t immediate_exit; uint32_t exit_reason; ...; };

struct kvm_segment {
    uint64_t base; uint32_t limit; uint16_t selector;
    uint8_t type, present, dpl, db, s, l, g, avl; ...;
};
struct kvm_sregs {
    struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base; ...;
};
struct kvm_regs { uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, rip, rflags; ...; };
struct kvm_vcpu_events { ...; };
struct kvm_userspace_memory_region {
    uint32_t slot, flags; uint64_t guest_phys_addr, memory_size, userspace_addr; ...;
};
struct kvm_enable_cap { uint32_t cap; unsigned long long args[4]; ...; };

struct kvm_dirty_log { uint32_t slot; void *dirty_bitmap; ...; };

struct kvm_cpuid_entry2 { uint32_t function, ebx, edx; ...; };
struct kvm_cpuid2 { uint32_t nent; uint32_t padding; struct kvm_cpuid_entry2 entries[]; };

#define KVM_API_VERSION ...
#define KVM_GET_API_VERSION ...
#define KVM_CREATE_VM ...
#define KVM_CHECK_EXTENSION ...
#define KVM_GET_VCPU_MMAP_SIZE ...
#define KVM_GET_SUPPORTED_CPUID ...
#define KVM_ENABLE_CAP ...
#define KVM_SET_USER_MEMORY_REGION ...
#define KVM_SET_TSS_ADDR ...
#define KVM_SET_IDENTITY_MAP_ADDR ...
#define KVM_CREATE_IRQCHIP ...
#define KVM_CREATE_VCPU ...
#define KVM_GET_TSC_KHZ ...
#define KVM_GET_DIRTY_LOG ...
#define KVM_GET_STATS_FD ...
#define KVM_SET_CPUID2 ...
#define KVM_GET_SREGS ...
#define KVM_SET_SREGS ...
#define KVM_SET_REGS ...
#define KVM_SET_VCPU_EVENTS ...
#define KVM_EXIT_SHUTDOWN ...
#define KVM_MEM_READONLY ...
#define KVM_DIRTY_LOG_PAGE_OFFSET ...
#define KVM_CAP_USER_MEMORY ...
#define KVM_CAP_MAX_VCPUS ...
#define KVM_CAP_IRQCHIP ...
#define KVM_CAP_READONLY_MEM ...
#define KVM_CAP_IMMEDIATE_EXIT ...
#define KVM_CAP_EXT_CPUID ...
#define KVM_CAP_BINARY_STATS_FD ...
#define KVM_CAP_DIRTY_LOG_RING ...
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL ...
"""


def _declarations(header: str) -> str:
    """Return what `header` offers to Python: the text between its cdef marks."""
    text = (HERE / header).read_text()
    return text.split("/* cdef begin */")[1].split("/* cdef end */")[0]


ffibuilder = FFI()
ffibuilder.cdef(SYSTEM)
for _header in HEADERS:
    ffibuilder.cdef(_declarations(_header))
ffibuilder.set_source(
    "qmpserver.accel.native._native",
    "#include <linux/kvm.h>\n#include <sys/ioctl.h>\n"
    + "".join(f'#include "{header}"\n' for header in HEADERS),
    sources=[f"qmpserver/accel/native/{name}" for name in SOURCES],
    depends=[f"qmpserver/accel/native/{path.name}" for path in (*HERE.glob("*.h"), Path(__file__))],
    include_dirs=["qmpserver/accel/native"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"],
    py_limited_api=False,
)
