/*
 * Kicks, waits for exits, and notifications: the place for everything that needs sequential consistency.
 *
 * Every reason to leave the guest is a word in shared memory, a request; a kick only says "look again". No kick
 * is lost, whenever it comes, because both sides write one word and then read the other's:
 *
 *     whoever kicks                      the vCPU's thread
 *     -------------                      -----------------
 *     (1) store the request              (a) seen = count            kick_look()
 *     (2) count += 1                     (b) read the requests
 *     (3) wake the futex `count`         (c) in_guest += 1 (odd)     kick_enter()
 *     (4) in_guest odd? interrupt it     (d) count == seen? enter, else begin anew at (a)
 *
 * If (2) comes before (a), then (b) reads the request. If (2) comes after (d), then (c) came before (4), which sees
 * the odd number and interrupts: that is the case which needs (2), (4), (c) and (d) to have one order that all
 * threads agree on. In between, (d) or the futex's own comparison sees that `count` has moved. The interrupt may
 * reach the thread before, in or after the guest: the accelerator keeps it until the next entry, and one for
 * nothing costs a round.
 *
 * Waiting for an exit is the same with the roles exchanged:
 *
 *     whoever waits                      the vCPU's thread
 *     -------------                      -----------------
 *     waiting_for_exits += 1             in_guest += 1 (even)        kick_leave()
 *     in_guest odd? kick, and wait       waiting_for_exits? wake the futex `in_guest`
 *
 * On KVM an interrupt is a signal. It is a standard one, SIGURG: of those at most one is pending, so kicks
 * coalesce; and when the user's RLIMIT_SIGPENDING is used up, the kernel delivers a standard signal without its
 * siginfo, which no thread reads, where it would refuse a real-time one with EAGAIN (kernel/signal.c,
 * __send_signal_locked). Its default action is to be ignored, and debuggers pass it on without a stop.
 */
#define _GNU_SOURCE
#include "kick.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"

static void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Returns when the word was not `seen`, when woken, at the time `until` (0: none), or for no reason. */
static void futex_wait(uint32_t *word, uint32_t seen, uint64_t until)
{
	struct timespec ts = to_timespec(until);

	syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, seen, until ? &ts : NULL, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

void vcpu_kick(struct vcpu *vcpu)
{
	add_seq_cst(&vcpu->kick.count, 1);
	futex_wake(&vcpu->kick.count);
	if (load_seq_cst(&vcpu->kick.in_guest) % 2)
		vcpu->engine->ops->interrupt(vcpu);
}

void kick_all(struct engine *engine)
{
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		vcpu_kick(engine->vcpus[i]);
}

uint32_t kick_look(const struct vcpu *vcpu)
{
	return load_seq_cst(&vcpu->kick.count);
}

bool kick_came(const struct vcpu *vcpu, uint32_t seen)
{
	return load_seq_cst(&vcpu->kick.count) != seen;
}

void kick_wait(struct vcpu *vcpu, uint32_t seen, uint64_t until)
{
	futex_wait(&vcpu->kick.count, seen, until);
}

bool kick_enter(struct vcpu *vcpu, uint32_t seen)
{
	add_seq_cst(&vcpu->kick.in_guest, 1);
	return !kick_came(vcpu, seen);
}

void kick_leave(struct vcpu *vcpu)
{
	add_seq_cst(&vcpu->kick.in_guest, 1);
	if (load_seq_cst(&vcpu->engine->waiting_for_exits))
		futex_wake(&vcpu->kick.in_guest);
}

void wait_for_exits(struct engine *engine)
{
	uint32_t seen[engine->nvcpus + 1];

	add_seq_cst(&engine->waiting_for_exits, 1);
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		seen[i] = load_seq_cst(&engine->vcpus[i]->kick.in_guest);
		if (seen[i] % 2)
			vcpu_kick(engine->vcpus[i]);
	}
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		while (seen[i] % 2 && load_seq_cst(&engine->vcpus[i]->kick.in_guest) == seen[i])
			futex_wait(&engine->vcpus[i]->kick.in_guest, seen[i], 0);
	add_seq_cst(&engine->waiting_for_exits, -1);
}

void notify(int event_fd)
{
	uint64_t one = 1;

	while (write(event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}
