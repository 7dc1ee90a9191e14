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

#include "atomics.h"
#include "kvm_api.h"

/* cdef begin */
struct ring {
	struct kvm_dirty_gfn *entries;
	uint32_t size;  /* a power of two; 0: there is no ring */
	uint64_t fetch; /* entries harvested since the ring was made; its low bits are the position */
};
/* cdef end */

static inline struct kvm_dirty_gfn *ring_entry(const struct ring *ring, uint64_t index)
{
	return &ring->entries[index & (ring->size - 1)];
}

static inline bool ring_is_dirty(const struct ring *ring, uint64_t index)
{
	return load_acquire(&ring_entry(ring, index)->flags) & KVM_DIRTY_GFN_F_DIRTY;
}

/* Whether an entry was released and is not reset yet. */
static inline bool ring_is_released(const struct ring *ring, uint64_t index)
{
	return load_acquire(&ring_entry(ring, index)->flags) & KVM_DIRTY_GFN_F_RESET;
}

/*
 * Return how many entries were pushed since the ring was made, or `seen` if that is more: the caller's last
 * result, which keeps its count from going back. Any thread may ask while another harvests.
 *
 * Entries are pushed in order, so steps that double and then halve find the first one that is not dirty in
 * 2 log2(n) reads, and nothing is harvested. The result is never more than was pushed: an entry at index i that is
 * dirty was pushed for i, or for a later lap of the ring, which is pushed after i. It may be less while entries
 * from the fetch index on are being harvested; `seen` covers those, and the next call finds the others.
 */
static inline uint64_t ring_pushed(const struct ring *ring, uint64_t seen)
{
	uint64_t low = load_acquire(&ring->fetch); /* everything below was pushed */
	uint64_t limit = low + ring->size;
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
	return low > seen ? low : seen;
}

#endif
