/*
 * The dirty log: harvest, reset, the bitmap, and what to do when a reset was cut short or a ring was overrun.
 *
 * The order: set the page's bit, release the entry's flag, reset the rings, and only then hand the bit over: the
 * guest's stores before the reset are covered by the bit, and those after it push a new entry. During a migration it is
 * the reset before the page is sent that does so: protection.c.
 *
 * Locks. Each ring has one, for its harvest: rings are harvested at the same time, and while others are reset.
 * log.lock is for resets, for the switch, and for all that is rare. It is taken before any ring's and before any of
 * the accelerator's. Whoever must find no entry that is released and not reset holds it and then all rings' locks
 * (lock_rings). Nothing waits for a vCPU under any of them.
 *
 * Resets are numbered, and one serves all who harvested before it began. It visits all rings and has every running
 * vCPU flush its TLB, so the fewer the better:
 *
 *     whoever harvests, under the ring's lock    whoever resets, under log.lock
 *     ---------------------------------------    ------------------------------
 *     (1) release the entries                    (a) resets_begun += 1
 *     (2) reset_due = resets_begun + 0, plus 1   (b) the accelerator resets all rings
 *                                                (c) resets_ended = resets_begun
 *
 * (2) and (a) are read-modify-writes of one word: the later of two sees the earlier, and all that its thread wrote
 * before. Either (2) comes before the (a) that makes the number reset_due, and that reset finds the entries released;
 * or (2) comes after it, and asks for the next one. So when resets_ended has come to reset_due, the entries are
 * reset: of the threads that queue up for log.lock after their harvests, the first makes a reset for all. A ring
 * that waits for its reset is not harvested again.
 * A vCPU whose ring is full also harvests those that are at least half full, and rings of vCPUs that write
 * alike fall into step. Not the emptier ones: each harvest costs the guest its write faults again, and a small working
 * set beside a heavy writer would have them at each of the writer's resets. Not those of vCPUs that are
 * limited either: they pay for these faults.
 *
 * The bitmap has two sides, because a bit must not be taken between its page's harvest and the reset: the guest could
 * store to the page after the taker has read it, and push nothing. A taker turns each ring to the other side, under
 * the ring's lock; all that is on the side left behind was harvested by then. It makes a reset, which begins after
 * that, and moves the words of that side without any lock but the one among takers.
 *
 * The canary. Since Linux 6.16 a pending signal makes KVM_RESET_DIRTY_RINGS end early. The pages that it was
 * gathering at that moment, up to 64, stay writable and are not logged again. It looks for signals at the top of its
 * loop, also after the last entry was counted and before the last pages are protected, so the full number can come
 * back. Signals are masked during the call; SIGSTOP, the freezer, a tracer, suspend and livepatch cannot be. Whether
 * a reset was cut short shows only in what the kernel does last. So there is a ring more, of a vCPU that was created
 * last and never runs, and with each reset entries of it are released, the canaries; the last one tells:
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
#include <string.h>

#include "bits.h"
#include "engine.h"

#define RESET_TRIES 8    /* a storm of stops lets one of them through */
#define CANARY_BATCH 256 /* entries that are pushed at a time */
#define CANARY_STOCK 1024
#define DEFER_WORDS 16   /* of which all pages are protected at a time */
#define LOOKED_AT 4096   /* entries of a ring that tell how many of all are new */
#define NO_PAGE (~0ull)
#define NO_SLOT UINT32_MAX /* a reset protects nothing for it */

/* The holder of a lock that the reaper waits for runs at least at the priority of the reaper. */
static void init_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t inherit;

	pthread_mutexattr_init(&inherit);
	pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(lock, &inherit);
	pthread_mutexattr_destroy(&inherit);
}

int dirtylog_init(struct engine *engine)
{
	struct dirty_log *log = &engine->log;

	init_lock(&log->lock);
	init_lock(&log->take_lock);
	for (int side = 0; side < 2; side++) {
		log->bitmaps[side] = calloc(bits_words(engine->memory.pages), sizeof(uint64_t));
		if (!log->bitmaps[side])
			return -1;
	}
	return 0;
}

