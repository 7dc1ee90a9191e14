/*
 * Harvest and reset, and the reaper thread that does it when nobody else has.
 *
 * The order of one turn: set the page's bit, release the entry's flag, and when all rings are harvested
 * reset them; bits are published only after that, under reap_lock, because the guest's stores before the
 * reset are covered by the bit and those after it push a new entry.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FALLBACK_MS 1000 /* QEMU's reaper sleeps as long between its turns */
#define GIVE_WAY_MS 1

static void mark_dirty(struct engine *engine, uint32_t slot, uint64_t offset)
{
	uint64_t page;

	/* slot is address space << 16 | slot; x86 without SMM has one address space */
	if (slot >= engine->nslots || offset >= engine->slots[slot].pages)
		return;
	page = engine->slots[slot].ram_page + offset;
	engine->bitmap[page / 64] |= 1ull << (page % 64);
}

void engine_mark_dirty(struct engine *engine, uint64_t ram_page, uint64_t pages)
{
	pthread_mutex_lock(&engine->reap_lock);
	if (load(&engine->tracking))
		for (uint64_t page = ram_page; page < ram_page + pages; page++)
			engine->bitmap[page / 64] |= 1ull << (page % 64);
	pthread_mutex_unlock(&engine->reap_lock);
}

static void mark_all(struct engine *engine)
{
	memset(engine->bitmap, 0xff, (engine->ram_pages + 63) / 64 * 8);
}

static void harvest(struct vcpu *vcpu)
{
	struct ring *ring = &vcpu->ring;
	uint64_t from = ring->fetch, index;

	for (index = from; index - from < ring->size && ring_is_dirty(ring, index); index++) {
		struct kvm_dirty_gfn *entry = ring_entry(ring, index);

		mark_dirty(vcpu->engine, entry->slot, entry->offset);
		__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
	if (index - from == ring->size) {
		/* Nobody stops a ring before its last entry is used but an overflow: entries are missing. */
		store(&vcpu->overflows, vcpu->overflows + 1);
		mark_all(vcpu->engine);
	}
	vcpu->engine->harvested += index - from;
	store(&ring->fetch, index);
}

static void reset(struct engine *engine)
{
	int64_t freed;

	if (!engine->harvested)
		return;
	freed = engine->soft ? soft_reset_rings(engine) : kvm_reset_rings(engine);
	if (freed < 0 || (uint64_t)freed < engine->harvested) {
		/* Some pages may be writable and unlogged: trust no bit until all were copied again. */
		store(&engine->reset_shortfalls, engine->reset_shortfalls + 1);
		mark_all(engine);
	}
	engine->harvested = 0;
}

void reap_vcpu(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->engine->reap_lock);
	harvest(vcpu);
	reset(vcpu->engine);
	pthread_mutex_unlock(&vcpu->engine->reap_lock);
}

static uint64_t reap_locked(struct engine *engine)
{
	uint64_t pages;

	for (uint32_t i = 0; i < engine->nvcpus; i++)
		if (engine->vcpus[i]->ring.size)
			harvest(engine->vcpus[i]);
	pages = engine->harvested;
	reset(engine);
	return pages;
}

uint64_t engine_reap(struct engine *engine)
{
	uint64_t pages;

	pthread_mutex_lock(&engine->reap_lock);
	pages = reap_locked(engine);
	pthread_mutex_unlock(&engine->reap_lock);
	return pages;
}

void engine_take_bitmap(struct engine *engine, uint64_t *bitmap)
{
	size_t bytes = (engine->ram_pages + 63) / 64 * 8;

	pthread_mutex_lock(&engine->reap_lock);
	reap_locked(engine);
	memcpy(bitmap, engine->bitmap, bytes);
	memset(engine->bitmap, 0, bytes);
	pthread_mutex_unlock(&engine->reap_lock);
	if (engine->ram_pages % 64) /* mark_all sets whole words */
		bitmap[engine->ram_pages / 64] &= (1ull << (engine->ram_pages % 64)) - 1;
}

void reaper_kick(struct engine *engine)
{
	struct reaper *reaper = &engine->reaper;
	uint64_t one = 1, none = 0, now = now_ns();

	if (reaper->mode != REAPER_EVENT)
		return;
	add(&reaper->kicks, 1);
	store(&reaper->last_kick_ns, now);
	__atomic_compare_exchange_n(&reaper->first_kick_ns, &none, now, false, __ATOMIC_RELEASE,
				    __ATOMIC_RELAXED);
	while (write(reaper->kick_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void count_time(uint64_t *histogram, uint64_t from, uint64_t to)
{
	uint64_t ns = to > from ? to - from : 0;
	int bucket = ns ? 64 - __builtin_clzll(ns) : 0;

	if (bucket >= WAKE_BUCKETS)
		bucket = WAKE_BUCKETS - 1;
	store(&histogram[bucket], histogram[bucket] + 1);
}

static void count_wake(struct engine *engine, uint64_t now)
{
	struct reaper *reaper = &engine->reaper;
	uint64_t kicked = __atomic_exchange_n(&reaper->first_kick_ns, 0, __ATOMIC_ACQUIRE);
	uint64_t cancelled = load(&engine->last_cancel_ns);

	store(&reaper->wakes, reaper->wakes + 1);
	store(&reaper->last_wake_ns, now);
	if (kicked)
		count_time(reaper->kick_to_wake, kicked, now);
	if (load(&engine->limit_in_service))
		return;
	if (cancelled > reaper->last_idle_wake_ns)
		count_time(reaper->cancel_to_wake, cancelled, now);
	store(&reaper->last_idle_wake_ns, now);
}

void *reaper_thread(void *opaque)
{
	struct engine *engine = opaque;
	struct reaper *reaper = &engine->reaper;
	struct pollfd fds[] = { { .fd = reaper->quit_fd, .events = POLLIN },
				{ .fd = reaper->kick_fd, .events = POLLIN } };
	/* The polling form is what QEMU does: it sleeps its second out, and there is nothing to kick. */
	nfds_t nfds = reaper->mode == REAPER_EVENT ? 2 : 1;

	store(&reaper->tid, (int32_t)syscall(SYS_gettid));
	ask_real_time();
	while (!load(&engine->quit)) {
		uint64_t count = 0, now;
		int ready = poll(fds, nfds, FALLBACK_MS);

		now = now_ns();
		if (ready > 0 && fds[0].revents)
			break;
		if (ready > 0 && read(reaper->kick_fd, &count, sizeof(count)) != sizeof(count))
			count = 0;
		if (count > 1)
			store(&reaper->coalesced_kicks, reaper->coalesced_kicks + count - 1);
		if (count || reaper->mode == REAPER_POLL)
			count_wake(engine, now);
		if (!count)
			store(&reaper->fallback_turns, reaper->fallback_turns + 1);
		/* vCPUs that are woken with the reaper go first: a reset holds the lock that their faults need. */
		if (count && poll(fds, 1, GIVE_WAY_MS) > 0)
			break;
		store(&reaper->reaping, 1);
		engine_reap(engine);
		store(&reaper->reaping, 0);
		store(&reaper->turns, reaper->turns + 1);
	}
	return NULL;
}
