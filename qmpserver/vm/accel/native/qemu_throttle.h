/*
 * QEMU's way to a dirty limit, to be compared with: a vCPU sleeps at each ring-full exit, for a time that is
 * corrected once a second. Pure: no clock, no ring, no thread. It is QEMU 7.2's behaviour; in 11.0 its rules are the
 * same. Integers are divided as there, rounding down.
 *
 * With R the MB that went into the ring in the last window of a second, L the limit, and F the time in which the
 * ring (of S MB) fills at the highest R ever seen, F = S / max R:
 *
 *     |L - R| <= 25 MB/s:  well enough, no change
 *     R = 0:               no sleep
 *     else with d = 100 |L - R| / max(L, R) percent, the sleep grows (R > L) or shrinks (R < L) by
 *         d > 50:          F d / (100 - d), which would be right if the vCPU had not slept before
 *         else:            F / 10
 *     and is held between 0 and 99 F
 *
 * So limits that are 25 MB/s apart are the same to it, and sleep is not forgotten when a limit ends. Once a second
 * all rings are reset (here by the reaper's turn), which gives the guest up to a ring for which it never slept.
 *
 * Two things differ from QEMU: windows and max R are a vCPU's own, and a sleep ends when the vCPU is kicked. As
 * there, a window that ends in a sleep is counted at the sleep's end, but as one second.
 */
#ifndef QMPSERVER_QEMU_THROTTLE_H
#define QMPSERVER_QEMU_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

/* cdef begin */
struct qemu_throttle {
	uint64_t limit;        /* MB/s, 2^20 bytes; never 0 */
	uint64_t ring_pages;   /* the size of the ring */
	uint64_t max_rate;     /* MB/s, the highest that was ever seen */
	uint64_t throttle_us;  /* to sleep at each ring-full exit */
	uint64_t until;        /* ns: the end of the present sleep */
	uint64_t window_end;   /* ns */
	uint64_t window_pages; /* dirtied in the present window */
};
/* cdef end */

#define QEMU_WINDOW_NS 1000000000ull
#define QEMU_TOLERANCE 25ull   /* MB/s */
#define QEMU_LINEAR_PCT 50ull  /* beyond this error, steps are in proportion to it */
#define QEMU_FULL_TIMES 99ull  /* the longest sleep, in times that the ring takes to fill */
#define QEMU_LIMIT_MAX (1ull << 40) /* beyond any memory, and far from overflow */

static inline void qemu_throttle_start(struct qemu_throttle *t, uint64_t limit, uint64_t now)
{
	t->limit = limit < QEMU_LIMIT_MAX ? limit : QEMU_LIMIT_MAX;
	t->until = now;
	t->window_end = now + QEMU_WINDOW_NS;
	t->window_pages = 0;
}

/* Move the present window and sleep by the time that the machine was stopped. */
static inline void qemu_throttle_skip(struct qemu_throttle *t, uint64_t ns)
{
	t->until += ns;
	t->window_end += ns;
}

/* Correct the sleep after a window in which the rate was `rate` MB/s. */
static inline void qemu_throttle_correct(struct qemu_throttle *t, uint64_t rate)
{
	bool over = rate > t->limit;
	uint64_t high = over ? rate : t->limit, error = over ? rate - t->limit : t->limit - rate;
	uint64_t percent = error * 100 / high, full_us, step_us, most_us;

	if (error <= QEMU_TOLERANCE)
		return;
	if (!rate) {
		t->throttle_us = 0;
		return;
	}
	if (rate > t->max_rate)
		t->max_rate = rate;
	full_us = t->ring_pages * 1000000 / 256 / t->max_rate;
	step_us = percent > QEMU_LINEAR_PCT ? full_us * percent / (100 - percent) : full_us / 10;
	if (over)
		t->throttle_us += step_us;
	else
		t->throttle_us -= step_us < t->throttle_us ? step_us : t->throttle_us;
	most_us = full_us * QEMU_FULL_TIMES;
	if (t->throttle_us > most_us)
		t->throttle_us = most_us;
}

/* Count `pages` that were dirtied before an exit for a full ring, or another; the vCPU must wait until `until`. */
static inline void qemu_throttle_charge(struct qemu_throttle *t, uint64_t pages, bool ring_full, uint64_t now)
{
	t->window_pages += pages;
	if (ring_full)
		t->until = now + t->throttle_us * 1000;
	if (now >= t->window_end && now >= t->until) {
		qemu_throttle_correct(t, t->window_pages / 256);
		t->window_pages = 0;
		t->window_end = now + QEMU_WINDOW_NS;
	}
}

static inline uint64_t qemu_throttle_next_look(const struct qemu_throttle *t)
{
	return t->window_end;
}

#endif