void dirtylog_free(struct engine *engine)
{
	struct dirty_log *log = &engine->log;

	pthread_mutex_destroy(&log->lock);
	pthread_mutex_destroy(&log->take_lock);
	free(log->bitmaps[0]);
	free(log->bitmaps[1]);
}

void dirtylog_init_vcpu(struct vcpu *vcpu)
{
	init_lock(&vcpu->ring_lock);
	vcpu->full_fetch = UINT64_MAX; /* never */
}

void dirtylog_free_vcpu(struct vcpu *vcpu)
{
	pthread_mutex_destroy(&vcpu->ring_lock);
}

static void lock_rings(struct engine *engine)
{
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		pthread_mutex_lock(&engine->vcpus[i]->ring_lock);
}

static void unlock_rings(struct engine *engine)
{
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		pthread_mutex_unlock(&engine->vcpus[i]->ring_lock);
}

/* Return the page of RAM, or NO_PAGE. Atomic, for a ring that is being overrun. */
static uint64_t page_of(const struct memory *memory, const struct kvm_dirty_gfn *entry)
{
	/* slot is address space << 16 | slot; x86 without SMM has one address space */
	uint32_t slot = load_relaxed(&entry->slot);
	uint64_t offset = load_relaxed(&entry->offset);

	if (slot >= memory->nslots || offset >= memory->slots[slot].pages)
		return NO_PAGE;
	return memory->slots[slot].ram_page + offset;
}

void engine_mark_dirty(struct engine *engine, uint64_t ram_page, uint64_t pages)
{
	struct dirty_log *log = &engine->log;

	/*
	 * A read-modify-write, as in switch_on(): the later of the two sees the earlier. So tracking is seen to be on
	 * here, or whoever switched it on sees the pages that were written before.
	 */
	if (!__atomic_fetch_or(&log->tracking, 0, __ATOMIC_ACQ_REL))
		return;
	/* Which side is taken next is not known without a lock. On both, a page may be reported twice. */
	for (uint64_t page = ram_page; page < ram_page + pages; page++)
		for (int side = 0; side < 2; side++)
			__atomic_fetch_or(&log->bitmaps[side][page / 64], 1ull << (page % 64),
					  __ATOMIC_RELEASE);
}

static void mark_all(const struct engine *engine, uint64_t *bitmap)
{
	uint64_t pages = engine->memory.pages;

	for (uint64_t i = 0; i < pages / 64; i++)
		store_release(&bitmap[i], ~0ull);
	if (pages % 64)
		store_release(&bitmap[pages / 64], (1ull << (pages % 64)) - 1);
}

static int set_logging(struct engine *engine, bool on)
{
	int ret;

	if (on)
		protection_forget(&engine->protection);
	ret = engine->ops->log_dirty_pages(engine, on);
	engine->log.logging = on || ret < 0; /* of several slots some may be logged */
	return ret;
}

static void distrust(struct dirty_log *log)
{
	store_release(&log->distrusted, 1);
}

/*
 * Pages may be writable and not logged. Switching the log off and on protects all of them; what was stored before, or
 * while it was off, is covered by marking everything after that, on the side that is taken next. Should it fail,
 * every bitmap is full until it succeeds. The flag is cleared first, because harvests go on: for an overflow that is
 * found from then on it must be done again.
 */
static void trust_again(struct engine *engine, uint64_t *bitmap)
{
	struct dirty_log *log = &engine->log;

	if (!load_acquire(&log->distrusted))
		return;
	if (bitmap == log->bitmaps[log->side])
		store_release(&log->all_marked, 1); /* before the flag is cleared: see engine_dirty_pages() */
	__atomic_exchange_n(&log->distrusted, 0, __ATOMIC_ACQ_REL);
	if ((log->logging && set_logging(engine, false) < 0) || (log->tracking && set_logging(engine, true) < 0))
		distrust(log);
	mark_all(engine, bitmap);
}

/*
 * Push canaries ahead, until the next ones would have no room. Not on the path of a vCPU whose ring is full, which may
 * have to wait for it, though.
 */
