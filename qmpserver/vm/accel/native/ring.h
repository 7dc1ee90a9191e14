/*
 * The dirty ring as user space sees it: harvest and look-ahead on one ring of kvm_dirty_gfn.
 *
 * Nothing here knows who fills the ring (KVM, or the software accelerator), takes a lock, or makes a
 * system call. Facts: Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING_ACQ_REL.
 */
#ifndef QMPSERVER_RING_H
#define QMPSERVER_RING_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

struct ring {
	struct kvm_dirty_gfn *entries;
	uint32_t size;  /* a power of two */
	uint64_t fetch; /* entries harvested since the ring was made; its low bits are the position */
};

static inline struct kvm_dirty_gfn *ring_entry(const struct ring *ring, uint64_t index)
{
	return &ring->entries[index & (ring->size - 1)];
}

static inline bool ring_is_dirty(const struct ring *ring, uint64_t index)
{
	uint32_t flags = __atomic_load_n(&ring_entry(ring, index)->flags, __ATOMIC_ACQUIRE);

	return flags & KVM_DIRTY_GFN_F_DIRTY;
}

/* As below, while the fetch index stays where it is. */
static inline uint64_t ring_search(const struct ring *ring, uint64_t fetch, uint64_t from)
{
	uint64_t low = from > fetch ? from : fetch; /* everything below was pushed */
	uint64_t limit = fetch + ring->size;
	uint64_t step = 1;

	while (low < limit && ring_is_dirty(ring, low + step - 1 < limit ? low + step - 1 : limit - 1)) {
		low = low + step < limit ? low + step : limit;
		step *= 2;
	}
	while (step > 1) {
		step /= 2;
		if (low + step <= limit && ring_is_dirty(ring, low + step - 1))
			low += step;
	}
	return low;
}

/*
 * How many entries were ever pushed: the first index that is not dirty, searched for from `from` (what
 * the caller saw last) or the fetch index, whichever is further. Entries are pushed in order, so doubling
 * steps and then halving ones find it in 2 log2(n) reads, and nothing is harvested.
 *
 * Any thread may ask while another harvests: that moves the fetch index with each entry, so a search that
 * missed entries because they were just harvested sees it moved, and is made again. Never more than was pushed:
 * an entry that is dirty for its next turn of the ring proves that all of this turn were pushed.
 */
static inline uint64_t ring_pushed(const struct ring *ring, uint64_t from)
{
	uint64_t fetch = __atomic_load_n(&ring->fetch, __ATOMIC_ACQUIRE), before, pushed;

	do {
		before = fetch;
		pushed = ring_search(ring, fetch, from);
		fetch = __atomic_load_n(&ring->fetch, __ATOMIC_ACQUIRE);
	} while (fetch != before);
	return pushed;
}

#endif
