/*
 * The whole engine on the software accelerator, with everything going on at once, for the sanitizers:
 * a sanitized extension does not load into a plain Python.
 *
 *     cc -g -fsanitize=thread -I qmpserver/vm/accel/native tests/vm/native/harness.c qmpserver/vm/accel/native/[a-z]*.c
 *
 * While limits come and go, vCPUs are stopped and continued, the log is switched, protection is deferred or not, rings
 * are overrun and resets interrupted and events traced, other threads reap, and copy what is marked, as a migration
 * does. Prints one line,
 * and exits with 0 only if no page was lost: at each pause the copy must equal the memory.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine.h"
#include "guest.h"

#define VCPUS 16
#define RING 1024
#define SET_PAGES 1500ull /* more than a ring holds */
#define PAGES (512 + VCPUS * SET_PAGES + 3)
#define TAKERS 3

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "harness: %s failed\n", what);
		exit(1);
	}
}

static void wait_parked(struct engine *engine)
{
	while (engine_count(engine, VCPU_PARKED) < VCPUS)
		usleep(100);
}

/* A page's content: all that its vCPU writes there. It only grows. */
static uint64_t content(const uint8_t *ram, uint64_t page)
{
	const uint64_t *words = (const uint64_t *)(ram + page * 4096);

	return __atomic_load_n(&words[0], __ATOMIC_RELAXED) +
	       __atomic_load_n(&words[offsetof(struct dirty_guest, progress) / 8], __ATOMIC_RELAXED);
}

struct migration {
	struct engine *engine;
	const uint8_t *ram;
	uint64_t copy[PAGES];
	uint64_t copied; /* pages */
	uint64_t reaped; /* turns */
	uint64_t traced;
	uint32_t done;
};