static void stock_canaries(struct engine *engine)
{
	struct canary *canary = &engine->log.canary;
	const struct ring *ring = &canary->ring;

	uint32_t batch = ring->size / 4 < CANARY_BATCH ? ring->size / 4 : CANARY_BATCH;
	uint32_t most = ring->size / 2 < CANARY_STOCK ? ring->size / 2 : CANARY_STOCK;

	while (ring->size && canary->pushed - canary->reset + batch <= most) {
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

/* Whether so many canaries are there, which no reset was offered. */
static bool have_canaries(struct engine *engine, uint64_t count)
{
	const struct canary *canary = &engine->log.canary;

	if (canary->pushed - canary->ring.fetch < count)
		stock_canaries(engine);
	return canary->pushed - canary->ring.fetch >= count;
}

/* Release a canary for the reset that follows; it protects that page, or none (NO_SLOT). There must be one. */
static void offer_canary(struct engine *engine, uint32_t slot, uint64_t offset)
{
	struct ring *ring = &engine->log.canary.ring;
	struct kvm_dirty_gfn *entry = ring_entry(ring, ring->fetch);

	store_relaxed(&entry->slot, slot);
	store_relaxed(&entry->offset, offset);
	store_release(&entry->flags, KVM_DIRTY_GFN_F_RESET);
	ring->fetch++;
}

/* Whether all canaries that were offered are reset. */
static bool canary_is_reset(struct canary *canary)
{
	while (canary->reset < canary->ring.fetch && !ring_is_released(&canary->ring, canary->reset))
		canary->reset++;
	return canary->reset == canary->ring.fetch;
}

/*
 * Whether the ring has an entry that was released when the last reset began, and is not reset. A reset that was cut
 * short leaves the last one, and one that began elsewhere than our harvest the first. In a ring that is astray they
 * tell nothing.
 */
static bool has_unreset(const struct vcpu *vcpu)
{
	return vcpu->reset_from != vcpu->reset_to && !load_acquire(&vcpu->astray) &&
	       (ring_is_released(&vcpu->ring, vcpu->reset_from) ||
		ring_is_released(&vcpu->ring, vcpu->reset_to - 1));
}

static bool any_has_unreset(const struct engine *engine)
{
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		if (has_unreset(engine->vcpus[i]))
			return true;
	return false;
}

/* The next reset is to reset what was released until now. */
static void begin_reset(struct vcpu *vcpu)
{
	if (!has_unreset(vcpu))
		vcpu->reset_from = vcpu->reset_to;
	vcpu->reset_to = load_acquire(&vcpu->ring.fetch);
}

/*
 * Have the accelerator reset all released entries, and again if that was cut short. Returns false if it still was in
 * the end: the entries that are left then are left to the next reset.
 */
static bool reset_rings(struct engine *engine)
{
	struct dirty_log *log = &engine->log;
	bool has_canary = log->canary.ring.size;
	bool offered = has_canary && have_canaries(engine, 1);

	if (offered)
		offer_canary(engine, NO_SLOT, 0);
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		begin_reset(engine->vcpus[i]);
	for (int attempt = 0; attempt < RESET_TRIES; attempt++) {
		uint64_t number = __atomic_fetch_add(&log->resets_begun, 1, __ATOMIC_ACQ_REL) + 1;
		bool unreset;

		engine->ops->reset_rings(engine);
		unreset = any_has_unreset(engine);
		/* Without a canary the entries that are left are all there is to tell. */
		if (has_canary ? canary_is_reset(&log->canary) && offered : !unreset) {
			store_release(&log->resets_ended, number);
			return true;
		}
		distrust(log);
		if (!attempt) {
			count_up(&log->cut_resets, 1);
			if (!unreset)
				count_up(&log->hidden_cuts, 1);
		}
	}
	return !has_canary;
}

static uint32_t count_released(const struct ring *ring)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < ring->size; i++)
		count += ring_is_released(ring, i);
	return count;
}

/*
 * Have the kernel's reset index move on over ghosts, to the next multiple of `every` from `stop` on, or to the first
 * entry that is dirty. We do not know where it is; so all entries that are not dirty offer themselves for the reset
 * but those where it shall stop, and afterwards none does. A vCPU may push meanwhile: its flag goes before ours.
 * With all rings locked and no entry harvested and not reset. Returns whether the index moved.
 */
