/* Whether a page is zero, tested with vectors. */
#ifndef QMPSERVER_STREAM_ZERO_H
#define QMPSERVER_STREAM_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory.h"

typedef uint64_t zero_vector __attribute__((vector_size(16), may_alias));

#define ZERO_STEP 16 /* vectors between two branches */

/*
 * Return whether the page, aligned to 16 bytes, is zero. The guest may store to it meanwhile: such a page is dirty
 * again, and whichever answer it got is replaced. So the reads are no data race that matters, and the thread
 * sanitizer does not look at them.
 */
__attribute__((no_sanitize("thread"))) static inline bool page_is_zero(const uint8_t *page)
{
	const zero_vector *vectors = (const zero_vector *)page;

	/* Most pages that are not zero show it in their first bytes. */
	if (vectors[0][0])
		return false;
	for (size_t i = 0; i < PAGE_BYTES / sizeof(zero_vector); i += ZERO_STEP) {
		zero_vector any = vectors[i];

		for (size_t j = 1; j < ZERO_STEP; j++)
			any |= vectors[i + j];
		if (any[0] | any[1])
			return false;
	}
	return true;
}

#endif
