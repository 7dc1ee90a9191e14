/*
 * The vCPU threads: one loop for every accelerator.
 *
 * Each round reads kick_look() first and then all requests; the guest and the waits refuse to be entered
 * once a kick has come since, so none is overlooked. kick.c has the proof.
 */
#define _GNU_SOURCE
#include "vcpu.h"

#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"

/* Switching the log takes milliseconds, with much RAM up to a second. A guest is not held that long. */
#define LONGEST_HOLD_NS 100000000ull

/* The time in the guest between two pauses of the CPU throttle; QEMU's is as long. */
#define THROTTLE_SLICE_NS 10000000ull

/*
 * How long a throttled vCPU runs before it is parked, at a time: it dirties some hundred pages at most. Up to LAST_RUNS
 * times until it dirties one, and once more.
 */
#define LAST_RUN_NS 100000ull
#define LAST_RUNS 10

/* The state of a vCPU's limit, its thread's own. */
struct account {
	bool limited;       /* there was a limit in the last round */
	bool ring_full;     /* the last stay ended so */
	uint64_t charged;   /* entries pushed, as of the last charge */
	uint64_t ran_ns;    /* in the guest since then */
	unsigned last_runs; /* that it may make before it is parked */
	uint64_t stood_at;  /* entries pushed when it was throttled */
	uint64_t idle_from; /* parked, or waiting for tracking, since; 0: not */
	uint64_t slice_end;  /* of the CPU throttle; 0: the next stay begins a slice */
	uint64_t hold_until; /* the end of the wait for tracking; 0: none has begun */
};

static void set_state(struct vcpu *vcpu, enum vcpu_state state)
{
	if (load_acquire(&vcpu->state) == state)
		return;
	store_release(&vcpu->state, state);
	if (state == VCPU_PARKED || state == VCPU_HALTED || state == VCPU_FAILED)
		notify(vcpu->engine->notify_fd);
}

/* Wait as the controller wants it, and count it. */
static void throttle(struct vcpu *vcpu, struct account *account, uint32_t seen, uint64_t until)
{
	uint64_t from = now_ns(), pause;

	set_state(vcpu, VCPU_THROTTLED);
	kick_wait(vcpu, seen, until);
	pause = now_ns() - from;
	account->last_runs = LAST_RUNS;
	account->stood_at = ring_pushed(&vcpu->ring, account->charged);
	count_up(&vcpu->throttle_ns, pause);
	count_up(&vcpu->throttle_count, 1);
	if (pause > vcpu->longest_pause_ns)
		store_release(&vcpu->longest_pause_ns, pause);
	store_release(&vcpu->last_resume_ns, from + pause);
	trace_since(TRACE_DIRTYLIMIT_VCPU_EXECUTE, from, vcpu->index, pause / 1000);
}

static void idle(struct account *account)
{
	if (!account->idle_from)
		account->idle_from = now_ns();
}

/*
 * Charge what was dirtied, and take up a new limit if there is one. Returns until when the vCPU must wait; it may run if
 * that is not after `now`.
 */
static uint64_t charge(struct vcpu *vcpu, struct account *account, uint64_t limit, uint64_t now)
{
	struct controller *controller = &vcpu->controller;
	uint64_t pushed = ring_pushed(&vcpu->ring, account->charged), until = now;

	if (account->idle_from)
		controller_skip(controller, now - account->idle_from);
	if (account->limited)
		until = controller_charge(controller, pushed - account->charged, account->ran_ns,
					  account->ring_full, now);
	if (!account->limited || limit != controller->limit)
		until = controller_set(controller, limit, account->limited, now);
	if (until > now) {
		uint64_t wait = until - now;

		trace_now(TRACE_DIRTYLIMIT_THROTTLE_PCT, vcpu->index,
			  100 * wait / (wait + account->ran_ns), wait / 1000);
	}
	*account = (struct account){ .limited = true, .charged = pushed };
	return until;
}

static enum vcpu_exit enter_guest(struct vcpu *vcpu, uint32_t seen, uint64_t until)
{
	uint64_t started = trace_start(TRACE_KVM_RUN_EXIT);
	enum vcpu_exit why = EXIT_KICKED;

	set_state(vcpu, VCPU_RUNNING);
	if (kick_enter(vcpu, seen))
		why = vcpu->engine->ops->enter(vcpu, seen, until);
	kick_leave(vcpu);
	trace_since(TRACE_KVM_RUN_EXIT, started, vcpu->index, vcpu->run ? vcpu->run->exit_reason : 0);
	return why;
}

