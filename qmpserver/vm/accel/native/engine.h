/*
 * The engine: the native threads that run vCPUs, pace them and reap their dirty rings, and the memory that
 * they share with Python.
 *
 * Python (one thread: the event loop's) makes an engine, writes requests and reads counters; the native
 * threads never wait for it. An arrow points to the files that a file calls:
 *
 *   engine.c     makes, starts, stops and frees it all             -> all below
 *   vcpu.c       the vCPUs' threads: run, throttle, park           -> dirtylog, kick
 *   limit.c      puts the dirty limit in and out of service        -> reaper, kick
 *   reaper.c     the reaper's thread and its kick                  -> dirtylog, kick, schedule
 *   dirtylog.c   harvest, reset, bitmap; overflows and cut resets  -> kick, protection
 *   protection.c which pages stay writable until they are sent     -> no other file
 *   kick.c       kicks, waits for exits, notifications             -> no other file
 *   kvm.c        the accelerator KVM                               -> no other file
 *   soft.c       the software accelerator                          -> kick
 *   schedule.c   requests to the scheduler                         -> no other file
 *
 * The accelerators are called through the table in accel.h.
 */
#ifndef QMPSERVER_ENGINE_H
#define QMPSERVER_ENGINE_H

#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#include "accel.h"
#include "atomics.h"
#include "clock.h"
#include "dirtylog.h"
#include "kick.h"
#include "kvm.h"
#include "limit.h"
#include "memory.h"
#include "protection.h"
#include "reaper.h"
#include "schedule.h"
#include "soft.h"
#include "trace.h"
#include "uart.h"
#include "vcpu.h"

/* cdef begin */
struct engine {
	/* requests */
	uint32_t stopped;
	uint32_t quit;
	uint32_t cpu_throttle; /* the percentage of their time for which vCPUs without a limit are held, 0 to 99 */
	struct limit_service limit;

	uint32_t nvcpus;
	struct vcpu **vcpus;
	struct memory memory;
	int notify_fd; /* eventfd: a vCPU changed to PARKED, HALTED or FAILED, or its ring overflowed */

	struct reaper reaper;
	struct dirty_log log;
	struct protection protection;
	uint32_t waiting_for_exits; /* threads in wait_for_exits() */

	const struct accel_ops *ops;
	struct kvm_vm kvm;
	struct soft_vm *soft;
	struct uart uart;
	uint32_t controller_kind; /* enum controller_kind */
	uint32_t started;
	sem_t initialized; /* posted by each vCPU's thread */
};

/*
 * An engine over `ram_pages` pages of RAM, with a reaper of the given mode, limits held by controllers of the
 * given kind, and no vCPUs yet. Exactly one of vm_fd (KVM) and the software accelerator (vm_fd = -1) executes.
 * NULL and errno on failure.
 */
struct engine *engine_new(int vm_fd, uint8_t *ram, uint64_t ram_pages, enum reaper_mode mode,
			  enum controller_kind controller);

/* RAM for the guest-physical range at `gpa`; slots are numbered in the order of adding. 0, or -1 and errno. */
int engine_add_slot(struct engine *engine, uint64_t gpa, uint64_t ram_page, uint64_t pages);

/* A vCPU; for KVM its descriptor, mapped kvm_run, and mapped ring (NULL and 0: none). 0, or -1 and errno. */
int engine_add_kvm_vcpu(struct engine *engine, int fd, void *run, void *ring, uint32_t ring_size);
/* Of the software accelerator; `control_gpa` NO_GUEST: it executes nothing. */
int engine_add_soft_vcpu(struct engine *engine, uint64_t control_gpa, uint32_t ring_size);

/*
 * The canary (see dirtylog.c): a vCPU of KVM's that was created last and will never run, its ring, and the
 * address of a page that is logged. 0, or -1 and errno.
 */
int engine_add_kvm_canary(struct engine *engine, int fd, uint64_t gpa, void *ring, uint32_t ring_size);

/*
 * Start the threads, from the one that will steer; the machine as `stopped` says. Once. When it returns 0, each
 * thread has all that it needs; else it is an errno value, and no thread is left.
 */
int engine_start(struct engine *engine, bool stopped);

/* Have every vCPU leave the guest and park, or run on. Returns at once; notify_fd tells of parking. */
void engine_stop(struct engine *engine);
void engine_cont(struct engine *engine);
uint32_t engine_count(struct engine *engine, enum vcpu_state state);

/*
 * Set the state of a vCPU's thread after its registers were set: PARKED, HALTED or FAILED, and the reason of the
 * latter two. All vCPUs must be stopped, and in one of these states.
 */
void engine_set_vcpu_state(struct engine *engine, uint32_t index, enum vcpu_state state, uint32_t exit_reason);

/* Write the result of vcpu_pages() for each vCPU to `pages`. One thread at a time: Python's. */
void engine_pages(struct engine *engine, uint64_t *pages);

/* End all threads and free everything. Blocks until they have ended. */
void engine_free(struct engine *engine);
/* cdef end */

/* The limit that a vCPU is held to now, in MB/s; 0: none. */
static inline uint64_t limit_of(const struct vcpu *vcpu)
{
	return limit_in_force(&vcpu->engine->limit) ? load_acquire(&vcpu->limit) : 0;
}

#endif
