/* The software accelerator: construction, its log without rings, and faults for tests. */
#ifndef QMPSERVER_SOFT_H
#define QMPSERVER_SOFT_H

#include <stdint.h>

#include "guest.h"

struct engine;
struct vcpu;

/* cdef begin */
#define NO_GUEST 0xffffffffffffffff /* in place of the address of a control block */

/* The state of a vCPU, apart from the guest's memory. */
struct soft_vcpu_state {
	struct guest_dirty_state guest;
	uint64_t deadline; /* of the next store, on CLOCK_MONOTONIC, if the guest keeps a pace of its own */
};

/* Get or set a vCPU's state; it must have stopped, or not yet started. */
void soft_get_state(const struct engine *engine, uint32_t index, struct soft_vcpu_state *state);
void soft_set_state(struct engine *engine, uint32_t index, const struct soft_vcpu_state *state);

/* Move the log to `bitmap`, where vCPUs have no rings: what KVM_GET_DIRTY_LOG does, for all RAM. */
void soft_take_log(struct engine *engine, uint64_t *bitmap);

/*
 * What real hardware and kernels do to rings at times, for tests, on the software accelerator. Any thread.
 * The next so many stores are made although the ring is full, as when KVM emulates a guest's ring-0 code.
 */
void soft_overrun(struct engine *engine, uint32_t stores);
/* The next reset of more than a few entries ends early and drops the pages that it was gathering, as when a signal is pending. */
void soft_interrupt_reset(struct engine *engine);
/* The next reset that finds an entry returns the full count but leaves the last batch of pages writable, as when
   Linux 6.16 or newer is stopped at the end of its loop. */
void soft_cut_reset(struct engine *engine);
/* Before the start: log pages in a buffer first, which is emptied when it is full or the vCPU exits (Intel PML). */
void soft_buffer_log(struct engine *engine);
/* cdef end */

int soft_new(struct engine *engine);
int soft_vcpu_init(struct vcpu *vcpu, uint64_t control_gpa, uint32_t ring_size);

#endif