static bool pass_ghosts(struct vcpu *vcpu, uint64_t stop, uint32_t every)
{
	struct ring *ring = &vcpu->ring;
	uint32_t offered;
	bool moved;

	for (uint64_t i = 0; i < ring->size; i++) {
		uint32_t expected = 0;

		if (i % every)
			__atomic_compare_exchange_n(&ring_entry(ring, stop + i)->flags, &expected,
						    KVM_DIRTY_GFN_F_RESET, false, __ATOMIC_ACQ_REL,
						    __ATOMIC_RELAXED);
	}
	offered = count_released(ring);
	reset_rings(vcpu->engine);
	moved = count_released(ring) < offered;
	for (uint64_t i = 0; i < ring->size; i++) {
		uint32_t expected = KVM_DIRTY_GFN_F_RESET;

		__atomic_compare_exchange_n(&ring_entry(ring, i)->flags, &expected, 0, false,
					    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	}
	vcpu->reset_from = vcpu->reset_to = ring->fetch; /* no entry is released */
	return moved;
}

/* With all rings locked: reset them, and have each reset index come to where we harvest. */
static void reset_in_step(struct engine *engine)
{
	struct dirty_log *log = &engine->log;

	if (!reset_rings(engine) || !any_has_unreset(engine))
		return;
	count_up(&log->cut_resets, 1);
	distrust(log);
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];

		if (has_unreset(vcpu))
			pass_ghosts(vcpu, vcpu->ring.fetch, vcpu->ring.size);
	}
}

/* Reset the rings while they are harvested. If entries are left, look again when they are not. */
static void reset_harvested(struct engine *engine)
{
	if (!reset_rings(engine) || !any_has_unreset(engine))
		return;
	lock_rings(engine);
	reset_in_step(engine);
	unlock_rings(engine);
}

/* Whether the ring was harvested, and the reset for it has not ended. */
static bool waits_for_reset(const struct vcpu *vcpu)
{
	return load_acquire(&vcpu->reset_due) > load_acquire(&vcpu->engine->log.resets_ended);
}

/* Under log->lock: reset the rings if one waits for it. */
static void reset_if_due(struct engine *engine)
{
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		if (waits_for_reset(engine->vcpus[i])) {
			reset_harvested(engine);
			return;
		}
}

/* Return when the reset of that number, or a later one, has ended, unless it was cut short again and again. */
static void wait_for_reset(struct engine *engine, uint64_t due)
{
	struct dirty_log *log = &engine->log;

	if (load_acquire(&log->resets_ended) >= due)
		return;
	pthread_mutex_lock(&log->lock);
	if (log->resets_ended < due)
		reset_harvested(engine);
	pthread_mutex_unlock(&log->lock);
}

/* Have the next reset protect a page that the guest sees. Resets the rings before if no canary is left for that. */
static void offer_page(struct engine *engine, uint32_t slot, uint64_t offset)
{
	if (!have_canaries(engine, 2)) /* one is the reset's own */
		reset_harvested(engine);
	if (have_canaries(engine, 2))
		offer_canary(engine, slot, offset);
	else
		distrust(&engine->log);
}

static void offer_word(struct engine *engine, uint64_t word, uint64_t bits)
{
	for (; bits; bits &= bits - 1) {
		uint64_t page = word * WORD_PAGES + (uint64_t)__builtin_ctzll(bits);

		for (uint32_t i = 0; i < engine->memory.nslots; i++) {
			const struct memslot *slot = &engine->memory.slots[i];

			if (page - slot->ram_page < slot->pages)
				offer_page(engine, i, page - slot->ram_page);
		}
	}
}

void engine_protect(struct engine *engine, uint64_t word, const uint64_t *bitmap, uint64_t words)
{
	struct protection *protection = &engine->protection;
	bool any = false;

	for (uint64_t i = 0; i < words && !any; i++)
		any = protection_writable(protection, word + i) & bitmap[i];
	if (!any)
		return;
	pthread_mutex_lock(&engine->log.lock);
	for (uint64_t i = 0; i < words; i++)
		offer_word(engine, word + i, protection_take(protection, word + i, bitmap[i]));
	reset_harvested(engine);
	stock_canaries(engine); /* now, and not in the last harvest of a migration, whose guest stands still */
	pthread_mutex_unlock(&engine->log.lock);
}

