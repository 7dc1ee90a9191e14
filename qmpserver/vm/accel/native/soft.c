/*
 * The software accelerator: threads that dirty real memory, and the part of KVM that logs it.
 *
 * A vCPU here is a C loop that does what the guest program `dirty` does, on the same memory, from the same
 * control block. What stands for KVM keeps to KVM's rules, so that reaper, limit and tests run unchanged:
 * a page is pushed when first stored to after it was protected; the ring is soft-full while 64 entries are
 * still free, and the vCPU is not entered again until it is not; a reset takes the entries that user space
 * released, in order, and protects their pages again; and it returns only when no vCPU can still be storing
 * by an old permission (where KVM flushes the TLBs, this waits for each vCPU's batch to end).
 */
#define _GNU_SOURCE
#include "engine.h"
#include "guest.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RESERVED 64 /* KVM_DIRTY_RING_RSVD_ENTRIES */
#define FAULT_NS 2500 /* what a write fault and its log entry cost a guest on KVM, or rates would be absurd */
#define BUFFER 512  /* entries in Intel's page modification log */
#define GATHERED 64 /* pages that a reset protects at a time */
#define BATCH 32    /* stores between two looks; less than RESERVED, so that a batch never overruns */

struct soft_vcpu {
	struct dirty_guest *control;
	uint64_t control_page;
	const struct memslot *control_slot;
	struct guest_dirty_state state;
	uint64_t deadline;    /* of the next store, if the guest keeps a pace of its own */
	uint32_t dirty_index; /* next entry to push */
	uint32_t reset_index; /* next entry to reset; under slots_lock */
	uint32_t batch;       /* odd while storing */
	uint32_t buffered;    /* pages that wait in the buffer */
	struct kvm_dirty_gfn buffer[BUFFER];
};

struct soft_vm {
	uint64_t *writable; /* a bit per RAM page: stored to since it was last protected */
	uint64_t *log;      /* where there are no rings: a bit per RAM page logged */
	uint32_t logging;
	pthread_mutex_t slots_lock;

	/* faults, for tests */
	uint32_t overrun;
	uint32_t interrupt;
	uint32_t buffering;
};

int soft_new(struct engine *engine)
{
	struct soft_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return -1;
	engine->soft = vm;
	pthread_mutex_init(&vm->slots_lock, NULL);
	vm->writable = calloc((engine->ram_pages + 63) / 64, sizeof(uint64_t));
	vm->log = calloc((engine->ram_pages + 63) / 64, sizeof(uint64_t));
	if (!vm->writable || !vm->log) {
		soft_free(engine);
		errno = ENOMEM;
		return -1;
	}
	return 0;
}

void soft_free(struct engine *engine)
{
	if (!engine->soft)
		return;
	pthread_mutex_destroy(&engine->soft->slots_lock);
	free(engine->soft->writable);
	free(engine->soft->log);
	free(engine->soft);
	engine->soft = NULL;
}

void soft_vcpu_free(struct vcpu *vcpu)
{
	if (!vcpu->soft)
		return;
	free(vcpu->soft);
	free(vcpu->ring.entries);
}

/* The slot that holds `pages` pages from guest-physical address `gpa`, or -1. */
static int find_slot(const struct engine *engine, uint64_t gpa, uint64_t pages)
{
	for (uint32_t i = 0; i < engine->nslots; i++) {
		const struct memslot *slot = &engine->slots[i];

		if (gpa >= slot->gpa && gpa - slot->gpa < slot->pages * 4096 &&
		    pages <= slot->pages - (gpa - slot->gpa) / 4096)
			return (int)i;
	}
	return -1;
}

int soft_vcpu_init(struct vcpu *vcpu, uint64_t control_gpa, uint32_t ring_size)
{
	struct engine *engine = vcpu->engine;
	struct soft_vcpu *soft = calloc(1, sizeof(*soft));
	int slot = find_slot(engine, control_gpa, 1);

	if (soft && ring_size)
		vcpu->ring.entries = calloc(ring_size, sizeof(*vcpu->ring.entries));
	if (!soft || (ring_size && !vcpu->ring.entries) || slot < 0) {
		free(vcpu->ring.entries);
		free(soft);
		errno = slot < 0 ? EFAULT : ENOMEM;
		return -1;
	}
	vcpu->ring.size = ring_size;
	soft->control_slot = &engine->slots[slot];
	soft->control_page = soft->control_slot->ram_page + (control_gpa - soft->control_slot->gpa) / 4096;
	soft->control = (struct dirty_guest *)(engine->ram + soft->control_page * 4096);
	guest_dirty_start(&soft->state, soft->control);
	vcpu->soft = soft;
	return 0;
}

