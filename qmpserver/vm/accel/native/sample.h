/*
 * Page sampling: fingerprints of some pages of RAM, to see later how many of them have changed. It needs
 * no dirty logging and no help of an accelerator, and may run beside the guest.
 */
#ifndef QMPSERVER_SAMPLE_H
#define QMPSERVER_SAMPLE_H

#include <stdint.h>

/* cdef begin */
/*
 * Take the fingerprints of `count` pages out of the `pages` pages at `ram`, chosen evenly at random: by
 * `seed`, so that the same seed chooses the same ones. Any thread.
 */
void sample_take(const uint8_t *ram, uint64_t pages, uint64_t seed, uint64_t *prints, uint64_t count);

/* How many of these pages have another fingerprint now. Any thread. */
uint64_t sample_changed(const uint8_t *ram, uint64_t pages, uint64_t seed, const uint64_t *prints,
			uint64_t count);
/* cdef end */

#endif
