/*
 * A bounded queue of many writers and one reader, after Dmitry Vyukov's: each record carries the lap it is
 * in. A writer owns a place by moving `head` past it, and the reader sees by the lap that it is filled. No thread
 * waits for another; a writer that finds the queue full counts a dropped record.
 */
#define _GNU_SOURCE
#include "trace.h"

#include <sys/syscall.h>
#include <unistd.h>

static struct trace_record queue[TRACE_RECORDS];
static uint64_t head;
static uint64_t tail; /* the reader's own */
static uint64_t dropped;

uint32_t trace_enabled;

static __thread int32_t thread_id;

void trace_enable(uint32_t events)
{
	store_relaxed(&trace_enabled, events);
}

uint64_t trace_dropped(void)
{
	return load_relaxed(&dropped);
}

void trace_write(enum trace_event event, uint64_t start_ns, uint64_t duration_ns, uint64_t arg0,
		 uint64_t arg1, uint64_t arg2)
{
	uint64_t place = load_relaxed(&head);
	struct trace_record *record;

	for (;;) {
		uint64_t lap, wanted = place / TRACE_RECORDS * 2;

		record = &queue[place % TRACE_RECORDS];
		lap = load_acquire(&record->lap);
		if (lap < wanted) { /* the reader has not been here since the last lap */
			add_relaxed(&dropped, 1);
			return;
		}
		if (lap == wanted && __atomic_compare_exchange_n(&head, &place, place + 1, true,
								  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			break;
		if (lap != wanted)
			place = load_relaxed(&head);
	}
	if (!thread_id)
		thread_id = (int32_t)syscall(SYS_gettid);
	record->start_ns = start_ns;
	record->duration_ns = duration_ns;
	record->tid = thread_id;
	record->event = event;
	record->args[0] = arg0;
	record->args[1] = arg1;
	record->args[2] = arg2;
	store_release(&record->lap, place / TRACE_RECORDS * 2 + 1);
}

void trace_python(enum trace_event event, uint64_t arg0)
{
	trace_now(event, arg0, 0, 0);
}

uint32_t trace_take(struct trace_record *records, uint32_t count)
{
	uint32_t taken = 0;

	for (; taken < count; taken++, tail++) {
		struct trace_record *record = &queue[tail % TRACE_RECORDS];
		uint64_t lap = tail / TRACE_RECORDS * 2;

		if (load_acquire(&record->lap) != lap + 1)
			break;
		records[taken] = *record;
		store_release(&record->lap, lap + 2);
	}
	return taken;
}