/* Of two takers that copy a page, the one that has read it first may write last. */
static void raise_to(uint64_t *copy, uint64_t value)
{
	uint64_t old = load_relaxed(copy);

	while (old < value &&
	       !__atomic_compare_exchange_n(copy, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static void copy_marked(struct migration *m)
{
	uint64_t bitmap[(PAGES + 63) / 64];

	engine_take_bitmap(m->engine, bitmap);
	engine_protect(m->engine, 0, bitmap, (PAGES + 63) / 64);
	for (uint64_t page = 0; page < PAGES; page++)
		if (bitmap[page / 64] >> (page % 64) & 1) {
			raise_to(&m->copy[page], content(m->ram, page));
			add_relaxed(&m->copied, 1);
		}
	check(!(bitmap[PAGES / 64] >> (PAGES % 64)), "bits of RAM alone");
}

static void *migrate(void *opaque)
{
	struct migration *m = opaque;

	while (!load_acquire(&m->done)) {
		copy_marked(m);
		usleep(700);
	}
	return NULL;
}

static void *reap(void *opaque)
{
	struct migration *m = opaque;

	while (!load_acquire(&m->done)) {
		engine_reap(m->engine);
		m->reaped++;
		usleep(300);
	}
	return NULL;
}

static void *switch_log(void *opaque)
{
	struct migration *m = opaque;

	while (!load_acquire(&m->done)) {
		check(!engine_set_tracking(m->engine, true), "engine_set_tracking");
		usleep(1500);
	}
	return NULL;
}

/* What the tracer does; the events are switched all the while. */
static void *trace(void *opaque)
{
	static struct trace_record records[256];
	struct migration *m = opaque;
	uint32_t count, events = ~0u;
	bool done;

	do {
		done = load_acquire(&m->done);
		trace_enable(done ? 0 : events);
		events = ~events;
		while ((count = trace_take(records, 256))) {
			m->traced += count;
			for (uint32_t i = 0; i < count; i++) {
				check(records[i].event < TRACE_EVENTS && records[i].tid, "a trace record");
				check(records[i].duration_ns < 60000000000ull, "a record's duration");
			}
		}
		usleep(300);
	} while (!done);
	return NULL;
}

/* What the event loop's thread does. */
static void steer(struct engine *engine, int round)
{
	uint64_t pages[VCPUS], seen[VCPUS] = { 0 };

	for (int i = 0; i < 6; i++) {
		int64_t limited = i % 3 ? (i * 7 + round) % VCPUS : -1;

		limit_set(engine, limited, 1 + (uint64_t)(round * 37 % 800));
		limit_kick(engine, limited);
		if (round % 3 == 1)
			soft_overrun(engine, 64 + (uint32_t)(round * 97 % 2000));
		if (round % 4 == 2)
			soft_interrupt_reset(engine);
		if (round % 4 == 3)
			soft_cut_reset(engine);
		usleep(500);
		reaper_kick(engine);
		engine_pages(engine, pages);
		for (int vcpu = 0; vcpu < VCPUS; vcpu++) {
			check(pages[vcpu] >= seen[vcpu], "a count that does not go back");
			seen[vcpu] = pages[vcpu];
		}
		if (i == 3) {
			engine_stop(engine);
			engine_cont(engine);
			engine_defer_protection(engine, round % 4 == 2);
		}
		usleep(500);
		limit_cancel(engine, i % 2 ? -1 : limited);
		limit_kick(engine, i % 2 ? -1 : limited);
	}
	limit_cancel(engine, -1);
	limit_kick(engine, -1);
	usleep(5000); /* at full speed */
}

/* What the next bitmap alone must make good: nobody else takes one, or reaps but once. */
static void fail_late(struct engine *engine, int round)
{
	if (round % 3 == 1)
		soft_overrun(engine, 6000);
	if (round % 3 == 2)
		soft_cut_reset(engine);
	usleep(10000);
	if (round % 2)
		engine_reap(engine);
	usleep(5000);
}

static void check_all_reset(const struct engine *engine)
{
	for (int i = 0; i < VCPUS; i++) {
		const struct ring *ring = &engine->vcpus[i]->ring;

		for (uint64_t index = 0; !engine->vcpus[i]->astray && index < RING; index++)
			check(!ring_is_released(ring, index), "resetting what was harvested");
	}
}

/* What saving, and loading a state on parked vCPUs, does. */
static void reload(struct engine *engine)
{
	for (uint32_t i = 0; i < VCPUS; i++) {
		struct soft_vcpu_state state;

		soft_get_state(engine, i, &state);
		engine_set_vcpu_state(engine, i, VCPU_HALTED, 1);
		soft_set_state(engine, i, &state);
		check(engine_count(engine, VCPU_HALTED) == 1, "a halted vCPU");
		engine_set_vcpu_state(engine, i, VCPU_PARKED, 0);
	}
	check(engine_count(engine, VCPU_PARKED) == VCPUS, "parked again");
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 50;
	uint8_t *ram = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct migration *m = calloc(1, sizeof(*m));
	uint64_t missing = 0, overflows = 0, shortfalls = 0, hidden = 0, full = 0, resets = 0;

	check(m && ram != MAP_FAILED, "memory");
	m->ram = ram;
	for (int mode = REAPER_EVENT; mode <= REAPER_POLL; mode++) {
		struct engine *engine = engine_new(-1, ram, PAGES, mode, mode == REAPER_POLL);

		check(engine && !engine_add_slot(engine, 0, 0, PAGES), "engine_new");
		m->engine = engine;
		if (mode == REAPER_POLL)
			soft_buffer_log(engine);
		for (uint64_t i = 0; i < VCPUS; i++) {
			struct dirty_guest *control = (struct dirty_guest *)(ram + i * 4096);

			*control = (struct dirty_guest){ .base = (512 + i * SET_PAGES) * 4096,
							 .pages = SET_PAGES,
							 .pattern = i % 3,
							 .seed = 88172645463325252ull + i };
			check(!engine_add_soft_vcpu(engine, i * 4096, RING), "engine_add_soft_vcpu");
		}
		check(!engine_start(engine, true), "engine_start");
		for (int round = 0; round < rounds; round++) {
			static void *(*const work[])(void *) = { switch_log, trace, reap };
			enum { WORKERS = sizeof(work) / sizeof(*work) + TAKERS };
			pthread_t workers[WORKERS];

			check(!engine_set_tracking(engine, true), "tracking on");
			engine_defer_protection(engine, round % 2);
			copy_marked(m);
			store_release(&m->done, 0);
			engine_cont(engine);
			for (uint64_t page = 0; page < PAGES; page++)
				m->copy[page] = content(ram, page);
			for (int i = 0; i < WORKERS; i++)
				check(!pthread_create(&workers[i], NULL, i < TAKERS ? migrate : work[i - TAKERS], m),
				      "pthread_create");
			steer(engine, round);
			store_release(&m->done, 1);
			for (int i = 0; i < WORKERS; i++)
				pthread_join(workers[i], NULL);
			fail_late(engine, round);
			engine_stop(engine);
			wait_parked(engine);
			reload(engine);
			copy_marked(m);
			check_all_reset(engine);
			for (uint64_t page = 0; page < PAGES; page++)
				missing += m->copy[page] != content(ram, page);
			engine_defer_protection(engine, false);
			check(!engine_set_tracking(engine, false), "tracking off");
		}
		for (int i = 0; i < VCPUS; i++) {
			overflows += engine->vcpus[i]->overflows;
			full += engine->vcpus[i]->full_exits;
		}
		resets += engine->log.resets_begun;
		shortfalls += engine->log.cut_resets;
		hidden += engine->log.hidden_cuts;
		engine_free(engine);
	}
	printf("harness: %d rounds, %llu pages copied, %llu full rings, %llu turns, %llu resets, %llu overflows, "
	       "%llu cut resets (%llu with the full count), %llu traced, %llu lost\n",
	       2 * rounds, (unsigned long long)m->copied, (unsigned long long)full, (unsigned long long)m->reaped,
	       (unsigned long long)resets, (unsigned long long)overflows, (unsigned long long)shortfalls,
	       (unsigned long long)hidden, (unsigned long long)m->traced, (unsigned long long)missing);
	/* Were one let go without a reset, it would come back full and without an entry. */
	check(full > 2 * overflows, "emptying full rings");
	check(m->traced, "tracing");
	free(m);
	munmap(ram, PAGES * 4096);
	return missing || !overflows || !hidden || shortfalls == hidden ? 1 : 0;
}
