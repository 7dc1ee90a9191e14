/*
 * A bounded queue of many writers and one reader, after Dmitry Vyukov's: each record carries the turn it is
 * in, so that a writer owns a place by moving `head` past it and the reader knows when it is filled. Nobody
 * waits for anybody; who finds the ring full counts what was dropped.
 */
#define _GNU_SOURCE
#include "trace.h"

#include <sys/syscall.h>
#include <unistd.h>

static struct trace_record ring[TRACE_RECORDS];
static uint64_t head;
static uint64_t tail; /* the reader's own */
static uint64_t dropped;

uint32_t trace_enabled;

static __thread int32_t thread_id;

void trace_enable(uint32_t events)
{
	__atomic_store_n(&trace_enabled, events, __ATOMIC_RELAXED);
}

uint64_t trace_dropped(void)
{
	return __atomic_load_n(&dropped, __ATOMIC_RELAXED);
}

void trace_write(enum trace_event event, uint64_t start_ns, uint64_t duration_ns, uint64_t arg0,
		 uint64_t arg1, uint64_t arg2)
{
	uint64_t place = __atomic_load_n(&head, __ATOMIC_RELAXED);
	struct trace_record *record;

	for (;;) {
		uint64_t turn, wanted = place / TRACE_RECORDS * 2;

		record = &ring[place % TRACE_RECORDS];
		turn = __atomic_load_n(&record->turn, __ATOMIC_ACQUIRE);
		if (turn < wanted) { /* the reader has not been here since the last lap */
			__atomic_fetch_add(&dropped, 1, __ATOMIC_RELAXED);
			return;
		}
		if (turn == wanted && __atomic_compare_exchange_n(&head, &place, place + 1, true,
								  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			break;
		if (turn != wanted)
			place = __atomic_load_n(&head, __ATOMIC_RELAXED);
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
	__atomic_store_n(&record->turn, place / TRACE_RECORDS * 2 + 1, __ATOMIC_RELEASE);
}

uint32_t trace_take(struct trace_record *records, uint32_t count)
{
	uint32_t taken = 0;

	for (; taken < count; taken++, tail++) {
		struct trace_record *record = &ring[tail % TRACE_RECORDS];
		uint64_t lap = tail / TRACE_RECORDS * 2;

		if (__atomic_load_n(&record->turn, __ATOMIC_ACQUIRE) != lap + 1)
			break;
		records[taken] = *record;
		__atomic_store_n(&record->turn, lap + 2, __ATOMIC_RELEASE);
	}
	return taken;
}
