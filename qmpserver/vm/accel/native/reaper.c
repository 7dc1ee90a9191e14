/*
 * The reaper thread, its kick, and the times between kick, cancel and wake.
 *
 * It waits at real-time priority, to be on a processor at once when it is kicked, and works at an ordinary one: a
 * turn over many large rings, or switching the log of much RAM, takes up to a second.
 */
#define _GNU_SOURCE
#include "reaper.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"

#define FALLBACK_MS 1000 /* QEMU's reaper sleeps as long between its turns */
#define GIVE_WAY_MS 1

/* The argument of TRACE_KVM_DIRTY_RING_REAPER. */
enum { TRACE_REAPER_INIT, TRACE_REAPER_WAIT, TRACE_REAPER_WAKEUP, TRACE_REAPER_EXIT };

void reaper_kick(struct engine *engine)
{
	struct reaper *reaper = &engine->reaper;
	uint64_t none = 0, now = now_ns();

	if (reaper->mode != REAPER_EVENT)
		return;
	trace_now(TRACE_KVM_DIRTY_RING_REAPER_KICK, 0, 0, 0);
	add_relaxed(&reaper->kicks, 1);
	store_release(&reaper->last_kick_ns, now);
	__atomic_compare_exchange_n(&reaper->first_kick_ns, &none, now, false, __ATOMIC_RELEASE,
				    __ATOMIC_RELAXED);
	notify(reaper->kick_fd);
}

/* Count the time from one to the other, and return it. */
static uint64_t count_time(uint64_t *histogram, uint64_t from, uint64_t to)
{
	uint64_t ns = to > from ? to - from : 0;
	int bucket = ns ? 64 - __builtin_clzll(ns) : 0;

	if (bucket >= WAKE_BUCKETS)
		bucket = WAKE_BUCKETS - 1;
	count_up(&histogram[bucket], 1);
	return ns;
}

static void count_wake(struct engine *engine, uint64_t now)
{
	struct reaper *reaper = &engine->reaper;
	uint64_t kicked = __atomic_exchange_n(&reaper->first_kick_ns, 0, __ATOMIC_ACQUIRE);
	uint64_t cancelled = load_acquire(&engine->limit.last_cancel_ns);

	count_up(&reaper->wakes, 1);
	store_release(&reaper->last_wake_ns, now);
	if (kicked)
		count_up(&reaper->kick_to_wake_ns, count_time(reaper->kick_to_wake, kicked, now));
	if (limit_in_force(&engine->limit))
		return;
	if (cancelled > reaper->last_idle_wake_ns)
		count_time(reaper->cancel_to_wake, cancelled, now);
	store_release(&reaper->last_idle_wake_ns, now);
}

/* A scheduling policy and its priority. */
struct policy {
	int number;
	struct sched_param param;
};

static struct policy own_policy(void)
{
	struct policy policy;

	pthread_getschedparam(pthread_self(), &policy.number, &policy.param);
	return policy;
}

static void take_turn(struct engine *engine, const struct policy *waiting, const struct policy *working)
{
	struct reaper *reaper = &engine->reaper;
	bool differ = waiting->number != working->number;

	if (differ)
		pthread_setschedparam(pthread_self(), working->number, &working->param);
	store_release(&reaper->reaping, 1);
	engine_reap(engine);
	store_release(&reaper->reaping, 0);
	if (differ)
		pthread_setschedparam(pthread_self(), waiting->number, &waiting->param);
	count_up(&reaper->turns, 1);
}

void *reaper_thread(void *opaque)
{
	struct engine *engine = opaque;
	struct reaper *reaper = &engine->reaper;
	struct pollfd fds[] = { { .fd = reaper->quit_fd, .events = POLLIN },
				{ .fd = reaper->kick_fd, .events = POLLIN } };
	/* The polling form does as QEMU: it sleeps its second out, and nothing can kick it. */
	nfds_t nfds = reaper->mode == REAPER_EVENT ? 2 : 1;
	struct policy waiting, working = own_policy();

	prctl(PR_SET_NAME, "kvm-reaper");
	store_release(&reaper->tid, (int32_t)syscall(SYS_gettid));
	ask_real_time();
	waiting = own_policy();
	sem_post(&reaper->initialized);
	trace_now(TRACE_KVM_DIRTY_RING_REAPER, TRACE_REAPER_INIT, 0, 0);
	while (!load_acquire(&engine->quit)) {
		uint64_t count = 0, now;
		int ready;

		trace_now(TRACE_KVM_DIRTY_RING_REAPER, TRACE_REAPER_WAIT, 0, 0);
		ready = poll(fds, nfds, FALLBACK_MS);
		now = now_ns();
		if (ready > 0 && fds[0].revents)
			break;
		if (ready > 0 && read(reaper->kick_fd, &count, sizeof(count)) != sizeof(count))
			count = 0;
		if (count > 1)
			count_up(&reaper->coalesced_kicks, count - 1);
		if (count || reaper->mode == REAPER_POLL)
			count_wake(engine, now);
		trace_now(TRACE_KVM_DIRTY_RING_REAPER, TRACE_REAPER_WAKEUP, 0, 0);
		if (!count)
			count_up(&reaper->fallback_turns, 1);
		/* vCPUs that are woken with the reaper go first: a reset holds the lock that their faults need. */
		if (count && poll(fds, 1, GIVE_WAY_MS) > 0)
			break;
		take_turn(engine, &waiting, &working);
	}
	trace_now(TRACE_KVM_DIRTY_RING_REAPER, TRACE_REAPER_EXIT, 0, 0);
	return NULL;
}