void engine_defer_protection(struct engine *engine, bool on)
{
	uint64_t all[DEFER_WORDS], words = engine->protection.words, step;

	lock_rings(engine);
	engine->protection.deferred = on && engine->log.canary.ring.size;
	unlock_rings(engine);
	if (on)
		return;
	memset(all, 0xff, sizeof(all));
	for (uint64_t word = 0; word < words; word += step) {
		step = words - word < DEFER_WORDS ? words - word : DEFER_WORDS;
		engine_protect(engine, word, all, step);
	}
}

static void overflowed(struct vcpu *vcpu)
{
	store_release(&vcpu->overflows, vcpu->overflows + 1);
	notify(vcpu->engine->notify_fd);
	store_release(&vcpu->astray, 1);
	distrust(&vcpu->engine->log);
}

/*
 * After an overflow: go to where the pushed entries begin, if any were pushed since, and have the reset index follow.
 * Forward to any dirty entry, and then back to the first of its run, which a vCPU lengthens at its end only.
 * With all rings locked.
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
	reset_in_step(vcpu->engine);
	store_release(&ring->fetch, ring->fetch + (ahead + size - back) % size);
	pass_ghosts(vcpu, ring->fetch, ring->size);
	/* A push where the reset passes at that moment is forgotten. */
	distrust(&vcpu->engine->log);
	store_release(&vcpu->astray, 0);
	return true;
}

/* Entries are pushed in order: one that is dirty behind one that is not was pushed somewhere else than we look. */
static bool out_of_step(const struct ring *ring)
{
	return !ring_is_dirty(ring, ring->fetch) && ring_is_dirty(ring, ring->fetch + 1) &&
	       !ring_is_dirty(ring, ring->fetch);
}

/*
 * Under the ring's lock; a no-op while the ring waits for a reset. So the reset index is where the harvest begins, and it
 * ends where entries end now: with a reset under way it could go on for ever.
 */
static uint64_t harvest(struct vcpu *vcpu)
{
	struct engine *engine = vcpu->engine;
	struct dirty_log *log = &engine->log;
	struct ring *ring = &vcpu->ring;
	uint64_t started = trace_start(TRACE_KVM_DIRTY_RING_REAP_VCPU);
	uint64_t from = ring->fetch, marked = 0, end, index;

	if (!ring->size || vcpu->astray || waits_for_reset(vcpu))
		return 0;
	end = ring_pushed(ring, from);
	for (index = from; index < end && ring_is_dirty(ring, index); index++) {
		struct kvm_dirty_gfn *entry = ring_entry(ring, index);
		uint64_t page = page_of(&engine->memory, entry);

		if (page != NO_PAGE) {
			if (protection_defer(&engine->protection, page))
				store_relaxed(&entry->slot, NO_SLOT);
			marked += bit_set(log->bitmaps[vcpu->side], page);
		}
		store_release(&entry->flags, KVM_DIRTY_GFN_F_RESET);
		store_release(&ring->fetch, index + 1);
	}
	count_up(&vcpu->marked, marked);
	/* Nobody stops a ring before its last entry is used but an overflow. */
	if (end - from == ring->size || out_of_step(ring))
		overflowed(vcpu);
	if (index != from)
		store_release(&vcpu->reset_due,
			      __atomic_fetch_add(&log->resets_begun, 0, __ATOMIC_ACQ_REL) + 1);
	trace_since(TRACE_KVM_DIRTY_RING_REAP_VCPU, started, vcpu->index, 0);
	return index - from;
}

static void trace_reap(uint64_t started, uint64_t pages)
{
	if (started)
		trace_since(TRACE_KVM_DIRTY_RING_REAP, started, pages, (now_ns() - started) / 1000);
}

