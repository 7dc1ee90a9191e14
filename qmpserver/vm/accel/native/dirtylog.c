/*
 * The dirty log: harvest, reset, the bitmap, and what to do when a reset was cut short or a ring was overrun.
 *
 * The order: set the page's bit, release the entry's flag, and when all rings are harvested reset them; bits are
 * taken only after that, because the guest's stores before the reset are covered by the bit and those after it
 * push a new entry. The lock is taken before any of the accelerator's locks, and held from the harvest to the end
 * of its reset: whoever holds it finds no entry that was harvested and not reset. Nothing waits for a vCPU under it.
 *
 * The canary. Since Linux 6.16 a pending signal makes KVM_RESET_DIRTY_RINGS end early. The pages that it was
 * gathering at that moment, up to 64, stay writable and are not logged again. It looks for signals at the top of its
 * loop, also after the last entry was counted and before the last pages are protected, so the full number can come
 * back. Signals are masked during the call; SIGSTOP, the freezer, a tracer, suspend and livepatch cannot be. Whether
 * a reset was cut short shows only in what the kernel does last. So there is a ring more, of a vCPU that was created
 * last and never runs, and with each reset one entry of it is released, the canary:
 *
 *     ring of vCPU 0   ring of vCPU 1   ...   ring of the canary
 *     RRRRRRRR         RRRRR                  R
 *     -------------- the kernel resets ------------------------->
 *
 * The kernel goes on to the next ring only when the pages of the one before it are protected. If the canary's
 * flag is cleared, everything before it was finished. If it still says RESET, the reset was cut short somewhere,
 * whatever it returned: the reset is made again, which frees the entries left in the rings, and as pages may be
 * writable, the log is distrusted until trust_again(). A stock of canaries is pushed ahead.
 *
 * Overruns. KVM can push more than a ring holds when it emulates the guest. Three indexes then fall out of step:
 * ours (ring.fetch), the one that is pushed to, and the one that is reset up to; the kernel tells neither. Entries
 * are gone, so every page counts as dirty; and their pages stay writable and not logged, so all RAM is protected
 * anew before the next bitmap is published. A ring of 8 entries (. free, D dirty) into which 11 were pushed:
 *
 *     index      0   1   2   3   4   5   6   7
 *     pushed     8   9  10   3   4   5   6   7        the 9th to 11th fell on entries that were dirty already
 *     flags      D   D   D   D   D   D   D   D
 *                ^fetch, reset   ^push                the kernel will push at 3, and believes that 11 wait
 *
 * Every entry is harvested and reset, all 8: fetch and reset come back to 0, the kernel believes that 3 still wait,
 * and later pushes begin at 3:
 *
 *     flags      .   .   .   D   D   .   .   .
 *                ^reset      ^push began here
 *                -ghosts---->
 *
 * The push index shows at the next push: it is where a run of dirty entries begins (find_place). The reset
 * index waits at an entry which is not going to be released, a ghost, and the ring would stay three entries smaller
 * for ever: ghosts are released as if they had been harvested, up to the first dirty entry (pass_ghosts).
 */
#define _GNU_SOURCE
#include "dirtylog.h"

#include <errno.h>
#include <stdlib.h>

#include "engine.h"

#define RESET_TRIES 8    /* a storm of stops lets one of them through */
#define CANARY_BATCH 256 /* entries that are pushed at a time */

static size_t bitmap_words(const struct engine *engine)
{
	return (engine->memory.pages + 63) / 64;
}

int dirtylog_init(struct engine *engine)
{
	struct dirty_log *log = &engine->log;
	pthread_mutexattr_t inherit;

	/* The holder of a lock that the reaper waits for runs at least at the priority of the reaper. */
	pthread_mutexattr_init(&inherit);
	pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&log->lock, &inherit);
	pthread_mutexattr_destroy(&inherit);
	log->bitmap = calloc(bitmap_words(engine), sizeof(uint64_t));
	return log->bitmap ? 0 : -1;
}

void dirtylog_free(struct engine *engine)
{
	pthread_mutex_destroy(&engine->log.lock);
	free(engine->log.bitmap);
}

