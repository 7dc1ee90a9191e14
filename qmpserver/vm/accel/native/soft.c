/*
 * The software accelerator: threads that dirty real memory, and the part of KVM that logs it.
 *
 * A vCPU here is a C loop that does what the guest program `dirty` does, on the same memory, from the same
 * control block. The part that stands for KVM keeps to KVM's rules, and reaper, limit and tests run unchanged:
 * a page is pushed when first stored to after it was protected; the ring is soft-full while 64 entries are
 * still free, and the vCPU is not entered again until it is not; a reset takes the entries that user space
 * released, in order, and protects their pages again; and it returns only when no vCPU can still be storing
 * by an old permission (where KVM flushes the TLBs, this waits for each vCPU's batch to end).
 */
#define _GNU_SOURCE
#include "soft.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "guest.h"

#define RESERVED 64 /* KVM_DIRTY_RING_RSVD_ENTRIES */
#define FAULT_NS 2500 /* what a write fault and its log entry cost a guest on KVM, or rates would be absurd */
#define BUFFER 512  /* entries in Intel's page modification log */
#define GATHERED 64 /* pages that a reset protects at a time */
#define CANARIES 256 /* entries in the canary's ring */
#define BATCH 32    /* stores between two looks; less than RESERVED, so that a batch never overruns */

struct soft_vcpu {
	struct dirty_guest *control; /* NULL: there is no guest */
	uint64_t control_page;
	const struct memslot *control_slot;
	struct soft_vcpu_state state;
	uint32_t dirty_index; /* next entry to push */
	uint32_t reset_index; /* next entry to reset; written under slots_lock */
	uint32_t batch;       /* odd while storing */
	uint32_t buffered;    /* pages that wait in the buffer */
	struct kvm_dirty_gfn buffer[BUFFER];
};

struct soft_vm {
	uint64_t *writable; /* a bit per RAM page: stored to since it was last protected */
	uint64_t *log;      /* where there are no rings: a bit per RAM page logged */
	uint32_t logging;
	pthread_mutex_t slots_lock;

	struct kvm_dirty_gfn canaries[CANARIES]; /* the ring that is reset last */
	uint32_t canary_dirty_index;
	uint32_t canary_reset_index;

	/* faults, for tests */
	uint32_t overrun;
	uint32_t interrupt;
	uint32_t cut;
	uint32_t buffering;
};

static void soft_free_vm(struct engine *engine)
{
	if (!engine->soft)
		return;
	pthread_mutex_destroy(&engine->soft->slots_lock);
	free(engine->soft->writable);
	free(engine->soft->log);
	free(engine->soft);
	engine->soft = NULL;
}

int soft_new(struct engine *engine)
{
	struct soft_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return -1;
	engine->soft = vm;
	pthread_mutex_init(&vm->slots_lock, NULL);
	vm->writable = calloc((engine->memory.pages + 63) / 64, sizeof(uint64_t));
	vm->log = calloc((engine->memory.pages + 63) / 64, sizeof(uint64_t));
	if (!vm->writable || !vm->log) {
		soft_free_vm(engine);
		errno = ENOMEM;
		return -1;
	}
	return dirtylog_start_canary(engine, (struct ring){ .entries = vm->canaries, .size = CANARIES });
}

static void soft_free_vcpu(struct vcpu *vcpu)
{
	if (!vcpu->soft)
		return;
	free(vcpu->soft);
	free(vcpu->ring.entries);
}

/* The slot that holds `pages` pages from guest-physical address `gpa`, or -1. */
static int find_slot(const struct engine *engine, uint64_t gpa, uint64_t pages)
{
	for (uint32_t i = 0; i < engine->memory.nslots; i++) {
		const struct memslot *slot = &engine->memory.slots[i];

		if (gpa >= slot->gpa && gpa - slot->gpa < slot->pages * PAGE_BYTES &&
		    pages <= slot->pages - (gpa - slot->gpa) / 4096)
			return (int)i;
	}
	return -1;
}

int soft_vcpu_init(struct vcpu *vcpu, uint64_t control_gpa, uint32_t ring_size)
{
	struct engine *engine = vcpu->engine;
	struct soft_vcpu *soft = calloc(1, sizeof(*soft));
	int slot = control_gpa == NO_GUEST ? 0 : find_slot(engine, control_gpa, 1);

	if (soft && ring_size)
		vcpu->ring.entries = calloc(ring_size, sizeof(*vcpu->ring.entries));
	if (!soft || (ring_size && !vcpu->ring.entries) || slot < 0) {
		free(vcpu->ring.entries);
		free(soft);
		errno = slot < 0 ? EFAULT : ENOMEM;
		return -1;
	}
	vcpu->ring.size = ring_size;
	vcpu->soft = soft;
	if (control_gpa == NO_GUEST)
		return 0;
	soft->control_slot = &engine->memory.slots[slot];
	soft->control_page = soft->control_slot->ram_page + (control_gpa - soft->control_slot->gpa) / 4096;
	soft->control = (struct dirty_guest *)(engine->memory.ram + soft->control_page * 4096);
	guest_dirty_start(&soft->state.guest, soft->control);
	return 0;
}

