/* A vCPU: requests to it, its thread, and the thread's counters. */
#ifndef QMPSERVER_VCPU_H
#define QMPSERVER_VCPU_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "accel.h"
#include "controller.h"
#include "kick.h"
#include "ring.h"

/* cdef begin */
enum vcpu_state {
	VCPU_PARKED,    /* the machine is stopped */
	VCPU_RUNNING,
	VCPU_THROTTLED, /* waits until the pages that it dirtied are paid for */
	VCPU_HOLDING,   /* limited, and waits for the dirty log to be on */
	VCPU_HALTED,    /* executed HLT with nothing that could wake it */
	VCPU_FAILED     /* see exit_reason */
};

struct vcpu {
	/* requests: written by Python, read by the vCPU's thread */
	struct kick kick;
	uint64_t limit; /* MB/s; 0: none */

	/* the thread's counters */
	uint32_t state; /* enum vcpu_state */
	uint32_t exit_reason;
	int32_t tid;
	uint64_t full_exits;
	uint64_t throttle_ns;
	uint64_t throttle_count;
	uint64_t longest_pause_ns;
	uint64_t last_resume_ns; /* at the end of the last throttle wait */

	uint64_t overflows; /* how often entries were found to be overwritten before their harvest */

	/* the dirty log's: dirtylog.c has the meaning */
	pthread_mutex_t ring_lock;
	uint32_t side;       /* of the bitmap, which its pages are marked on */
	uint64_t marked;     /* bits that its harvests have set on that side */
	uint32_t astray;     /* after an overflow: the place of the next push is not known */
	uint64_t reset_due;  /* the number of the reset that its released entries wait for */
	uint64_t reset_from; /* the entries from this index ... */
	uint64_t reset_to;   /* ... to this one were released when the last reset began */
	uint64_t full_fetch; /* ring.fetch when this vCPU last had its full ring reaped */

	/* private to the engine */
	int fd;
	uint32_t index;
	struct engine *engine;
	struct kvm_run *run;
	struct soft_vcpu *soft;
	struct ring ring;
	uint64_t pages_seen; /* the last result of vcpu_pages() */
	struct controller controller;
	pthread_t thread;
	int thread_error; /* of its initialization; 0, or an errno value */
	timer_t look_timer;
};

/*
 * Return how many pages the vCPU was found to dirty since it was made, with those that still wait in its ring.
 * The count never goes back. One thread at a time: Python's.
 */
uint64_t vcpu_pages(struct vcpu *vcpu);
/* cdef end */

void *vcpu_thread(void *opaque);

#endif