/* Atomic, because the host marks pages without the lock; one that is set already costs no write. */
static void mark_page(struct dirty_log *log, uint64_t page)
{
	uint64_t bit = 1ull << (page % 64);

	if (!(load_relaxed(&log->bitmap[page / 64]) & bit))
		__atomic_fetch_or(&log->bitmap[page / 64], bit, __ATOMIC_RELEASE);
}

static void mark_entry(struct engine *engine, uint32_t slot, uint64_t offset)
{
	const struct memory *memory = &engine->memory;

	/* slot is address space << 16 | slot; x86 without SMM has one address space */
	if (slot < memory->nslots && offset < memory->slots[slot].pages)
		mark_page(&engine->log, memory->slots[slot].ram_page + offset);
}

void engine_mark_dirty(struct engine *engine, uint64_t ram_page, uint64_t pages)
{
	/*
	 * A read-modify-write, as in switch_on(): the later of the two sees the earlier. So tracking is seen to be on
	 * here, or whoever switched it on sees the pages that were written before.
	 */
	if (__atomic_fetch_or(&engine->log.tracking, 0, __ATOMIC_ACQ_REL))
		for (uint64_t page = ram_page; page < ram_page + pages; page++)
			__atomic_fetch_or(&engine->log.bitmap[page / 64], 1ull << (page % 64),
					  __ATOMIC_RELEASE);
}

static void mark_all(struct engine *engine)
{
	uint64_t pages = engine->memory.pages, *bitmap = engine->log.bitmap;

	for (uint64_t i = 0; i < pages / 64; i++)
		store_release(&bitmap[i], ~0ull);
	if (pages % 64)
		store_release(&bitmap[pages / 64], (1ull << (pages % 64)) - 1);
}

static int set_logging(struct engine *engine, bool on)
{
	int ret = engine->ops->log_dirty_pages(engine, on);

	engine->log.logging = on || ret < 0; /* of several slots some may be logged */
	return ret;
}

/*
 * Pages may be writable and not logged. Switching the log off and on protects all of them; what was stored before, or
 * while it was off, is covered by marking everything after that. Should it fail, every bitmap is full until it
 * succeeds.
 */
static void trust_again(struct engine *engine)
{
	struct dirty_log *log = &engine->log;

	if (!log->distrusted)
		return;
	if ((!log->logging || !set_logging(engine, false)) && (!log->tracking || !set_logging(engine, true)))
		log->distrusted = false;
	mark_all(engine);
}

/* Push canaries ahead, until the next ones would have no room. Off the path of a vCPU whose ring is full. */
static void stock_canaries(struct engine *engine)
{
	struct canary *canary = &engine->log.canary;
	const struct ring *ring = &canary->ring;

	uint32_t batch = ring->size / 4 < CANARY_BATCH ? ring->size / 4 : CANARY_BATCH;

	while (ring->size && canary->pushed - canary->reset + batch <= ring->size / 2) {
		uint64_t before = canary->pushed;

		engine->ops->push_canaries(engine, batch);
		while (canary->pushed - before < batch && ring_is_dirty(ring, canary->pushed))
			canary->pushed++;
		if (canary->pushed == before)
			return;
	}
}

int dirtylog_start_canary(struct engine *engine, struct ring ring)
{
	struct canary *canary = &engine->log.canary;

	canary->ring = ring;
	stock_canaries(engine);
	if (canary->pushed)
		return 0;
	canary->ring.size = 0;
	errno = ENOTSUP;
	return -1;
}

/* Release a canary for the reset that follows. Returns whether there was one. */
static bool offer_canary(struct engine *engine)
{
	struct canary *canary = &engine->log.canary;

	if (canary->ring.fetch == canary->pushed)
		stock_canaries(engine);
	if (canary->ring.fetch == canary->pushed)
		return false;
	store_release(&ring_entry(&canary->ring, canary->ring.fetch)->flags, KVM_DIRTY_GFN_F_RESET);
	canary->ring.fetch++;
	return true;
}

/* Find out how many canaries were reset since the last call. */
static uint64_t count_canaries(struct canary *canary)
{
	uint64_t before = canary->reset;

	while (canary->reset < canary->ring.fetch && !ring_is_released(&canary->ring, canary->reset))
		canary->reset++;
	return canary->reset - before;
}

/*
 * Have the accelerator reset all released entries, and again if that was cut short; `expected` of them are known.
 * Returns how many were reset, without canaries, and in `whole` whether the last attempt ran to its end.
 */
