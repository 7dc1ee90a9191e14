/*
 * Trace events of the native threads: written into one queue that never makes a writer wait, read by Python.
 * Meanings and texts of the events are in qmpserver/vm/trace/events.py.
 */
#ifndef QMPSERVER_TRACE_H
#define QMPSERVER_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "atomics.h"
#include "clock.h"

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
	TRACE_MIGRATE_SET_STATE,
	TRACE_MIGRATION_BITMAP_SYNC_END,
	TRACE_EVENTS /* their number */
};

#define TRACE_ARGS 3
#define TRACE_RECORDS 16384 /* 1 MiB */

struct trace_record {
	uint64_t lap;      /* even: free; odd: written; each lap of the queue adds 2 */
	uint64_t start_ns; /* CLOCK_MONOTONIC */
	uint64_t duration_ns;
	int32_t tid;
	uint32_t event;
	uint64_t args[TRACE_ARGS];
};

/* Record the events that have their bit set, and no others. Any thread. */
void trace_enable(uint32_t events);

/* Record an event that happens now in Python, if it is enabled. */
void trace_python(enum trace_event event, uint64_t arg0);

/* Take up to `count` records out of the queue, oldest first. One thread at a time. Return their number. */
uint32_t trace_take(struct trace_record *records, uint32_t count);

/* Return how many records were dropped since the process began, because the queue was full. Any thread. */
uint64_t trace_dropped(void);

/* Write a record, whether enabled or not. Any thread. */
void trace_write(enum trace_event event, uint64_t start_ns, uint64_t duration_ns, uint64_t arg0,
		 uint64_t arg1, uint64_t arg2);
/* cdef end */

extern uint32_t trace_enabled;

/* Return whether the event is enabled: one load that is nearly always in the cache, and a branch never taken. */
static inline bool tracing(enum trace_event event)
{
	return __builtin_expect(load_relaxed(&trace_enabled) & 1u << event, 0);
}

/* Record an event that happens now, if it is enabled. */
static inline void trace_now(enum trace_event event, uint64_t arg0, uint64_t arg1, uint64_t arg2)
{
	if (tracing(event))
		trace_write(event, now_ns(), 0, arg0, arg1, arg2);
}

/* Return the time if the event is enabled; else 0, and trace_since() will not record it. */
static inline uint64_t trace_start(enum trace_event event)
{
	return tracing(event) ? now_ns() : 0;
}

/* Record an event that has lasted since `from`, if it was enabled then and is now. */
static inline void trace_since(enum trace_event event, uint64_t from, uint64_t arg0, uint64_t arg1)
{
	if (from && tracing(event))
		trace_write(event, from, now_ns() - from, arg0, arg1, 0);
}

#endif
