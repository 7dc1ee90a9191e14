/* Bitmaps of pages: a bit each, 64 to a word, lowest first. */
#ifndef QMPSERVER_BITS_H
#define QMPSERVER_BITS_H

#include <stdbool.h>
#include <stdint.h>

#include "atomics.h"

#define WORD_PAGES 64ull

/* Adjacent bits of a word. */
struct run {
	uint64_t from;
	uint64_t count;
};

static inline uint64_t bits_words(uint64_t pages)
{
	return (pages + WORD_PAGES - 1) / WORD_PAGES;
}

static inline bool bit_is_set(const uint64_t *bitmap, uint64_t page)
{
	return load_relaxed(&bitmap[page / WORD_PAGES]) >> page % WORD_PAGES & 1;
}

/* Several threads may set bits at the same time. One that is set already costs no write. Returns whether it was not. */
static inline bool bit_set(uint64_t *bitmap, uint64_t page)
{
	uint64_t bit = 1ull << page % WORD_PAGES;

	return !bit_is_set(bitmap, page) &&
	       !(__atomic_fetch_or(&bitmap[page / WORD_PAGES], bit, __ATOMIC_RELEASE) & bit);
}

/* The bits of the pages from `page` on, `count` of them (at least 1), that are in the word of `page`. */
static inline uint64_t bits_of(uint64_t page, uint64_t count)
{
	uint64_t from = page % WORD_PAGES, room = WORD_PAGES - from;

	return ~0ull >> (WORD_PAGES - (count < room ? count : room)) << from;
}

/* The first run of set bits; there must be one. */
static inline struct run bits_first_run(uint64_t bits)
{
	uint64_t from = (uint64_t)__builtin_ctzll(bits), others = ~(bits >> from);

	/* The shift has let in zeros, unless it was by none. */
	return (struct run){ from, others ? (uint64_t)__builtin_ctzll(others) : WORD_PAGES };
}

/* How many bits the numbers below `count` need. */
static inline uint32_t bits_below(uint64_t count)
{
	return count > 1 ? 64 - (uint32_t)__builtin_clzll(count - 1) : 0;
}

/* The lowest `bits` bits in the opposite order: numbers in turn become numbers far apart. */
static inline uint64_t bits_reversed(uint64_t number, uint32_t bits)
{
	uint64_t reversed = 0;

	for (; bits; bits--, number >>= 1)
		reversed = reversed << 1 | (number & 1);
	return reversed;
}

#endif