/* Harvest the rings of others that the coming reset is worth it for: the head of this file says which. */
static uint64_t harvest_fuller_half(const struct vcpu *self)
{
	const struct engine *engine = self->engine;
	uint64_t pages = 0;

	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];
		const struct ring *ring = &vcpu->ring;

		if (vcpu == self || !ring->size || limit_of(vcpu) ||
		    !ring_is_dirty(ring, load_acquire(&ring->fetch) + ring->size / 2))
			continue;
		if (pthread_mutex_trylock(&vcpu->ring_lock)) /* it is being harvested */
			continue;
		pages += harvest(vcpu);
		pthread_mutex_unlock(&vcpu->ring_lock);
	}
	return pages;
}

/*
 * The ring is full and had no entry to harvest. After an overflow: look for its entries. And if it was so the last
 * time already, at `before`, and no harvest came since, the kernel counts ghosts: at least as many as make a ring full;
 * a quarter is less than that with any reserve that it keeps. The second try is for an index that was at a stop.
 */
static uint64_t free_full_ring(struct vcpu *vcpu, uint64_t before)
{
	struct engine *engine = vcpu->engine;
	struct ring *ring = &vcpu->ring;
	uint64_t pages;

	pthread_mutex_lock(&engine->log.lock);
	lock_rings(engine);
	if (vcpu->astray)
		find_place(vcpu);
	pages = harvest(vcpu);
	if (!pages && ring->fetch == before && vcpu->reset_due <= engine->log.resets_ended) {
		overflowed(vcpu);
		if (!pass_ghosts(vcpu, 0, ring->size / 4))
			pass_ghosts(vcpu, 1, ring->size / 4);
	}
	reset_in_step(engine);
	vcpu->full_fetch = ring->fetch;
	unlock_rings(engine);
	pthread_mutex_unlock(&engine->log.lock);
	return pages;
}

void reap_full_ring(struct vcpu *vcpu)
{
	uint64_t started = trace_start(TRACE_KVM_DIRTY_RING_REAP);
	uint64_t before = vcpu->full_fetch, due, pages;
	bool without_entry;

	pthread_mutex_lock(&vcpu->ring_lock);
	pages = harvest(vcpu);
	due = vcpu->reset_due;
	vcpu->full_fetch = vcpu->ring.fetch;
	without_entry = !pages && (vcpu->astray || vcpu->full_fetch == before);
	pthread_mutex_unlock(&vcpu->ring_lock);
	if (without_entry) {
		pages = free_full_ring(vcpu, before);
	} else {
		pages += harvest_fuller_half(vcpu);
		wait_for_reset(vcpu->engine, due);
	}
	trace_reap(started, pages);
}

/* Harvest all rings but those that wait for a reset. */
static uint64_t harvest_all(struct engine *engine)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];

		pthread_mutex_lock(&vcpu->ring_lock);
		pages += harvest(vcpu);
		pthread_mutex_unlock(&vcpu->ring_lock);
	}
	return pages;
}

/*
 * Under log->lock: harvest all that was pushed before the call. A ring that waits for a reset is left out at first: its
 * harvest may have looked for the last entry before the call, and more were pushed since. One that waits again after the
 * reset was harvested after the call began.
 */
static uint64_t harvest_pushed(struct engine *engine)
{
	uint64_t pages = 0;
	bool left_out = false;

	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];

		pthread_mutex_lock(&vcpu->ring_lock);
		left_out |= waits_for_reset(vcpu);
		pages += harvest(vcpu);
		pthread_mutex_unlock(&vcpu->ring_lock);
	}
	if (!left_out)
		return pages;
	reset_if_due(engine);
	return pages + harvest_all(engine);
}

/* Find the place in rings that were overrun, and harvest them. */
static uint64_t harvest_astray(struct engine *engine)
{
	uint64_t pages = 0;
	bool any = false;

	for (uint32_t i = 0; i < engine->nvcpus; i++)
		any |= load_acquire(&engine->vcpus[i]->astray);
	if (!any)
		return 0;
	lock_rings(engine);
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];

		if (vcpu->astray && find_place(vcpu))
			pages += harvest(vcpu);
	}
	unlock_rings(engine);
	return pages;
}

/*
 * Under log->lock, after a harvest: make sure that each page on a side of the bitmap, this one, is logged when it is
 * stored to again, and that it has each page that was stored to before. Returns the pages found late.
 */