void soft_vcpu_reset(struct vcpu *vcpu)
{
	guest_dirty_start(&vcpu->soft->state, vcpu->soft->control);
	vcpu->soft->deadline = 0;
}

static void push(struct vcpu *vcpu, uint32_t slot, uint64_t offset)
{
	struct kvm_dirty_gfn *entry = ring_entry(&vcpu->ring, vcpu->soft->dirty_index++);

	/* Atomic, for an entry that is overrun may be read at this moment. */
	__atomic_store_n(&entry->slot, slot, __ATOMIC_RELAXED);
	__atomic_store_n(&entry->offset, offset, __ATOMIC_RELAXED);
	__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
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

	if (__atomic_load_n(word, __ATOMIC_SEQ_CST) & bit)
		return;
	if (__atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST) & bit)
		return;
	if (vcpu->ring.size) {
		log_page(vcpu, (uint32_t)(slot - vcpu->engine->slots), page - slot->ram_page);
	} else {
		__atomic_fetch_or(&vcpu->engine->soft->log[page / 64], bit, __ATOMIC_SEQ_CST);
	}
	for (from = now_ns(); now_ns() - from < FAULT_NS;)
		;
}

static bool ring_soft_full(const struct vcpu *vcpu)
{
	uint32_t used = vcpu->soft->dirty_index - load(&vcpu->soft->reset_index);
	uint32_t *overrun = &vcpu->engine->soft->overrun, left = load(overrun);

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
	return (uint64_t *)(engine->ram + page * 4096);
}

/* Only this thread writes the word, others may read it at any time. */
static void increment(uint64_t *word, uint64_t by)
{
	__atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + by, __ATOMIC_RELAXED);
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
		const struct memslot *slot = &engine->slots[slot_index < 0 ? 0 : slot_index];
		bool logging;

		if (__atomic_load_n(&vcpu->kicks, __ATOMIC_SEQ_CST) != seen)
			return EXIT_KICKED;
		if (until && now_ns() >= until)
			return EXIT_KICKED;
		if (slot_index < 0 || !params.pages)
			return EXIT_FAILED;
		if (params.interval) {
			uint64_t now = now_ns();

			if (now < soft->deadline) {
				uint64_t wake = until && until < soft->deadline ? until : soft->deadline;
				struct timespec ts = { .tv_sec = (time_t)(wake / 1000000000ull),
						       .tv_nsec = (long)(wake % 1000000000ull) };

				syscall(SYS_futex, &vcpu->kicks, FUTEX_WAIT_BITSET_PRIVATE, seen, &ts, NULL,
					FUTEX_BITSET_MATCH_ANY);
				continue;
			}
			/* Late by a few stores: catch up. By more, as after a pause: go on from here. */
			if (now - soft->deadline > GUEST_MAX_LATE * params.interval)
				soft->deadline = now;
			soft->deadline += params.interval;
		}

		/* All sequentially consistent: either quiesce() sees this batch, or the batch sees the pages
		   that were protected before. */
		__atomic_fetch_add(&soft->batch, 1, __ATOMIC_SEQ_CST);
		logging = __atomic_load_n(&vm->logging, __ATOMIC_SEQ_CST);
		if (logging && vcpu->ring.size && ring_soft_full(vcpu)) {
			store(&soft->batch, soft->batch + 1);
			return EXIT_RING_FULL;
		}
		if (logging)
			make_writable(vcpu, soft->control_slot, soft->control_page);
		for (uint32_t i = 0; i < stores; i++) {
			uint64_t page = slot->ram_page + (params.base - slot->gpa) / 4096 +
					guest_dirty_next(&soft->state, &params);

			if (logging)
				make_writable(vcpu, slot, page);
			increment(page_at(engine, page), 1);
		}
		increment(&soft->control->progress, stores);
		store(&soft->batch, soft->batch + 1);
	}
}

