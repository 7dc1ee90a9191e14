/*
 * Trace events of the native threads: written into one ring that never makes a writer wait, read by Python.
 * What each event means, and its text, is in qmpserver/vm/trace/events.py.
 */
#ifndef QMPSERVER_TRACE_H
#define QMPSERVER_TRACE_H

#include <stdbool.h>
#include <stdint.h>

/* cdef begin */
enum trace_event {
	TRACE_KVM_RUN_EXIT,
	TRACE_KVM_DIRTY_RING_FULL,
	TRACE_KVM_DIRTY_RING_REAP_VCPU,
	TRACE_KVM_DIRTY_RING_REAP,
	TRACE_KVM_DIRTY_RING_REAPER,
	TRACE_KVM_DIRTY_RING_REAPER_KICK,
	TRACE_KVM_DIRTY_RING_FLUSH,
	TRACE_DIRTYLIMIT_STATE_INITIALIZE,
	TRACE_DIRTYLIMIT_STATE_FINALIZE,
	TRACE_DIRTYLIMIT_THROTTLE_PCT,
	TRACE_DIRTYLIMIT_SET_VCPU,
	TRACE_DIRTYLIMIT_VCPU_EXECUTE,
	TRACE_EVENTS /* how many there are */
};

#define TRACE_ARGS 3
#define TRACE_RECORDS 16384 /* 1 MiB */

struct trace_record {
	uint64_t turn;     /* even: free; odd: written; each lap of the ring adds 2 */
	uint64_t start_ns; /* CLOCK_MONOTONIC */
	uint64_t duration_ns;
	int32_t tid;
	uint32_t event;
	uint64_t args[TRACE_ARGS];
};

/* Record the events that have their bit set, and no others. Any thread. */
void trace_enable(uint32_t events);

/* Take up to `count` records out of the ring, oldest first. One thread at a time. Returns how many. */
uint32_t trace_take(struct trace_record *records, uint32_t count);

/* How many records were dropped, for the ring was full, since the process began. Any thread. */
uint64_t trace_dropped(void);

/* Write a record, whether enabled or not. Any thread. */
void trace_write(enum trace_event event, uint64_t start_ns, uint64_t duration_ns, uint64_t arg0,
		 uint64_t arg1, uint64_t arg2);
/* cdef end */

extern uint32_t trace_enabled;

/* Whether the event is asked for: one load that is nearly always in the cache, and a branch never taken. */
static inline bool tracing(enum trace_event event)
{
	return __builtin_expect(__atomic_load_n(&trace_enabled, __ATOMIC_RELAXED) & 1u << event, 0);
}

#endif
