/*
 * Harvest and reset, what to do when a ring was overrun, and the reaper thread.
 *
 * The order of one turn: set the page's bit, release the entry's flag, and when all rings are harvested
 * reset them; bits are published only after that, under reap_lock, because the guest's stores before the
 * reset are covered by the bit and those after it push a new entry.
 *
 * reap_lock is taken before any of the accelerator's locks, and held from the harvest to the end of its reset:
 * whoever holds it finds no entry that was harvested and not reset. Nothing waits for a vCPU under it.
 *
 * Overruns. KVM can push more than a ring holds when it emulates the guest. Three indexes then fall out of step:
 * ours (ring.fetch), the one that is pushed to, and the one that is reset up to; the kernel tells neither. Entries
 * are gone, so every page counts as dirty; and their pages stay writable and unlogged, so all RAM is protected
 * anew before the next bitmap is published (see trust_again). The push index shows at the next push: it
 * is where a run of dirty entries begins. The reset index waits at an entry that nobody will harvest again, a ghost:
 * see pass_ghosts.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FALLBACK_MS 1000 /* QEMU's reaper sleeps as long between its turns */
#define GIVE_WAY_MS 1

/* What TRACE_KVM_DIRTY_RING_REAPER tells. */
enum { TRACE_REAPER_INIT, TRACE_REAPER_WAIT, TRACE_REAPER_WAKEUP, TRACE_REAPER_EXIT };

static size_t bitmap_words(const struct engine *engine)
{
	return (engine->ram_pages + 63) / 64;
}

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
	memset(engine->bitmap, 0xff, bitmap_words(engine) * 8);
	if (engine->ram_pages % 64)
		engine->bitmap[engine->ram_pages / 64] = (1ull << (engine->ram_pages % 64)) - 1;
}

static int log_dirty_pages(struct engine *engine, bool on)
{
	return engine->soft ? soft_log_dirty_pages(engine, on) : kvm_log_dirty_pages(engine, on);
}

/*
 * Pages may be writable and unlogged. Switching the log off and on protects all of them; what was stored before, or
 * while it was off, is covered by marking everything after that. Should it fail, every bitmap is full from now on.
 */
static void trust_again(struct engine *engine)
{
	if (!engine->distrusted)
		return;
	if (!engine->tracking || (!log_dirty_pages(engine, false) && !log_dirty_pages(engine, true)))
		engine->distrusted = false;
	mark_all(engine);
}

static int64_t reset_rings(struct engine *engine)
{
	return engine->soft ? soft_reset_rings(engine) : kvm_reset_rings(engine);
}

/*
 * Have the kernel's reset index move on over ghosts, to the next multiple of `every` from `stop` on, or to the first
 * entry that is dirty. We do not know where it is; so all entries that are not dirty offer themselves for the reset
 * but those where it shall stop, and afterwards none does. A vCPU may push meanwhile: its flag goes before ours.
 * With no entry harvested and not reset. How far it went, or -1.
 */