enum vcpu_exit soft_run(struct vcpu *vcpu, uint32_t seen, uint64_t until)
{
	enum vcpu_exit why;

	__atomic_fetch_add(&vcpu->in_guest, 1, __ATOMIC_SEQ_CST);
	why = run_guest(vcpu, seen, until);
	empty_buffer(vcpu);
	vcpu_left_guest(vcpu);
	return why;
}

/* Wait until every store that was under way at the time of the call is done. */
static void quiesce(struct engine *engine)
{
	/* Sleeping, for a thread of real-time priority would keep whom it waits for from the processor. */
	const struct timespec moment = { .tv_nsec = 1000 };

	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct soft_vcpu *soft = engine->vcpus[i]->soft;
		uint32_t batch = __atomic_load_n(&soft->batch, __ATOMIC_SEQ_CST);

		while (batch % 2 && __atomic_load_n(&soft->batch, __ATOMIC_ACQUIRE) == batch)
			nanosleep(&moment, NULL);
	}
}

int64_t soft_reset_rings(struct engine *engine)
{
	struct soft_vm *vm = engine->soft;
	int64_t freed = 0;
	/* With no more than it gathers, nobody could tell that it was. */
	bool interrupted = engine->harvested > GATHERED &&
			   __atomic_exchange_n(&vm->interrupt, 0, __ATOMIC_ACQ_REL);

	pthread_mutex_lock(&vm->slots_lock);
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];
		uint32_t index = vcpu->soft->reset_index;

		for (;; index++, freed++) {
			struct kvm_dirty_gfn *entry = ring_entry(&vcpu->ring, index);
			const struct memslot *slot;
			uint64_t offset, page;

			if (!vcpu->ring.size ||
			    !(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
				break;
			slot = &engine->slots[__atomic_load_n(&entry->slot, __ATOMIC_RELAXED)];
			offset = __atomic_load_n(&entry->offset, __ATOMIC_RELAXED);
			page = slot->ram_page + offset;
			__atomic_store_n(&entry->flags, 0, __ATOMIC_RELEASE);
			if (offset >= slot->pages) /* written to by two at once */
				continue;
			if (!interrupted)
				__atomic_fetch_and(&vm->writable[page / 64], ~(1ull << (page % 64)),
						   __ATOMIC_SEQ_CST);
			else if (freed == GATHERED)
				break;
		}
		store(&vcpu->soft->reset_index, index);
		if (interrupted && freed)
			break;
	}
	quiesce(engine);
	pthread_mutex_unlock(&vm->slots_lock);
	return freed;
}

void soft_take_log(struct engine *engine, uint64_t *bitmap)
{
	struct soft_vm *vm = engine->soft;

	pthread_mutex_lock(&vm->slots_lock);
	for (uint64_t i = 0; i < (engine->ram_pages + 63) / 64; i++) {
		bitmap[i] = __atomic_exchange_n(&vm->log[i], 0, __ATOMIC_SEQ_CST);
		__atomic_fetch_and(&vm->writable[i], ~bitmap[i], __ATOMIC_SEQ_CST);
	}
	quiesce(engine);
	pthread_mutex_unlock(&vm->slots_lock);
}

int soft_log_dirty_pages(struct engine *engine, bool on)
{
	struct soft_vm *vm = engine->soft;

	pthread_mutex_lock(&vm->slots_lock);
	for (uint64_t i = 0; on && i < (engine->ram_pages + 63) / 64; i++)
		__atomic_store_n(&vm->writable[i], 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&vm->logging, on, __ATOMIC_SEQ_CST);
	quiesce(engine);
	pthread_mutex_unlock(&vm->slots_lock);
	return 0;
}

void soft_overrun(struct engine *engine, uint32_t stores)
{
	store(&engine->soft->overrun, stores);
}

void soft_interrupt_reset(struct engine *engine)
{
	store(&engine->soft->interrupt, 1);
}

void soft_buffer_log(struct engine *engine)
{
	engine->soft->buffering = 1;
}