static void push(struct vcpu *vcpu, uint32_t slot, uint64_t offset)
{
	struct kvm_dirty_gfn *entry = ring_entry(&vcpu->ring, vcpu->soft->dirty_index++);

	/* Atomic, for an entry that is overrun may be read at this moment. */
	store_relaxed(&entry->slot, slot);
	store_relaxed(&entry->offset, offset);
	store_release(&entry->flags, KVM_DIRTY_GFN_F_DIRTY);
}

static void empty_buffer(struct vcpu *vcpu)
{
	struct soft_vcpu *soft = vcpu->soft;

	for (uint32_t i = 0; i < soft->buffered; i++)
		push(vcpu, soft->buffer[i].slot, soft->buffer[i].offset);
	soft->buffered = 0;
}

static void log_page(struct vcpu *vcpu, uint32_t slot, uint64_t offset)
{
	struct soft_vcpu *soft = vcpu->soft;

	if (!vcpu->engine->soft->buffering) {
		push(vcpu, slot, offset);
		return;
	}
	soft->buffer[soft->buffered].slot = slot;
	soft->buffer[soft->buffered].offset = offset;
	if (++soft->buffered == BUFFER)
		empty_buffer(vcpu);
}

/* A write fault: allow the page, and log it, exactly once. */
static void make_writable(struct vcpu *vcpu, const struct memslot *slot, uint64_t page)
{
	uint64_t bit = 1ull << (page % 64), *word = &vcpu->engine->soft->writable[page / 64];
	uint64_t from;

	if (load_seq_cst(word) & bit)
		return;
	if (__atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST) & bit)
		return;
	if (vcpu->ring.size) {
		log_page(vcpu, (uint32_t)(slot - vcpu->engine->memory.slots), page - slot->ram_page);
	} else {
		__atomic_fetch_or(&vcpu->engine->soft->log[page / 64], bit, __ATOMIC_SEQ_CST);
	}
	for (from = now_ns(); now_ns() - from < FAULT_NS;)
		;
}