static uint64_t make_good(struct engine *engine, uint64_t *bitmap)
{
	uint64_t pages = harvest_astray(engine);

	reset_if_due(engine);
	trust_again(engine, bitmap);
	stock_canaries(engine);
	return pages;
}

uint64_t engine_reap(struct engine *engine)
{
	struct dirty_log *log = &engine->log;
	uint64_t started = trace_start(TRACE_KVM_DIRTY_RING_REAP);
	uint64_t pages = harvest_all(engine);

	pthread_mutex_lock(&log->lock);
	pages += make_good(engine, log->bitmaps[log->side]);
	pthread_mutex_unlock(&log->lock);
	trace_reap(started, pages);
	return pages;
}

/* Have all harvests mark on the other side from now on. Returns the side left. */
static uint64_t *turn_over(struct engine *engine)
{
	struct dirty_log *log = &engine->log;
	uint64_t *left = log->bitmaps[log->side];

	log->side = !log->side;
	store_release(&log->all_marked, 0);
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];

		pthread_mutex_lock(&vcpu->ring_lock);
		vcpu->side = log->side;
		store_release(&vcpu->marked, 0);
		pthread_mutex_unlock(&vcpu->ring_lock);
	}
	return left;
}

void engine_take_bitmap(struct engine *engine, uint64_t *bitmap)
{
	struct dirty_log *log = &engine->log;
	uint64_t started, pages, *taken;

	trace_now(TRACE_KVM_DIRTY_RING_FLUSH, 0, 0, 0);
	pthread_mutex_lock(&log->take_lock);
	wait_for_exits(engine);
	started = trace_start(TRACE_KVM_DIRTY_RING_REAP);
	pthread_mutex_lock(&log->lock);
	pages = harvest_pushed(engine);
	taken = turn_over(engine);
	pages += make_good(engine, taken);
	pthread_mutex_unlock(&log->lock);
	trace_reap(started, pages);
	for (size_t i = 0; i < bits_words(engine->memory.pages); i++)
		bitmap[i] = load_relaxed(&taken[i]) ? __atomic_exchange_n(&taken[i], 0, __ATOMIC_ACQ_REL) : 0;
	pthread_mutex_unlock(&log->take_lock);
	trace_now(TRACE_KVM_DIRTY_RING_FLUSH, 1, 0, 0);
}

/* Under the ring's lock. Of many entries, a part stands for all. */
static uint64_t count_unmarked(struct vcpu *vcpu)
{
	const struct ring *ring = &vcpu->ring;
	const uint64_t *bitmap = vcpu->engine->log.bitmaps[vcpu->side];
	uint64_t from = ring->fetch, end = ring_pushed(ring, from), step = (end - from) / LOOKED_AT + 1, found = 0;

	for (uint64_t index = from; index < end; index += step) {
		uint64_t page = page_of(&vcpu->engine->memory, ring_entry(ring, index));

		found += page != NO_PAGE && !bit_is_set(bitmap, page);
	}
	return found * step;
}

uint64_t engine_dirty_pages(struct engine *engine)
{
	const struct dirty_log *log = &engine->log;
	uint64_t pages = 0;

	/* The caller plans a pause by this: all of RAM does not fit. The first is cleared after the other is set. */
	if (load_acquire(&log->distrusted) || load_acquire(&log->all_marked))
		return engine->memory.pages;
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];

		pthread_mutex_lock(&vcpu->ring_lock);
		pages += vcpu->marked;
		if (vcpu->ring.size)
			pages += count_unmarked(vcpu);
		pthread_mutex_unlock(&vcpu->ring_lock);
	}
	return pages;
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
	trust_again(engine, log->bitmaps[log->side]);
	return 0;
}

static int switch_off(struct engine *engine)
{
	struct dirty_log *log = &engine->log;
	int ret, error;

	store_release(&log->tracking, 0); /* first: limited vCPUs hold, because their pages go uncounted now */
	ret = set_logging(engine, false);
	error = errno;
	harvest_pushed(engine); /* the entries left in the rings */
	make_good(engine, log->bitmaps[log->side]);
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
