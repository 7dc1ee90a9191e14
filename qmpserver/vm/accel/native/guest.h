/*
 * The built-in guest `dirty`: what its machine code, the host and the software accelerator agree on.
 *
 * A vCPU stores to one page of its working set after the other: it adds 1 to the first 8 bytes of the page,
 * then sets `progress`. So for a stopped vCPU the counters of its pages sum up to `progress`, or to one more.
 * guest.c holds the machine code; guest_dirty_next() below says the same in C. Python reads the text between
 * the cdef marks.
 */
#ifndef QMPSERVER_GUEST_H
#define QMPSERVER_GUEST_H

#include <stdint.h>

/* cdef begin */
/*
 * Where things are in guest-physical memory. From GUEST_IMAGE on, a page each: the tables that map the first
 * 3 GiB to themselves (one top table, one below it, three of 2 MiB pages), the code, and a control block for
 * each vCPU. The working sets share the rest, from GUEST_SETS on.
 */
#define GUEST_MAX_VCPUS 250 /* as many control blocks as fit below the sets */
#define GUEST_BOOT_VCPUS 32 /* so many are in a firmware image, which has them all */
#define GUEST_IMAGE 0x100000
#define GUEST_CODE 0x105000
#define GUEST_CONTROL 0x106000
#define GUEST_SETS 0x200000
#define GUEST_LOW_END 0xc0000000

#define GUEST_SEQUENTIAL 0
#define GUEST_RANDOM 1
#define GUEST_HOT_SPOT 2

/* A vCPU's control block. The host may change the first four while the guest runs: it looks at them at least
   every 256 stores. The seed it reads once. */
struct dirty_guest {
	uint64_t base;     /* guest-physical address of the working set */
	uint64_t pages;    /* at least 1 */
	uint64_t pattern;  /* GUEST_SEQUENTIAL... */
	uint64_t interval; /* clock ticks between two stores; 0: full speed */
	uint64_t seed;     /* of the random patterns; not 0 */
	uint64_t progress; /* stores so far, written by the guest */
};

/* Where a vCPU is in its pattern. */
struct guest_dirty_state {
	uint64_t next;   /* the page that a sequential store goes to */
	uint64_t random; /* xorshift64* */
};

static inline void guest_dirty_start(struct guest_dirty_state *state, const struct dirty_guest *control);

/* The page, from 0 to control->pages - 1, that the next store goes to. */
static inline uint64_t guest_dirty_next(struct guest_dirty_state *state, const struct dirty_guest *control);

/* Position-independent; entered at its start in 64-bit mode at CPL 3, rdi the address of the control block. */
extern const unsigned char guest_dirty_code[];
extern const unsigned char guest_dirty_code_end[];

/* The last page of a firmware image that starts the guest on a PC; what it expects is told in guest.c. */
extern const unsigned char guest_boot_page[];
extern const unsigned char guest_boot_page_end[];
/* cdef end */

/* A paced guest that is late by more intervals than this goes on from now; by fewer, it catches up. */
#define GUEST_MAX_LATE 1024

#define GUEST_RANDOM_FACTOR 0x2545f4914f6cdd1d

static inline void guest_dirty_start(struct guest_dirty_state *state, const struct dirty_guest *control)
{
	state->next = 0;
	state->random = control->seed;
}

/* a * n / 2^64: a number below n, when a is any of 64 bits. */
static inline uint64_t guest_scale(uint64_t a, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)a * n) >> 64);
}

static inline uint64_t guest_dirty_next(struct guest_dirty_state *state, const struct dirty_guest *control)
{
	uint64_t pages = control->pages, x = state->random, tenth;

	if (control->pattern == GUEST_SEQUENTIAL) {
		if (state->next >= pages)
			state->next = 0;
		return state->next++;
	}
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	state->random = x;
	x *= GUEST_RANDOM_FACTOR;
	if (control->pattern == GUEST_RANDOM)
		return guest_scale(x, pages);

	/* 9 in 10 go to the first tenth, the others to the rest; what 10 x leaves over is random again. */
	tenth = pages / 10;
	if (guest_scale(x, 10) < 9)
		return guest_scale(x * 10, tenth);
	return tenth + guest_scale(x * 10, pages - tenth);
}

#endif
