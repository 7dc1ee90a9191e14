/*
 * The two questions of a limited vCPU's thread: how long must it wait now, and when is the next look at its
 * ring due? One controller answers for all vCPUs, chosen at the start. A new one is a header of its own with its
 * mathematics, and a line in each function here.
 */
#ifndef QMPSERVER_CONTROLLER_H
#define QMPSERVER_CONTROLLER_H

#include "pacer.h"
#include "qemu_throttle.h"

/* cdef begin */
enum controller_kind { CONTROLLER_PACER, CONTROLLER_QEMU };

struct controller {
	uint32_t kind; /* enum controller_kind */
	uint64_t limit;
	struct pacer pacer;
	struct qemu_throttle qemu;
};
/* cdef end */

static inline void controller_init(struct controller *c, enum controller_kind kind, uint32_t ring_size)
{
	c->kind = kind;
	c->qemu.ring_pages = ring_size;
}

/*
 * A limit of `limit` MB/s (not 0) begins, or takes the place of another that was in force until now. Returns until
 * when the vCPU must wait; it may run if that is not after `now`.
 */
static inline uint64_t controller_set(struct controller *c, uint64_t limit, bool replaces, uint64_t now)
{
	c->limit = limit;
	if (c->kind == CONTROLLER_QEMU) {
		qemu_throttle_start(&c->qemu, limit, now);
		return now;
	}
	pacer_set(&c->pacer, limit, replaces, now);
	return c->pacer.paid_until;
}

/* The vCPU could not run for `ns` because the machine was stopped: no time has passed for the limit. */
static inline void controller_skip(struct controller *c, uint64_t ns)
{
	if (c->kind == CONTROLLER_QEMU)
		qemu_throttle_skip(&c->qemu, ns);
	else
		pacer_skip(&c->pacer, ns);
}

/*
 * Charge `pages` that were dirtied in `ran_ns` of running; `ring_full` says whether a full ring ended it. Returns
 * until when the vCPU must wait; it may run if that is not after `now`. After a wait charge 0 pages.
 */
static inline uint64_t controller_charge(struct controller *c, uint64_t pages, uint64_t ran_ns, bool ring_full,
					 uint64_t now)
{
	if (c->kind == CONTROLLER_QEMU) {
		qemu_throttle_charge(&c->qemu, pages, ring_full, now);
		return c->qemu.until;
	}
	pacer_charge(&c->pacer, pages, ran_ns, now);
	return c->pacer.paid_until;
}

/* Return when to look again, if the vCPU is let run at `now`. */
static inline uint64_t controller_next_look(const struct controller *c, uint64_t now)
{
	return c->kind == CONTROLLER_QEMU ? qemu_throttle_next_look(&c->qemu)
					  : pacer_next_look(&c->pacer, now);
}

#endif
