#include "sample.h"

#include <stddef.h>

#define PAGE_WORDS (4096 / sizeof(uint64_t))

/* SplitMix64 (Steele, Lea, Flood 2014): each state gives a well-mixed word, and states are just counted up. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

/* The upper half of the product is even enough: pages are far fewer than 2^64. */
static uint64_t chosen(uint64_t pages, uint64_t seed, uint64_t i)
{
	return (uint64_t)(((unsigned __int128)mix(seed + (i + 1) * 0x9e3779b97f4a7c15ull) * pages) >> 64);
}

/* The guest may store meanwhile: each word is read once, whole, whichever value it has. */
static uint64_t fingerprint(const uint8_t *page)
{
	const uint64_t *words = (const uint64_t *)page;
	uint64_t lanes[4] = { 1, 2, 3, 4 };

	/* Four chains at once; each step is one-to-one in the word, so that a single changed word always shows. */
	for (size_t i = 0; i < PAGE_WORDS; i += 4)
		for (size_t lane = 0; lane < 4; lane++)
			lanes[lane] = (lanes[lane] ^ __atomic_load_n(&words[i + lane], __ATOMIC_RELAXED)) *
				      0x9e3779b97f4a7c15ull;
	return mix(mix(mix(lanes[0]) + lanes[1]) + lanes[2]) + lanes[3];
}

void sample_take(const uint8_t *ram, uint64_t pages, uint64_t seed, uint64_t *prints, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		prints[i] = fingerprint(ram + chosen(pages, seed, i) * 4096);
}

uint64_t sample_changed(const uint8_t *ram, uint64_t pages, uint64_t seed, const uint64_t *prints,
			uint64_t count)
{
	uint64_t changed = 0;

	for (uint64_t i = 0; i < count; i++)
		changed += fingerprint(ram + chosen(pages, seed, i) * 4096) != prints[i];
	return changed;
}