static uint64_t reset_rings(struct engine *engine, uint64_t expected, bool *whole)
{
	struct dirty_log *log = &engine->log;
	bool has_canary = log->canary.ring.size;
	bool offered = has_canary && offer_canary(engine);
	uint64_t freed = 0;

	*whole = false;
	for (int attempt = 0; attempt < RESET_TRIES && !*whole; attempt++) {
		int64_t ret = engine->ops->reset_rings(engine);

		uint64_t canaries = count_canaries(&log->canary);

		if (ret > 0 && (uint64_t)ret > canaries)
			freed += (uint64_t)ret - canaries;
		/* Without a canary the numbers are all there is. */
		*whole = has_canary ? offered && log->canary.reset == log->canary.ring.fetch
				    : freed >= expected;
		if (!*whole) {
			log->distrusted = true;
			if (!attempt) {
				store_release(&log->cut_resets, log->cut_resets + 1);
				if (freed >= expected)
					store_release(&log->hidden_cuts, log->hidden_cuts + 1);
			}
		}
	}
	return freed;
}

/*
 * Have the kernel's reset index move on over ghosts, to the next multiple of `every` from `stop` on, or to the first
 * entry that is dirty. We do not know where it is; so all entries that are not dirty offer themselves for the reset
 * but those where it shall stop, and afterwards none does. A vCPU may push meanwhile: its flag goes before ours.
 * With no entry harvested and not reset. Returns how far it went.
 */
static uint64_t pass_ghosts(struct vcpu *vcpu, uint64_t stop, uint32_t every)
{
	struct ring *ring = &vcpu->ring;
	uint64_t passed;
	bool whole;

	for (uint64_t i = 0; i < ring->size; i++) {
		uint32_t expected = 0;

		if (i % every)
			__atomic_compare_exchange_n(&ring_entry(ring, stop + i)->flags, &expected,
						    KVM_DIRTY_GFN_F_RESET, false, __ATOMIC_ACQ_REL,
						    __ATOMIC_RELAXED);
	}
	passed = reset_rings(vcpu->engine, 0, &whole);
	for (uint64_t i = 0; i < ring->size; i++) {
		uint32_t expected = KVM_DIRTY_GFN_F_RESET;

		__atomic_compare_exchange_n(&ring_entry(ring, i)->flags, &expected, 0, false,
					    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	}
	return passed;
}

/* Reset what was harvested. What a reset that was cut short again and again leaves, is left to the next one. */
static void reset_harvested(struct engine *engine)
{
	struct dirty_log *log = &engine->log;
	uint64_t freed;
	bool whole;

	if (!log->harvested)
		return;
	freed = reset_rings(engine, log->harvested, &whole);
	log->harvested -= freed < log->harvested ? freed : log->harvested;
	if (!log->harvested || (!whole && log->canary.ring.size))
		return;
	/* The reset index does not come to where we harvest. */
	log->distrusted = true;
	if (whole)
		store_release(&log->cut_resets, log->cut_resets + 1);
	log->harvested = 0;
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];

		if (vcpu->ring.size && !vcpu->astray)
			pass_ghosts(vcpu, vcpu->ring.fetch, vcpu->ring.size);
	}
}

static void overflowed(struct vcpu *vcpu)
{
	store_release(&vcpu->overflows, vcpu->overflows + 1);
	notify(vcpu->engine->notify_fd);
	vcpu->astray = true;
	vcpu->engine->log.distrusted = true;
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
	reset_harvested(vcpu->engine); /* other rings' */
	store_release(&ring->fetch, ring->fetch + (ahead + size - back) % size);
	pass_ghosts(vcpu, ring->fetch, ring->size);
	/* A push where the reset passes at that moment is forgotten. */
	vcpu->engine->log.distrusted = true;
	vcpu->astray = false;
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

	if (vcpu->astray && !find_place(vcpu))
		return 0;
	from = ring->fetch;
	for (index = from; index - from < ring->size && ring_is_dirty(ring, index); index++) {
		struct kvm_dirty_gfn *entry = ring_entry(ring, index);

		/* Atomic, for a ring that is being overrun. */
		mark_entry(vcpu->engine, load_relaxed(&entry->slot), load_relaxed(&entry->offset));
		store_release(&entry->flags, KVM_DIRTY_GFN_F_RESET);
		store_release(&ring->fetch, index + 1);
	}
	/* Nobody stops a ring before its last entry is used but an overflow. */
	if (index - from == ring->size || out_of_step(ring))
		overflowed(vcpu);
	vcpu->engine->log.harvested += index - from;
	trace_since(TRACE_KVM_DIRTY_RING_REAP_VCPU, started, vcpu->index, 0);
	return index - from;
}

