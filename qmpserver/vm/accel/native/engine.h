/*
 * The engine: the native threads that run vCPUs, pace them and reap their dirty rings, and the memory that
 * they share with Python.
 *
 * Python (one thread: the event loop's) makes an engine, writes the wishes and reads the counters; the
 * native threads never wait for it. Words that more than one thread writes or reads are accessed with
 * __atomic builtins; plain C types, because cffi reads this text too (between the cdef marks).
 *
 *   vcpu.c    the vCPU threads: run, exit, throttle wait, kick
 *   reaper.c  harvest and reset; the reaper thread
 *   limit.c   putting the dirty limit in and out of service
 *   kvm.c     KVM_RUN and KVM_RESET_DIRTY_RINGS
 *   schedule.c  what threads ask of the scheduler
 *   soft.c    the software accelerator: the same two without KVM
 */
#ifndef QMPSERVER_ENGINE_H
#define QMPSERVER_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "controller.h"
#include "ring.h"
#include "trace.h"

/* cdef begin */
#define ENGINE_MAX_SLOTS 4
#define WAKE_BUCKETS 33 /* the last takes all from 2.1 s on */

enum vcpu_state {
	VCPU_PARKED,    /* the machine is stopped */
	VCPU_RUNNING,
	VCPU_THROTTLED, /* waiting until what it dirtied is paid for */
	VCPU_HOLDING,   /* limited, and waiting for tracking to be on */
	VCPU_HALTED,    /* executed HLT with nothing that could wake it */
	VCPU_FAILED     /* see exit_reason */
};

enum reaper_mode { REAPER_EVENT, REAPER_POLL };

struct vcpu {
	/* wishes: written by Python, read by the vCPU's thread */
	uint32_t kicks;      /* the futex: moves with every kick */
	uint32_t limit_turn; /* moves with every change of `limit` */
	uint64_t limit;      /* MB/s; 0: none */

	/* what the thread says of itself */
	uint32_t in_guest; /* odd: in the guest; moves with each entry and exit */
	uint32_t state; /* enum vcpu_state */
	uint32_t exit_reason;
	int32_t tid;
	uint64_t full_exits;
	uint64_t throttle_ns;
	uint64_t throttle_count;
	uint64_t longest_pause_ns;
	uint64_t last_resume_ns; /* CLOCK_MONOTONIC at the end of the last throttle wait */

	uint64_t overflows; /* how often entries were found to be overwritten before their harvest */

	/* under reap_lock */
	uint32_t lost;      /* after an overflow: where the next entry is pushed to is not known */
	uint64_t full_fetch; /* ring.fetch when this vCPU last had its full ring reaped */

	/* private to the engine */
	int fd;
	uint32_t index;
	struct engine *engine;
	struct kvm_run *run;
	struct soft_vcpu *soft;
	struct ring ring;
	struct controller controller;
	pthread_t thread;
	timer_t look_timer;
};

struct reaper {
	uint32_t mode;    /* enum reaper_mode */
	uint32_t reaping; /* 1 during a turn */
	int kick_fd;      /* eventfd */
	int quit_fd;      /* eventfd: the engine ends; also ends a polling reaper's sleep */
	int32_t tid;
	uint64_t turns;
	uint64_t kicks;
	uint64_t wakes;           /* returns from the wait that a kick caused (poll: each return) */
	uint64_t coalesced_kicks; /* kicks that found an earlier one still waiting */
	uint64_t fallback_turns;  /* turns that no kick asked for */
	uint64_t last_kick_ns;    /* CLOCK_MONOTONIC, as all times here */
	uint64_t last_wake_ns;
	uint64_t last_idle_wake_ns; /* the last wake that found the limit out of service */
	/* Log2 histograms of ns, as KVM's: bucket 0 is for 0, bucket n for 2^(n-1) to 2^n - 1. */
	uint64_t kick_to_wake[WAKE_BUCKETS];   /* from the first of the kicks that a wake answers */
	uint64_t kick_to_wake_ns;              /* the sum of those times */
	uint64_t cancel_to_wake[WAKE_BUCKETS]; /* from the limit's going out of service */

	uint64_t first_kick_ns; /* of those not answered yet; 0: none */
	pthread_t thread;
};

