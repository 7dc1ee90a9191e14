/*
 * What a limited vCPU's thread asks: how long must it wait now, and when must somebody look again? Which
 * controller answers is chosen once, for all vCPUs. A new one is a header of its own with its mathematics,
 * and a line in each function here.
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

/* A limit of `limit` MB/s (not 0) begins, or takes the place of another. */
static inline void controller_start(struct controller *c, uint64_t limit, uint64_t now)
{
	c->limit = limit;
	if (c->kind == CONTROLLER_QEMU)
		qemu_throttle_start(&c->qemu, limit, now);
	else
		pacer_start(&c->pacer, limit, now);
}

/*
 * Charge `pages` that were dirtied in `ran_ns` of running, which a full ring ended or something else. Returns
 * until when the vCPU must wait; it may run if that is not after `now`. After a wait charge again, nothing.
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

/* When to look again, if the vCPU is let run at `now`. */
static inline uint64_t controller_next_look(const struct controller *c, uint64_t now)
{
	return c->kind == CONTROLLER_QEMU ? qemu_throttle_next_look(&c->qemu)
					  : pacer_next_look(&c->pacer, now);
}

#endif