static bool ring_soft_full(const struct vcpu *vcpu)
{
	uint32_t used = vcpu->soft->dirty_index - load_acquire(&vcpu->soft->reset_index);
	uint32_t *overrun = &vcpu->engine->soft->overrun, left = load_acquire(overrun);

	if (used < vcpu->ring.size - RESERVED - (vcpu->engine->soft->buffering ? BUFFER : 0))
		return false;
	while (left)
		if (__atomic_compare_exchange_n(overrun, &left, left < BATCH ? 0 : left - BATCH, false,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return false;
	return true;
}

static uint64_t *page_at(const struct engine *engine, uint64_t page)
{
	return (uint64_t *)(engine->memory.ram + page * 4096);
}

/* Only this thread writes the word, others may read it at any time. */
static void increment(uint64_t *word, uint64_t by)
{
	store_relaxed(word, load_relaxed(word) + by);
}

static enum vcpu_exit run_guest(struct vcpu *vcpu, uint32_t seen, uint64_t until)
{
	struct engine *engine = vcpu->engine;
	struct soft_vcpu *soft = vcpu->soft;
	struct soft_vm *vm = engine->soft;

	for (;;) {
		struct dirty_guest params = *soft->control;
		uint32_t stores = params.interval ? 1 : BATCH;
		int slot_index = find_slot(engine, params.base, params.pages);
		const struct memslot *slot = &engine->memory.slots[slot_index < 0 ? 0 : slot_index];
		bool logging;

		if (kick_came(vcpu, seen))
			return EXIT_KICKED;
		if (until && now_ns() >= until)
			return EXIT_KICKED;
		if (slot_index < 0 || !params.pages)
			return EXIT_FAILED;
		if (params.interval) {
			uint64_t now = now_ns();

			if (now < soft->state.deadline) {
				kick_wait(vcpu, seen,
					  until && until < soft->state.deadline ? until : soft->state.deadline);
				continue;
			}
			/* Late by a moment: catch up. By more, as after a pause: go on from here. */
			if (now - soft->state.deadline > GUEST_MAX_LATE * params.interval)
				soft->state.deadline = now;
			soft->state.deadline += params.interval;
		}

		/* All sequentially consistent: either quiesce() sees this batch, or the batch sees the pages
		   that were protected before. */
		add_seq_cst(&soft->batch, 1);
		logging = load_seq_cst(&vm->logging);
		if (logging && vcpu->ring.size && ring_soft_full(vcpu)) {
			count_up(&soft->batch, 1);
			return EXIT_RING_FULL;
		}
		if (logging)
			make_writable(vcpu, soft->control_slot, soft->control_page);
		for (uint32_t i = 0; i < stores; i++) {
			uint64_t page = slot->ram_page + (params.base - slot->gpa) / 4096 +
					guest_dirty_next(&soft->state.guest, &params);

			if (logging)
				make_writable(vcpu, slot, page);
			increment(page_at(engine, page), 1);
		}
		increment(&soft->control->progress, stores);
		count_up(&soft->batch, 1);
	}
}

static enum vcpu_exit soft_enter(struct vcpu *vcpu, uint32_t seen, uint64_t until)
{
	enum vcpu_exit why = EXIT_KICKED;

	if (vcpu->soft->control)
		why = run_guest(vcpu, seen, until);
	else
		kick_wait(vcpu, seen, until);
	empty_buffer(vcpu);
	return why;
}

/* Wait until every store that was under way at the time of the call is done. */
static void quiesce(struct engine *engine)
{
	/* Sleeping: a thread of real-time priority would keep the vCPU that it waits for from the processor. */
	const struct timespec moment = { .tv_nsec = 1000 };

	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct soft_vcpu *soft = engine->vcpus[i]->soft;
		uint32_t batch = load_seq_cst(&soft->batch);

		while (batch % 2 && load_acquire(&soft->batch) == batch)
			nanosleep(&moment, NULL);
	}
}

static void protect(struct soft_vm *vm, const uint64_t *pages, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		__atomic_fetch_and(&vm->writable[pages[i] / 64], ~(1ull << (pages[i] % 64)),
				   __ATOMIC_SEQ_CST);
}

/* Take a released entry from the place `index` of a ring, as free. Returns whether there was one. */
static bool take_released(const struct ring *ring, uint32_t index)
{
	if (!ring->size || !ring_is_released(ring, index))
		return false;
	store_release(&ring_entry(ring, index)->flags, 0);
	return true;
}

/*
 * Reset a ring from `*reset_index` on: free up to `most` of its released entries, and protect their pages, as many at a
 * time as KVM does; those of no slot protect none. If it is `cut`, the pages gathered last stay writable. Returns the
 * number of entries.
 */
static uint32_t reset_ring(struct engine *engine, const struct ring *ring, uint32_t *reset_index, uint32_t most,
			   bool cut)
{
	const struct memory *memory = &engine->memory;
	uint32_t index = *reset_index, freed = 0, count = 0;
	uint64_t gathered[GATHERED];

	for (; freed < most && take_released(ring, index); index++, freed++) {
		const struct kvm_dirty_gfn *entry = ring_entry(ring, index);
		uint32_t slot = load_relaxed(&entry->slot);
		uint64_t offset = load_relaxed(&entry->offset);

		if (slot >= memory->nslots || offset >= memory->slots[slot].pages) /* or written to by two at once */
			continue;
		if (count == GATHERED) {
			protect(engine->soft, gathered, count);
			count = 0;
		}
		gathered[count++] = memory->slots[slot].ram_page + offset;
	}
	if (!cut)
		protect(engine->soft, gathered, count);
	store_release(reset_index, index);
	return freed;
}

/* The last vCPU with a released entry, or NULL. */
static struct vcpu *last_released(const struct engine *engine)
{
	for (uint32_t i = engine->nvcpus; i > 0; i--) {
		struct vcpu *vcpu = engine->vcpus[i - 1];

		if (vcpu->ring.size && ring_is_released(&vcpu->ring, vcpu->soft->reset_index))
			return vcpu;
	}
	return NULL;
}

static uint32_t count_released(const struct ring *ring, uint32_t index)
{
	uint32_t count = 0;

	while (count < ring->size && ring_is_released(ring, index + count))
		count++;
	return count;
}

/* Whether more entries are released than are gathered at a time. */
static bool many_released(const struct engine *engine)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < engine->nvcpus; i++)
		count += count_released(&engine->vcpus[i]->ring, engine->vcpus[i]->soft->reset_index);
	return count > GATHERED;
}

