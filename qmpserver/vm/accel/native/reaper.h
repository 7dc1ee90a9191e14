/* The reaper: a thread that harvests and resets all rings once a second, and when it is kicked. */
#ifndef QMPSERVER_REAPER_H
#define QMPSERVER_REAPER_H

#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>

struct engine;

/* cdef begin */
#define WAKE_BUCKETS 33 /* the last takes all from 2.1 s on */

enum reaper_mode { REAPER_EVENT, REAPER_POLL };

struct reaper {
	uint32_t mode;    /* enum reaper_mode */
	uint32_t reaping; /* 1 during a turn */
	int kick_fd;      /* eventfd */
	int quit_fd;      /* eventfd: the engine ends; also ends a polling reaper's sleep */
	int32_t tid;
	uint64_t turns;
	uint64_t kicks;
	uint64_t wakes;           /* returns from the wait that a kick caused (poll: each return) */
	uint64_t coalesced_kicks; /* kicks that found an earlier one still waiting */
	uint64_t fallback_turns;  /* turns without a kick */
	uint64_t last_kick_ns;
	uint64_t last_wake_ns;
	uint64_t last_idle_wake_ns; /* the last wake that found the limit out of service */
	/* Log2 histograms of ns, as KVM's: bucket 0 is for 0, bucket n for 2^(n-1) to 2^n - 1. */
	uint64_t kick_to_wake[WAKE_BUCKETS];   /* from the first of the kicks that a wake answers */
	uint64_t kick_to_wake_ns;              /* the sum of those times */
	uint64_t cancel_to_wake[WAKE_BUCKETS]; /* from the end of the limit's service */

	uint64_t first_kick_ns; /* of those not answered yet; 0: none */
	pthread_t thread;
	sem_t initialized; /* posted by the thread */
};

/* Have the reaper take a turn now, unless it polls. Any thread. */
void reaper_kick(struct engine *engine);
/* cdef end */

void *reaper_thread(void *opaque);

#endif
