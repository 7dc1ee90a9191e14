/*
 * The arithmetic of a sender's bandwidth limit. Pure: no clock, no lock, no thread.
 *
 * The generic cell rate algorithm, as in pacer.h: each byte costs 1/limit seconds, and bytes may be sent when all
 * earlier ones are paid for. A sender that was late, because its thread or its peer was, catches up by at most
 * RATE_BURST_NS: so over a second the limit is never exceeded by more than 2 %. Between two passes nothing is saved
 * up (rate_begin).
 */
#ifndef QMPSERVER_STREAM_RATE_H
#define QMPSERVER_STREAM_RATE_H

#include <stdint.h>

/* cdef begin */
struct rate {
	uint64_t limit;      /* bytes/s; 0: none */
	uint64_t paid_until; /* ns */
	uint64_t remainder;  /* of the last division by limit, so that no nanosecond is lost */
};
/* cdef end */

#define RATE_NS 1000000000ull
#define RATE_BURST_NS 20000000ull
#define RATE_SLICES 500 /* of a second: no claim needs to be for more than one slice */

/* Replace the limit. Debt is taken over as bytes, up to a second under the new limit. */
static inline void rate_set(struct rate *rate, uint64_t limit, uint64_t now)
{
	uint64_t debt = 0;

	if (rate->limit && limit && rate->paid_until > now) {
		unsigned __int128 converted =
			(unsigned __int128)(rate->paid_until - now) * rate->limit / limit;

		debt = converted < RATE_NS ? (uint64_t)converted : RATE_NS;
	}
	rate->limit = limit;
	rate->paid_until = now + debt;
	rate->remainder = 0;
}

/* Begin to send after a time without. */
static inline void rate_begin(struct rate *rate, uint64_t now)
{
	if (rate->paid_until < now)
		rate->paid_until = now;
}

/* Claim the right to send `bytes` (below 2^34) now. Return 0 if it is granted; else the time to ask again at. */
static inline uint64_t rate_claim(struct rate *rate, uint64_t bytes, uint64_t now)
{
	uint64_t cost;

	if (!rate->limit)
		return 0;
	if (rate->paid_until > now)
		return rate->paid_until;
	if (rate->paid_until + RATE_BURST_NS < now)
		rate->paid_until = now - RATE_BURST_NS;
	cost = bytes * RATE_NS + rate->remainder;
	rate->paid_until += cost / rate->limit;
	rate->remainder = cost % rate->limit;
	return 0;
}

/* Return the number of bytes that are worth a claim, at most `most`; 0 below a byte a slice. */
static inline uint64_t rate_slice(uint64_t limit, uint64_t most)
{
	uint64_t slice = limit / RATE_SLICES;

	return limit && slice < most ? slice : most;
}

#endif