static int64_t pass_ghosts(struct vcpu *vcpu, uint64_t stop, uint32_t every)
{
	struct ring *ring = &vcpu->ring;
	int64_t passed;

	for (uint64_t i = 0; i < ring->size; i++) {
		uint32_t expected = 0;

		if (i % every)
			__atomic_compare_exchange_n(&ring_entry(ring, stop + i)->flags, &expected,
						    KVM_DIRTY_GFN_F_RESET, false, __ATOMIC_ACQ_REL,
						    __ATOMIC_RELAXED);
	}
	passed = reset_rings(vcpu->engine);
	for (uint64_t i = 0; i < ring->size; i++) {
		uint32_t expected = KVM_DIRTY_GFN_F_RESET;

		__atomic_compare_exchange_n(&ring_entry(ring, i)->flags, &expected, 0, false,
					    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	}
	return passed;
}

static void reset(struct engine *engine)
{
	int64_t freed;

	if (!engine->harvested)
		return;
	freed = reset_rings(engine);
	if (freed < 0 || (uint64_t)freed < engine->harvested) {
		store(&engine->reset_shortfalls, engine->reset_shortfalls + 1);
		engine->distrusted = true;
		for (uint32_t i = 0; i < engine->nvcpus; i++) {
			struct vcpu *vcpu = engine->vcpus[i];

			if (vcpu->ring.size && !vcpu->lost)
				pass_ghosts(vcpu, vcpu->ring.fetch, vcpu->ring.size);
		}
	}
	engine->harvested = 0;
}

static void overflowed(struct vcpu *vcpu)
{
	store(&vcpu->overflows, vcpu->overflows + 1);
	engine_notify(vcpu->engine);
	vcpu->lost = true;
	vcpu->engine->distrusted = true;
}

/*
 * After an overflow: go to where the pushed entries begin, if any were pushed since, and have the reset index follow.
 * Forward to any dirty entry, and then back to the first of its run, which a vCPU lengthens at its end only.
 */
static bool find_place(struct vcpu *vcpu)
{
	struct ring *ring = &vcpu->ring;
	uint64_t size = ring->size, ahead = 0, back = 0;

	while (ahead < size && !ring_is_dirty(ring, ring->fetch + ahead))
		ahead++;
	if (ahead == size)
		return false;
	while (back < size - 1 && ring_is_dirty(ring, ring->fetch + ahead + size - 1 - back))
		back++;
	reset(vcpu->engine); /* other rings' */
	store(&ring->fetch, ring->fetch + (ahead + size - back) % size);
	pass_ghosts(vcpu, ring->fetch, ring->size);
	/* A push where the reset passes at that moment is forgotten. */
	vcpu->engine->distrusted = true;
	vcpu->lost = false;
	return true;
}

/* Entries are pushed in order: one that is dirty behind one that is not was pushed somewhere else than we look. */
static bool out_of_step(const struct ring *ring)
{
	return !ring_is_dirty(ring, ring->fetch) && ring_is_dirty(ring, ring->fetch + 1) &&
	       !ring_is_dirty(ring, ring->fetch);
}

static uint64_t harvest(struct vcpu *vcpu)
{
	struct ring *ring = &vcpu->ring;
	uint64_t started = trace_start(TRACE_KVM_DIRTY_RING_REAP_VCPU);
	uint64_t from, index;

	if (vcpu->lost && !find_place(vcpu))
		return 0;
	from = ring->fetch;
	for (index = from; index - from < ring->size && ring_is_dirty(ring, index); index++) {
		struct kvm_dirty_gfn *entry = ring_entry(ring, index);

		/* Atomic, for a ring that is being overrun. */
		mark_dirty(vcpu->engine, __atomic_load_n(&entry->slot, __ATOMIC_RELAXED),
			   __atomic_load_n(&entry->offset, __ATOMIC_RELAXED));
		__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		store(&ring->fetch, index + 1);
	}
	/* Nobody stops a ring before its last entry is used but an overflow. */
	if (index - from == ring->size || out_of_step(ring))
		overflowed(vcpu);
	vcpu->engine->harvested += index - from;
	trace_since(TRACE_KVM_DIRTY_RING_REAP_VCPU, started, vcpu->index, 0);
	return index - from;
}

static void trace_reap(uint64_t started, uint64_t pages)
{
	if (started)
		trace_since(TRACE_KVM_DIRTY_RING_REAP, started, pages, (now_ns() - started) / 1000);
}

/* By the vCPU's own thread, when it was told that its ring is full. */
void reap_vcpu(struct vcpu *vcpu)
{
	struct ring *ring = &vcpu->ring;
	uint64_t started, pages;

	pthread_mutex_lock(&vcpu->engine->reap_lock);
	started = trace_start(TRACE_KVM_DIRTY_RING_REAP);
	pages = harvest(vcpu);
	if (!pages && ring->fetch == vcpu->full_fetch) {
		/*
		 * Full, and nothing in it, and nobody has harvested since this was so the last time: the kernel
		 * counts ghosts. At least as many as make a ring full; a quarter is less than that with any
		 * reserve that it keeps. The second try is for an index that was at a stop.
		 */
		overflowed(vcpu);
		if (!pass_ghosts(vcpu, 0, ring->size / 4))
			pass_ghosts(vcpu, 1, ring->size / 4);
	}
	reset(vcpu->engine);
	vcpu->full_fetch = ring->fetch;
	trace_reap(started, pages);
	pthread_mutex_unlock(&vcpu->engine->reap_lock);
}

static uint64_t reap_locked(struct engine *engine)
{
	uint64_t started = trace_start(TRACE_KVM_DIRTY_RING_REAP), pages = 0;

	for (uint32_t i = 0; i < engine->nvcpus; i++)
		if (engine->vcpus[i]->ring.size)
			pages += harvest(engine->vcpus[i]);
	reset(engine);
	trust_again(engine);
	trace_reap(started, pages);
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

/* The vCPU's side of wait_for_exits. */
void vcpu_left_guest(struct vcpu *vcpu)
{
	__atomic_fetch_add(&vcpu->in_guest, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&vcpu->engine->waiting_for_exits, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &vcpu->in_guest, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/*
 * Have each vCPU that is in the guest leave it once. All sequentially consistent: either a vCPU sees that it is
 * waited for, or it is seen to have left. Not under reap_lock, which a vCPU may want after it left.
 */
static void wait_for_exits(struct engine *engine)
{
	uint32_t seen[engine->nvcpus + 1];

	__atomic_fetch_add(&engine->waiting_for_exits, 1, __ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		seen[i] = __atomic_load_n(&engine->vcpus[i]->in_guest, __ATOMIC_SEQ_CST);
		if (seen[i] % 2)
			vcpu_kick(engine->vcpus[i]);
	}
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		while (seen[i] % 2 &&
		       __atomic_load_n(&engine->vcpus[i]->in_guest, __ATOMIC_SEQ_CST) == seen[i])
			syscall(SYS_futex, &engine->vcpus[i]->in_guest, FUTEX_WAIT_PRIVATE, seen[i], NULL,
				NULL, 0);
	__atomic_fetch_sub(&engine->waiting_for_exits, 1, __ATOMIC_SEQ_CST);
}

void engine_take_bitmap(struct engine *engine, uint64_t *bitmap)
{
	size_t bytes = bitmap_words(engine) * 8;

	trace_now(TRACE_KVM_DIRTY_RING_FLUSH, 0, 0, 0);
	wait_for_exits(engine);
	pthread_mutex_lock(&engine->reap_lock);
	reap_locked(engine);
	memcpy(bitmap, engine->bitmap, bytes);
	memset(engine->bitmap, 0, bytes);
	pthread_mutex_unlock(&engine->reap_lock);
	trace_now(TRACE_KVM_DIRTY_RING_FLUSH, 1, 0, 0);
}

int engine_set_tracking(struct engine *engine, bool on)
{
	int ret;

	pthread_mutex_lock(&engine->reap_lock);
	if (!on)
		store(&engine->tracking, 0); /* first, so that limited vCPUs hold: what they do goes uncounted */
	ret = log_dirty_pages(engine, on);
	if (!ret && on) {
		store(&engine->tracking, 1);
		if (engine->distrusted)
			mark_all(engine);
		engine->distrusted = false; /* nothing is writable now */
	} else if (ret && on) {
		int error = errno;

		log_dirty_pages(engine, false);
		errno = error;
	} else {
		reap_locked(engine); /* what is left in the rings */
	}
	pthread_mutex_unlock(&engine->reap_lock);
	if (on)
		kick_all(engine);
	return ret;
}

void reaper_kick(struct engine *engine)
{
	struct reaper *reaper = &engine->reaper;
	uint64_t one = 1, none = 0, now = now_ns();

	if (reaper->mode != REAPER_EVENT)
		return;
	trace_now(TRACE_KVM_DIRTY_RING_REAPER_KICK, 0, 0, 0);
	add(&reaper->kicks, 1);
	store(&reaper->last_kick_ns, now);
	__atomic_compare_exchange_n(&reaper->first_kick_ns, &none, now, false, __ATOMIC_RELEASE,
				    __ATOMIC_RELAXED);
	while (write(reaper->kick_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* Returns the time from one to the other. */
static uint64_t count_time(uint64_t *histogram, uint64_t from, uint64_t to)
{
	uint64_t ns = to > from ? to - from : 0;
	int bucket = ns ? 64 - __builtin_clzll(ns) : 0;

	if (bucket >= WAKE_BUCKETS)
		bucket = WAKE_BUCKETS - 1;
	store(&histogram[bucket], histogram[bucket] + 1);
	return ns;
}

static void count_wake(struct engine *engine, uint64_t now)
{
	struct reaper *reaper = &engine->reaper;
	uint64_t kicked = __atomic_exchange_n(&reaper->first_kick_ns, 0, __ATOMIC_ACQUIRE);
	uint64_t cancelled = load(&engine->last_cancel_ns);

	store(&reaper->wakes, reaper->wakes + 1);
	store(&reaper->last_wake_ns, now);
	if (kicked)
		store(&reaper->kick_to_wake_ns,
		      reaper->kick_to_wake_ns + count_time(reaper->kick_to_wake, kicked, now));
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
	trace_now(TRACE_KVM_DIRTY_RING_REAPER, TRACE_REAPER_INIT, 0, 0);
	while (!load(&engine->quit)) {
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
			store(&reaper->coalesced_kicks, reaper->coalesced_kicks + count - 1);
		if (count || reaper->mode == REAPER_POLL)
			count_wake(engine, now);
		trace_now(TRACE_KVM_DIRTY_RING_REAPER, TRACE_REAPER_WAKEUP, 0, 0);
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
	trace_now(TRACE_KVM_DIRTY_RING_REAPER, TRACE_REAPER_EXIT, 0, 0);
	return NULL;
}