static void run(struct vcpu *vcpu, struct account *account, uint32_t seen, uint64_t until)
{
	uint64_t entered = until ? now_ns() : 0;
	enum vcpu_exit why = enter_guest(vcpu, seen, until);

	if (until)
		account->ran_ns += now_ns() - entered;
	account->ring_full = why == EXIT_RING_FULL;
	switch (why) {
	case EXIT_KICKED:
		break;
	case EXIT_RING_FULL:
		count_up(&vcpu->full_exits, 1);
		trace_now(TRACE_KVM_DIRTY_RING_FULL, vcpu->index, 0, 0);
		reap_full_ring(vcpu);
		break;
	case EXIT_HALTED:
		set_state(vcpu, VCPU_HALTED);
		break;
	case EXIT_FAILED:
		set_state(vcpu, VCPU_FAILED);
		break;
	}
}

/* Run without a dirty limit, but for a part of the time if the CPU throttle says so. */
static void run_unlimited(struct vcpu *vcpu, struct account *account, uint32_t seen)
{
	uint64_t percent = load_acquire(&vcpu->engine->cpu_throttle), now;

	if (!percent) {
		account->slice_end = 0;
		run(vcpu, account, seen, 0);
		return;
	}
	now = now_ns();
	if (!account->slice_end)
		account->slice_end = now + THROTTLE_SLICE_NS;
	if (now < account->slice_end) {
		run(vcpu, account, seen, account->slice_end);
	} else {
		account->slice_end = 0;
		throttle(vcpu, account, seen, now + THROTTLE_SLICE_NS * percent / (100 - percent));
	}
}

/*
 * Tracking is being switched on, and pages that the vCPU dirties now go uncounted: wait for it, but not for long. After
 * that the vCPU runs free until it is kicked because tracking is on; charging begins then.
 */
static void hold(struct vcpu *vcpu, struct account *account, uint32_t seen, uint64_t now)
{
	if (!account->hold_until)
		account->hold_until = now + LONGEST_HOLD_NS;
	if (now < account->hold_until) {
		set_state(vcpu, VCPU_HOLDING);
		idle(account);
		kick_wait(vcpu, seen, account->hold_until);
	} else {
		account->limited = false;
		run(vcpu, account, seen, 0);
	}
}

static void execute(struct vcpu *vcpu)
{
	struct engine *engine = vcpu->engine;
	struct account account = { 0 };

	for (;;) {
		uint32_t seen = kick_look(vcpu);
		uint32_t state = load_acquire(&vcpu->state);
		uint64_t limit, now, wait_until;

		if (load_acquire(&engine->quit))
			return;
		if (state == VCPU_FAILED || state == VCPU_HALTED) {
			idle(&account);
			kick_wait(vcpu, seen, 0);
			continue;
		}
		if (load_acquire(&engine->stopped)) {
			/*
			 * The guest is to stand still from now on, and not since its throttle began. One run may
			 * not be enough: a kick for something else, or the scheduler, can take all of it. And an
			 * entry is pushed before its store: the run after the one that pushed it is sure to store.
			 */
			if (account.last_runs) {
				bool pushed = ring_pushed(&vcpu->ring, account.stood_at) != account.stood_at;

				account.last_runs = pushed ? 0 : account.last_runs - 1;
				run(vcpu, &account, seen, now_ns() + LAST_RUN_NS);
				continue;
			}
			/* Once it is parked, its registers and its state may be set from outside at any time. */
			if (state != VCPU_PARKED) {
				engine->ops->complete_exit(vcpu);
				set_state(vcpu, VCPU_PARKED);
			}
			idle(&account);
			kick_wait(vcpu, seen, 0);
			continue;
		}
		limit = limit_of(vcpu);
		if (!limit) {
			account = (struct account){ .charged = account.charged, .slice_end = account.slice_end };
			run_unlimited(vcpu, &account, seen);
			continue;
		}
		now = now_ns();
		if (!load_acquire(&engine->log.tracking)) {
			hold(vcpu, &account, seen, now);
			continue;
		}
		wait_until = charge(vcpu, &account, limit, now);
		if (wait_until > now)
			throttle(vcpu, &account, seen, wait_until);
		else
			run(vcpu, &account, seen, controller_next_look(&vcpu->controller, now));
	}
}

void *vcpu_thread(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct engine *engine = vcpu->engine;
	char name[24];

	snprintf(name, sizeof(name), "CPU %u/%s", vcpu->index, engine->ops->name);
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_TIMERSLACK, 1UL); /* the default lets a throttle wait run over by 50 us */
	store_release(&vcpu->tid, (int32_t)syscall(SYS_gettid));
	vcpu->thread_error = engine->ops->thread_init(vcpu);
	sem_post(&engine->initialized);
	if (!vcpu->thread_error) {
		execute(vcpu);
		engine->ops->thread_exit(vcpu);
	}
	return NULL;
}

uint64_t vcpu_pages(struct vcpu *vcpu)
{
	if (vcpu->ring.size)
		vcpu->pages_seen = ring_pushed(&vcpu->ring, vcpu->pages_seen);
	return vcpu->pages_seen;
}