static void soft_reset_rings(struct engine *engine)
{
	struct soft_vm *vm = engine->soft;
	const struct ring canaries = { .entries = vm->canaries, .size = CANARIES };
	const struct vcpu *cut = NULL;
	uint32_t most;
	bool ended = false;

	pthread_mutex_lock(&vm->slots_lock);
	/* With no more entries than it gathers, none would be left. */
	most = load_acquire(&vm->interrupt) && many_released(engine) &&
			       __atomic_exchange_n(&vm->interrupt, 0, __ATOMIC_ACQ_REL) ?
		       GATHERED : UINT32_MAX;
	if (most == UINT32_MAX && load_acquire(&vm->cut)) {
		cut = last_released(engine);
		if (cut)
			store_release(&vm->cut, 0);
	}
	for (uint32_t i = 0; i < engine->nvcpus && !ended; i++) {
		bool ends = most != UINT32_MAX || engine->vcpus[i] == cut;
		struct vcpu *vcpu = engine->vcpus[i];

		ended = reset_ring(engine, &vcpu->ring, &vcpu->soft->reset_index, most, ends) && ends;
	}
	if (!ended) {
		/* All but the last one can name pages. */
		uint32_t offered = load_acquire(&vm->cut) ? count_released(&canaries, vm->canary_reset_index) : 0;
		bool ends = offered > 1 && __atomic_exchange_n(&vm->cut, 0, __ATOMIC_ACQ_REL);

		reset_ring(engine, &canaries, &vm->canary_reset_index, ends ? offered - 1 : UINT32_MAX, ends);
	}
	quiesce(engine);
	pthread_mutex_unlock(&vm->slots_lock);
}

static void soft_push_canaries(struct engine *engine, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t index = engine->soft->canary_dirty_index++;

		store_release(&engine->soft->canaries[index % CANARIES].flags, KVM_DIRTY_GFN_F_DIRTY);
	}
}

void soft_take_log(struct engine *engine, uint64_t *bitmap)
{
	struct soft_vm *vm = engine->soft;

	pthread_mutex_lock(&vm->slots_lock);
	for (uint64_t i = 0; i < (engine->memory.pages + 63) / 64; i++) {
		bitmap[i] = __atomic_exchange_n(&vm->log[i], 0, __ATOMIC_SEQ_CST);
		__atomic_fetch_and(&vm->writable[i], ~bitmap[i], __ATOMIC_SEQ_CST);
	}
	quiesce(engine);
	pthread_mutex_unlock(&vm->slots_lock);
}

/* As lazy as KVM's: switching on a log that is on protects no page. */
static int soft_log_dirty_pages(struct engine *engine, bool on)
{
	struct soft_vm *vm = engine->soft;
	bool begins = on && !vm->logging;

	pthread_mutex_lock(&vm->slots_lock);
	for (uint64_t i = 0; begins && i < (engine->memory.pages + 63) / 64; i++)
		store_seq_cst(&vm->writable[i], 0);
	store_seq_cst(&vm->logging, on);
	quiesce(engine);
	pthread_mutex_unlock(&vm->slots_lock);
	return 0;
}

void soft_overrun(struct engine *engine, uint32_t stores)
{
	store_release(&engine->soft->overrun, stores);
}

void soft_interrupt_reset(struct engine *engine)
{
	store_release(&engine->soft->interrupt, 1);
}

void soft_cut_reset(struct engine *engine)
{
	store_release(&engine->soft->cut, 1);
}

void soft_buffer_log(struct engine *engine)
{
	engine->soft->buffering = 1;
}

void soft_get_state(const struct engine *engine, uint32_t index, struct soft_vcpu_state *state)
{
	*state = engine->vcpus[index]->soft->state;
}

void soft_set_state(struct engine *engine, uint32_t index, const struct soft_vcpu_state *state)
{
	engine->vcpus[index]->soft->state = *state;
}

static int soft_thread_init(struct vcpu *vcpu)
{
	(void)vcpu;
	return 0;
}

static void soft_thread_exit(struct vcpu *vcpu)
{
	(void)vcpu;
}

static void soft_complete_exit(struct vcpu *vcpu)
{
	(void)vcpu; /* its exits leave nothing half-done */
}

static void soft_interrupt(struct vcpu *vcpu)
{
	(void)vcpu; /* it looks for kicks itself */
}

const struct accel_ops soft_ops = {
	.name = "soft",
	.thread_init = soft_thread_init,
	.thread_exit = soft_thread_exit,
	.enter = soft_enter,
	.complete_exit = soft_complete_exit,
	.interrupt = soft_interrupt,
	.reset_rings = soft_reset_rings,
	.log_dirty_pages = soft_log_dirty_pages,
	.push_canaries = soft_push_canaries,
	.free_vcpu = soft_free_vcpu,
	.free_vm = soft_free_vm,
};