/* A guest-physical range backed by RAM; its index is KVM's slot number. */
struct memslot {
	uint64_t gpa;
	uint64_t ram_page; /* the RAM page that its first page is */
	uint64_t pages;
};

struct engine {
	/* wishes */
	uint32_t stopped;
	uint32_t tracking; /* the accelerator logs dirty pages */
	uint32_t limit_quit;
	uint32_t limit_in_service;
	uint32_t quit;
	uint64_t last_cancel_ns;

	/* what is there */
	uint32_t nvcpus;
	uint32_t nslots;
	struct vcpu **vcpus;
	struct memslot slots[ENGINE_MAX_SLOTS];
	uint8_t *ram;
	uint64_t ram_pages;
	int notify_fd; /* eventfd: a vCPU changed to PARKED, HALTED or FAILED, or its ring overflowed */

	struct reaper reaper;

	/* under reap_lock; a bit is set before its entry's flag is released, read only after a reset */
	uint64_t *bitmap;
	uint64_t harvested;        /* since the rings were last reset */
	uint64_t reset_shortfalls; /* resets that freed fewer entries than were harvested */
	uint32_t distrusted;       /* some pages may be writable and not logged */
	pthread_mutex_t reap_lock;
	uint32_t waiting_for_exits; /* how many threads */

	int vm_fd;
	struct soft_vm *soft;
	uint32_t started;
	uint32_t controller_kind; /* enum controller_kind */
};

/*
 * An engine over `ram_pages` pages of RAM, with a reaper of the given mode, limits held by controllers of the
 * given kind, and no vCPUs yet. Exactly one of vm_fd (KVM) and the software accelerator (vm_fd = -1) executes.
 * NULL and errno on failure.
 */
struct engine *engine_new(int vm_fd, uint8_t *ram, uint64_t ram_pages, enum reaper_mode mode,
			  enum controller_kind controller);

/* RAM for the guest-physical range at `gpa`; slots are numbered in the order of adding. 0 or -1. */
int engine_add_slot(struct engine *engine, uint64_t gpa, uint64_t ram_page, uint64_t pages);

/* A vCPU; for KVM its descriptor, mapped kvm_run, and mapped ring (NULL and 0: none). 0 or -1 and errno. */
int engine_add_kvm_vcpu(struct engine *engine, int fd, void *run, void *ring, uint32_t ring_size);
int engine_add_soft_vcpu(struct engine *engine, uint64_t control_gpa, uint32_t ring_size);

/* Start the threads, from the one that will steer; the machine as `stopped` says. Once. 0, or an error. */
int engine_start(struct engine *engine, bool stopped);

/* Have every vCPU leave the guest and park, or run on. Returns at once; notify_fd tells of parking. */
void engine_stop(struct engine *engine);
void engine_cont(struct engine *engine);
uint32_t engine_count(struct engine *engine, enum vcpu_state state);

/*
 * After a reset of what the accelerator keeps of each vCPU: those that had halted or failed are parked
 * again, and the software accelerator's begin their guest anew. All vCPUs must be parked, halted or failed.
 */
void engine_reset(struct engine *engine);

/* The host has written to these pages of RAM: they are dirty, if dirty pages are logged. Any thread. */
void engine_mark_dirty(struct engine *engine, uint64_t ram_page, uint64_t pages);

/* End all threads and free everything. Blocks until they have ended. */
void engine_free(struct engine *engine);

/* Harvest all rings and reset them: what the reaper does in a turn. Any thread. Returns pages harvested. */
uint64_t engine_reap(struct engine *engine);

/*
 * Move the bits of all pages found dirty since the last call to `bitmap` (ram_pages bits, 64 to a word). While
 * tracking is on, every page stored to before the call is in this bitmap or in an earlier one, also when the
 * guest runs: hardware may keep what it logged to itself until the vCPU leaves the guest, so each is made to
 * leave it once. Read a page's content after the call that reported it. Any thread; blocks until the vCPUs left.
 */
void engine_take_bitmap(struct engine *engine, uint64_t *bitmap);

/*
 * Switch the log of dirty pages for all RAM; vCPUs that waited for it go on. Blocks for milliseconds, and
 * nobody reaps meanwhile. Any thread. 0, or -1 and errno.
 */
