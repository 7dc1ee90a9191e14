/* The dirty limit as a service: limit.c has the order that makes one kick enough. */
#ifndef QMPSERVER_LIMIT_H
#define QMPSERVER_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "atomics.h"

struct engine;

/* cdef begin */
struct limit_service {
	uint32_t quit; /* decides: no limit counts, whatever else is set */
	uint32_t in_service;
	uint64_t last_cancel_ns;
};

/* The dirty limit for one vCPU, or all of them with cpu_index -1; the caller has checked the index. */
void limit_set(struct engine *engine, int64_t cpu_index, uint64_t mb_per_s);
void limit_cancel(struct engine *engine, int64_t cpu_index);
/* To follow each of them: kick the threads that wait for what has changed. */
void limit_kick(struct engine *engine, int64_t cpu_index);
/* cdef end */

/* Return whether limits count: vCPUs and the reaper go by this. */
static inline bool limit_in_force(const struct limit_service *service)
{
	return !load_acquire(&service->quit) && load_acquire(&service->in_service);
}

#endif
