/*
 * The arithmetic of the dirty limit: how long a vCPU that has dirtied so many pages must wait, and how long it
 * may run before the next look at its ring. Pure: no clock, no ring, no thread.
 *
 * It is the generic cell rate algorithm (ITU-T I.371, the "virtual scheduling" form). Each page costs
 * 1/limit seconds. `paid_until` is the moment at which all pages charged so far are paid for:
 *
 *     charge(n):  paid_until = max(paid_until, now - BURST) + n / limit
 *     must wait while paid_until > now
 *
 * A greedy guest is always in debt, and over any time it gets the limit exactly: the next pause pays for
 * the overshoot of a slice. A guest below its limit accrues up to BURST of credit, and may dirty its working set
 * at once after each reset of the ring without being held. Another limit takes over the debt, as pages, up to BURST of
 * its own time: a manager that sets limits often does not forgive it. It takes over no credit: a guest that ran below
 * a high limit would exceed a low one for a second. While the machine is stopped no time passes (skip).
 *
 * A pause is about SLICE long: the vCPU is let run until it will have used up what SLICE is worth, at the
 * speed it was last seen to dirty pages at, and is looked at then. Looking is reading the ring ahead of the
 * fetch index. Harvesting instead would make the pages of a small working set dirty again at each slice,
 * and punish a guest that touches nothing new.
 */
#ifndef QMPSERVER_PACER_H
#define QMPSERVER_PACER_H

#include <stdbool.h>
#include <stdint.h>

/* cdef begin */
struct pacer {
	uint64_t limit;       /* MB/s, 2^20 bytes; never 0 */
	uint64_t paid_until;  /* ns */
	uint64_t remainder;   /* of the last division by limit, so that no nanosecond is lost */
	uint64_t ns_per_page; /* the running guest's time for one new page, for planning looks only */
};
/* cdef end */

#define PACER_NS_PER_PAGE_MB 3906250ull /* one 4 KiB page at 1 MB/s: 10^9 / 256 */
#define PACER_BURST_NS 1000000000ull    /* the interval over which pages are distinct: a reaper turn */
#define PACER_SLICE_NS 30000000ull
#define PACER_LOOK_MIN_NS 100000ull     /* a look costs an exit; more often than this the guest would feel it */
#define PACER_FASTEST_NS 300ull         /* bounds on ns_per_page: 13 GB/s ... */
#define PACER_SLOWEST_NS 4000ull        /* ... and 1 GB/s, so that a guest which speeds up is caught early */

static inline uint64_t pacer_convert(uint64_t ns, uint64_t from_limit, uint64_t to_limit)
{
	unsigned __int128 converted = (unsigned __int128)ns * from_limit / to_limit;

	return converted < PACER_BURST_NS ? (uint64_t)converted : PACER_BURST_NS;
}

/* Begin with a limit, without debt or credit; or replace the one in force until now, if `replaces`. */
static inline void pacer_set(struct pacer *p, uint64_t limit, bool replaces, uint64_t now)
{
	if (replaces && p->paid_until > now)
		p->paid_until = now + pacer_convert(p->paid_until - now, p->limit, limit);
	else
		p->paid_until = now;
	p->limit = limit;
	p->remainder = 0;
	if (!p->ns_per_page)
		p->ns_per_page = PACER_FASTEST_NS * 4;
}

static inline void pacer_skip(struct pacer *p, uint64_t ns)
{
	p->paid_until += ns;
}

/* Charge `pages` that took `ran_ns` of running; the vCPU must then wait until paid_until. */
static inline void pacer_charge(struct pacer *p, uint64_t pages, uint64_t ran_ns, uint64_t now)
{
	uint64_t cost = pages * PACER_NS_PER_PAGE_MB + p->remainder;

	if (p->paid_until + PACER_BURST_NS < now)
		p->paid_until = now - PACER_BURST_NS;
	p->paid_until += cost / p->limit;
	p->remainder = cost % p->limit;

	/* Believe a faster guest at once and a slower one gradually: a late look costs a long pause. */
	if (pages >= 8 && ran_ns) {
		uint64_t seen = ran_ns / pages;

		if (seen > p->ns_per_page)
			seen = p->ns_per_page + (seen - p->ns_per_page + 7) / 8;
		if (seen < PACER_FASTEST_NS)
			seen = PACER_FASTEST_NS;
		if (seen > PACER_SLOWEST_NS)
			seen = PACER_SLOWEST_NS;
		p->ns_per_page = seen;
	}
}

/* Return when to look again, if the vCPU is let run at `now` (which is not before paid_until). */
static inline uint64_t pacer_next_look(const struct pacer *p, uint64_t now)
{
	uint64_t credit_ns = now - p->paid_until + PACER_SLICE_NS;
	uint64_t run_ns;

	if (credit_ns > PACER_BURST_NS)
		credit_ns = PACER_BURST_NS;
	run_ns = p->limit < PACER_BURST_NS
		       ? credit_ns / 1000 * p->limit / (PACER_NS_PER_PAGE_MB / 1000) * p->ns_per_page
		       : PACER_BURST_NS; /* beyond any memory's speed, and would overflow */
	if (run_ns > PACER_BURST_NS)
		run_ns = PACER_BURST_NS;
	return now + (run_ns < PACER_LOOK_MIN_NS ? PACER_LOOK_MIN_NS : run_ns);
}

#endif