int engine_set_tracking(struct engine *engine, bool on);

/* The software accelerator's log where vCPUs have no rings: what KVM_GET_DIRTY_LOG does, for all RAM. */
void soft_take_log(struct engine *engine, uint64_t *bitmap);

/* Pages found dirty by each vCPU since it was made, with those that still wait in its ring. Any thread. */
void engine_pages(struct engine *engine, uint64_t *pages);
uint32_t vcpu_waiting(struct vcpu *vcpu);

void vcpu_kick(struct vcpu *vcpu);
void reaper_kick(struct engine *engine);

/* The dirty limit for one vCPU, or all of them with cpu_index -1; the caller has checked the index. */
void limit_set(struct engine *engine, int64_t cpu_index, uint64_t mb_per_s);
void limit_cancel(struct engine *engine, int64_t cpu_index);
/* To follow each of them: wake who waits for what has changed. */
void limit_kick(struct engine *engine, int64_t cpu_index);
/*
 * What real hardware and kernels do to rings at times, for tests, on the software accelerator. Any thread.
 * The next so many stores are made although the ring is full, as when KVM emulates a guest's ring-0 code.
 */
void soft_overrun(struct engine *engine, uint32_t stores);
/* The next reset of more than a few entries ends early and drops the pages that it was gathering, as when a signal is pending. */
void soft_interrupt_reset(struct engine *engine);
/* Before the start: log pages in a buffer first, which is emptied when it is full or the vCPU exits (Intel PML). */
void soft_buffer_log(struct engine *engine);
/* cdef end */

/* How a stay in the guest ended. */
enum vcpu_exit { EXIT_KICKED, EXIT_RING_FULL, EXIT_HALTED, EXIT_FAILED };

/* Stay in the guest until kicked (kicks != seen), until the time `until` (0: no limit), or an exit. */
enum vcpu_exit kvm_run(struct vcpu *vcpu, uint32_t seen, uint64_t until);
enum vcpu_exit soft_run(struct vcpu *vcpu, uint32_t seen, uint64_t until);

int kvm_thread_init(struct vcpu *vcpu);
void kvm_thread_exit(struct vcpu *vcpu);
int kvm_install_kick(void);
void kvm_complete_io(struct vcpu *vcpu);
void kvm_signal(struct vcpu *vcpu);

/* Give harvested entries back. Returns how many pages were reset, or -1 and errno. */
int64_t kvm_reset_rings(struct engine *engine);
int64_t soft_reset_rings(struct engine *engine);

/* Log dirty pages of all RAM, protecting all of it, or do not. 0, or -1 and errno. */
int kvm_log_dirty_pages(struct engine *engine, bool on);
int soft_log_dirty_pages(struct engine *engine, bool on);

int soft_vcpu_init(struct vcpu *vcpu, uint64_t control_gpa, uint32_t ring_size);
int soft_new(struct engine *engine);
void soft_free(struct engine *engine);
void soft_vcpu_free(struct vcpu *vcpu);
void soft_vcpu_reset(struct vcpu *vcpu);

void engine_notify(struct engine *engine);
void ask_short_slice(void);
void ask_real_time(void);

void *vcpu_thread(void *opaque);
void *reaper_thread(void *opaque);
void reap_vcpu(struct vcpu *vcpu);
void vcpu_left_guest(struct vcpu *vcpu);
void kick_all(struct engine *engine);

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* Record an event that happens now, or that has lasted since `from`, if it is asked for. */
static inline void trace_now(enum trace_event event, uint64_t arg0, uint64_t arg1, uint64_t arg2)
{
	if (tracing(event))
		trace_write(event, now_ns(), 0, arg0, arg1, arg2);
}

/* When an event begins that is asked for; else 0, and it will not be recorded, even if asked for meanwhile. */
static inline uint64_t trace_start(enum trace_event event)
{
	return tracing(event) ? now_ns() : 0;
}

static inline void trace_since(enum trace_event event, uint64_t from, uint64_t arg0, uint64_t arg1)
{
	if (from && tracing(event))
		trace_write(event, from, now_ns() - from, arg0, arg1, 0);
}

#define load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)

#endif