static void trace_reap(uint64_t started, uint64_t pages)
{
	if (started)
		trace_since(TRACE_KVM_DIRTY_RING_REAP, started, pages, (now_ns() - started) / 1000);
}

void reap_full_ring(struct vcpu *vcpu)
{
	struct dirty_log *log = &vcpu->engine->log;
	struct ring *ring = &vcpu->ring;
	uint64_t started, pages;

	pthread_mutex_lock(&log->lock);
	started = trace_start(TRACE_KVM_DIRTY_RING_REAP);
	pages = harvest(vcpu);
	if (!pages && !log->harvested && ring->fetch == vcpu->full_fetch) {
		/*
		 * Full, without an entry in it, and no harvest came since the last time that this was so: the kernel
		 * counts ghosts. At least as many as make a ring full; a quarter is less than that with any
		 * reserve that it keeps. The second try is for an index that was at a stop.
		 */
		overflowed(vcpu);
		if (!pass_ghosts(vcpu, 0, ring->size / 4))
			pass_ghosts(vcpu, 1, ring->size / 4);
	}
	reset_harvested(vcpu->engine);
	vcpu->full_fetch = ring->fetch;
	trace_reap(started, pages);
	pthread_mutex_unlock(&log->lock);
}

static uint64_t reap_locked(struct engine *engine)
{
	uint64_t started = trace_start(TRACE_KVM_DIRTY_RING_REAP), pages = 0;

	for (uint32_t i = 0; i < engine->nvcpus; i++)
		if (engine->vcpus[i]->ring.size)
			pages += harvest(engine->vcpus[i]);
	reset_harvested(engine);
	trust_again(engine);
	stock_canaries(engine);
	trace_reap(started, pages);
	return pages;
}

uint64_t engine_reap(struct engine *engine)
{
	uint64_t pages;

	pthread_mutex_lock(&engine->log.lock);
	pages = reap_locked(engine);
	pthread_mutex_unlock(&engine->log.lock);
	return pages;
}

void engine_take_bitmap(struct engine *engine, uint64_t *bitmap)
{
	struct dirty_log *log = &engine->log;

	trace_now(TRACE_KVM_DIRTY_RING_FLUSH, 0, 0, 0);
	wait_for_exits(engine);
	pthread_mutex_lock(&log->lock);
	reap_locked(engine);
	for (size_t i = 0; i < bitmap_words(engine); i++)
		bitmap[i] = load_relaxed(&log->bitmap[i]) ?
				    __atomic_exchange_n(&log->bitmap[i], 0, __ATOMIC_ACQ_REL) : 0;
	pthread_mutex_unlock(&log->lock);
	trace_now(TRACE_KVM_DIRTY_RING_FLUSH, 1, 0, 0);
}

static int switch_on(struct engine *engine)
{
	struct dirty_log *log = &engine->log;

	if (set_logging(engine, true) < 0) {
		int error = errno;

		set_logging(engine, false);
		errno = error;
		return -1;
	}
	__atomic_exchange_n(&log->tracking, 1, __ATOMIC_ACQ_REL); /* see engine_mark_dirty() */
	trust_again(engine);
	return 0;
}

static int switch_off(struct engine *engine)
{
	int ret, error;

	store_release(&engine->log.tracking, 0); /* first: limited vCPUs hold, because their pages go uncounted now */
	ret = set_logging(engine, false);
	error = errno;
	reap_locked(engine); /* the entries left in the rings */
	errno = error;
	return ret;
}

int engine_set_tracking(struct engine *engine, bool on)
{
	struct dirty_log *log = &engine->log;
	int ret = 0, error;

	pthread_mutex_lock(&log->lock);
	if (on != log->tracking)
		ret = on ? switch_on(engine) : switch_off(engine);
	error = errno;
	pthread_mutex_unlock(&log->lock);
	if (on)
		kick_all(engine);
	errno = error;
	return ret;
}
