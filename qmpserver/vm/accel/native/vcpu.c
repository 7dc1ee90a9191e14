/*
 * The vCPU threads: one loop for every accelerator.
 *
 * Every reason to leave the guest is a word in shared memory; a kick only says "look again". So each
 * round of the loop reads `kicks` first, then every wish, and both the guest and the futex refuse to be
 * entered once `kicks` has moved: no wake-up is lost, whenever it comes.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Sleep until kicked or until the CLOCK_MONOTONIC time `until` (0: for ever). */
static void vcpu_wait(struct vcpu *vcpu, uint32_t seen, uint64_t until)
{
	struct timespec ts = { .tv_sec = (time_t)(until / 1000000000ull),
			       .tv_nsec = (long)(until % 1000000000ull) };

	syscall(SYS_futex, &vcpu->kicks, FUTEX_WAIT_BITSET_PRIVATE, seen, until ? &ts : NULL, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

void vcpu_kick(struct vcpu *vcpu)
{
	/* Sequentially consistent, as are the vCPU's store to in_guest and load of kicks: one sees the other. */
	__atomic_fetch_add(&vcpu->kicks, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &vcpu->kicks, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	if (__atomic_load_n(&vcpu->in_guest, __ATOMIC_SEQ_CST) % 2 && !vcpu->soft)
		kvm_signal(vcpu);
}

static void set_state(struct vcpu *vcpu, enum vcpu_state state)
{
	if (load(&vcpu->state) == state)
		return;
	store(&vcpu->state, state);
	if (state == VCPU_PARKED || state == VCPU_HALTED || state == VCPU_FAILED)
		engine_notify(vcpu->engine);
}

/* Wait as the controller wants it; also counts it. */
static void throttle(struct vcpu *vcpu, uint32_t seen, uint64_t until)
{
	uint64_t from = now_ns(), pause;

	set_state(vcpu, VCPU_THROTTLED);
	vcpu_wait(vcpu, seen, until);
	pause = now_ns() - from;
	store(&vcpu->throttle_ns, vcpu->throttle_ns + pause);
	store(&vcpu->throttle_count, vcpu->throttle_count + 1);
	if (pause > vcpu->longest_pause_ns)
		store(&vcpu->longest_pause_ns, pause);
	store(&vcpu->last_resume_ns, from + pause);
	trace_since(TRACE_DIRTYLIMIT_VCPU_EXECUTE, from, vcpu->index, pause / 1000);
}

void *vcpu_thread(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct engine *engine = vcpu->engine;
	uint32_t turn = 0; /* of the limit that the controller works for */
	uint64_t charged = 0, entered = 0;
	enum vcpu_exit why = EXIT_KICKED;

	store(&vcpu->tid, (int32_t)syscall(SYS_gettid));
	prctl(PR_SET_TIMERSLACK, 1UL); /* the default lets a throttle wait run over by 50 us */
	if (!vcpu->soft && kvm_thread_init(vcpu) < 0)
		set_state(vcpu, VCPU_FAILED);

	for (;;) {
		uint32_t seen = __atomic_load_n(&vcpu->kicks, __ATOMIC_SEQ_CST);
		uint32_t now_turn;
		uint64_t until = 0, limit, started;

		if (load(&engine->quit))
			break;
		if (load(&vcpu->state) == VCPU_FAILED || load(&vcpu->state) == VCPU_HALTED) {
			vcpu_wait(vcpu, seen, 0);
			continue;
		}
		if (load(&engine->stopped)) {
			if (!vcpu->soft)
				kvm_complete_io(vcpu);
			set_state(vcpu, VCPU_PARKED);
			vcpu_wait(vcpu, seen, 0);
			continue;
		}
		now_turn = load(&vcpu->limit_turn); /* before `limit`: a newer limit is read again, an older never kept */
		limit = load(&vcpu->limit);
		if (limit) {
			uint64_t now = now_ns(), pushed = ring_pushed(&vcpu->ring, charged), wait_until = now;
			uint64_t ran = entered ? now - entered : 0;

			if (!load(&engine->tracking)) {
				/* What it dirtied now would go uncounted; switching takes milliseconds. */
				set_state(vcpu, VCPU_HOLDING);
				vcpu_wait(vcpu, seen, 0);
				continue;
			}
			/* The limit may be seen before its turn; it must never meet the state of another. */
			if (turn != now_turn || vcpu->controller.limit != limit) {
				turn = now_turn;
				controller_start(&vcpu->controller, limit, now);
			} else {
				wait_until = controller_charge(&vcpu->controller, pushed - charged, ran,
							       why == EXIT_RING_FULL, now);
			}
			charged = pushed;
			entered = 0;
			why = EXIT_KICKED;
			if (wait_until > now) {
				uint64_t wait = wait_until - now;

				trace_now(TRACE_DIRTYLIMIT_THROTTLE_PCT, vcpu->index,
					  100 * wait / (wait + ran), wait / 1000);
				throttle(vcpu, seen, wait_until);
				continue;
			}
			until = controller_next_look(&vcpu->controller, now);
			entered = now;
		}
		set_state(vcpu, VCPU_RUNNING);
		started = trace_start(TRACE_KVM_RUN_EXIT);
		why = vcpu->soft ? soft_run(vcpu, seen, until) : kvm_run(vcpu, seen, until);
		trace_since(TRACE_KVM_RUN_EXIT, started, vcpu->index, vcpu->run ? vcpu->run->exit_reason : 0);
		switch (why) {
		case EXIT_KICKED:
			break;
		case EXIT_RING_FULL:
			store(&vcpu->full_exits, vcpu->full_exits + 1);
			trace_now(TRACE_KVM_DIRTY_RING_FULL, vcpu->index, 0, 0);
			reap_vcpu(vcpu);
			break;
		case EXIT_HALTED:
			set_state(vcpu, VCPU_HALTED);
			break;
		case EXIT_FAILED:
			set_state(vcpu, VCPU_FAILED);
			break;
		}
	}
	if (!vcpu->soft)
		kvm_thread_exit(vcpu);
	return NULL;
}
