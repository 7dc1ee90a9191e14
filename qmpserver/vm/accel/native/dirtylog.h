/* The dirty log: the rings' harvest and reset, the bitmap, and what restores both when pages may be missing. */
#ifndef QMPSERVER_DIRTYLOG_H
#define QMPSERVER_DIRTYLOG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ring.h"

struct engine;
struct vcpu;

/* cdef begin */
/* A ring of its own that the accelerator resets last: dirtylog.c tells what for. */
struct canary {
	struct ring ring; /* `fetch`: entries offered */
	uint64_t pushed;
	uint64_t reset;
};

struct dirty_log {
	uint32_t tracking; /* the accelerator logs dirty pages */

	uint32_t distrusted; /* some pages may be writable and not logged */
	uint32_t all_marked; /* all pages are marked on the side that is taken next, or will be before */

	/* Two sides, a bit per page of RAM: set at any time, before its entry is released; taken only after a reset. */
	uint64_t *bitmaps[2];

	uint64_t resets_begun; /* resets asked of the accelerator; the number of the last one */
	uint64_t resets_ended; /* the number of the last one that ran to its end */

	/* under the lock */
	uint32_t side;        /* of the bitmap: where harvests mark */
	uint32_t logging;     /* some RAM may be logged, also after a switch that failed */
	uint64_t cut_resets;  /* resets that ended early */
	uint64_t hidden_cuts; /* of those, resets that left no entry */
	struct canary canary;
	pthread_mutex_t lock;

	pthread_mutex_t take_lock; /* whoever takes the bitmap; before the lock */
};

/* Harvest all rings and reset them, as the reaper does in a turn. Any thread. Return the pages harvested. */
uint64_t engine_reap(struct engine *engine);

/*
 * Move the bits of all pages found dirty since the last call to `bitmap` (64 pages to a word). While tracking is
 * on, every page stored to before the call is in this bitmap or in an earlier one, also when the guest runs:
 * hardware may keep what it logged to itself until the vCPU leaves the guest, so each is made to leave it once.
 * Read a page's content after the call that reported it. Any thread; blocks until the vCPUs left.
 */
void engine_take_bitmap(struct engine *engine, uint64_t *bitmap);

/*
 * Return how many pages that call would find now, about: those of one ring count once, however often they were stored
 * to, and the host's writes do not count. All of RAM if that call would find all of it because pages may have been
 * missed. Any thread; waits for a harvest of a ring under way.
 */
uint64_t engine_dirty_pages(struct engine *engine);

/*
 * Switch the log of dirty pages for all RAM; vCPUs that waited for it go on. A no-op if it is so already. Blocks
 * for milliseconds, with large RAM for up to a second, and no ring is reaped meanwhile. Any thread. 0, or -1 and errno.
 */
int engine_set_tracking(struct engine *engine, bool on);

/*
 * On: leave pages writable that are found dirty from now on; a sender must call engine_protect() before it reads a page.
 * Such a page is reported once, and costs the guest no fault until then. Off: protect all pages again, which blocks for
 * tens of milliseconds a GiB. A no-op without a canary. Any thread, for one sender at a time, while tracking is on.
 */
void engine_defer_protection(struct engine *engine, bool on);

/*
 * These pages are to be sent: those with a bit in `bitmap`, of `words` words, the first of them the word `word` of RAM's
 * bitmaps. Log all stores that come after this call. If it fails, all pages count as dirty in the next bitmap. Any
 * thread. Blocks for a reset of the rings if any of the pages was left writable.
 */
void engine_protect(struct engine *engine, uint64_t word, const uint64_t *bitmap, uint64_t words);

/* Mark pages of RAM that the host has written to, if dirty pages are logged. Any thread. Never blocks. */
void engine_mark_dirty(struct engine *engine, uint64_t ram_page, uint64_t pages);
/* cdef end */

int dirtylog_init(struct engine *engine);
void dirtylog_free(struct engine *engine);
void dirtylog_init_vcpu(struct vcpu *vcpu);
void dirtylog_free_vcpu(struct vcpu *vcpu);

/* Push the first canaries into a ring that the accelerator has made. 0, or -1 and errno. */
int dirtylog_start_canary(struct engine *engine, struct ring ring);

/*
 * Harvest a vCPU's ring, on its own thread, because the accelerator says that it is full, and others that are worth
 * it; return when it is reset.
 */
void reap_full_ring(struct vcpu *vcpu);

#endif
