/*
 * Kicks, waits and notifications between threads: kick.c has the reasoning. A leaf: whoever needs another
 * thread's attention uses this, and this calls nothing of ours but the accelerator's interrupt().
 */
#ifndef QMPSERVER_KICK_H
#define QMPSERVER_KICK_H

#include <stdbool.h>
#include <stdint.h>

struct engine;
struct vcpu;

/* cdef begin */
struct kick {
	uint32_t count;    /* a futex: moves with every kick */
	uint32_t in_guest; /* a futex; odd: in the guest; moves with each entry and exit */
};

/* Have a vCPU's thread look at all requests again. Any thread. Never blocks, never fails. */
void vcpu_kick(struct vcpu *vcpu);
void kick_all(struct engine *engine);
/* cdef end */

/* On the vCPU's thread: begin a round; requests that are read after this are as new as the result. */
uint32_t kick_look(const struct vcpu *vcpu);

/* On the vCPU's thread: return whether a kick came since kick_look() gave `seen`. */
bool kick_came(const struct vcpu *vcpu, uint32_t seen);

/* On the vCPU's thread: sleep until a kick came since `seen`, or until the time `until` (0: without end). */
void kick_wait(struct vcpu *vcpu, uint32_t seen, uint64_t until);

/* On the vCPU's thread, around every stay in the guest. Do not stay if kick_enter() returns false. */
bool kick_enter(struct vcpu *vcpu, uint32_t seen);
void kick_leave(struct vcpu *vcpu);

/*
 * Have each vCPU that is in the guest leave it once; return when all have. Any thread, but none that holds
 * a lock which a vCPU takes after it left.
 */
void wait_for_exits(struct engine *engine);

/* Make an eventfd readable. */
void notify(int event_fd);

#endif
