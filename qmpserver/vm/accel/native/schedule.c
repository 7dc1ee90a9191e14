/*
 * Requests of threads to the scheduler, so that they answer a kick at once on a busy machine. Each keeps the
 * nice value and the scheduling policy that the user or a service manager has chosen. The kernel may refuse
 * each (by age or privilege), which costs latency and nothing else.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORT_SLICE_NS 100000ull /* the kernel's minimum */

/* The kernel's struct sched_attr, which some C libraries declare and others do not. */
struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

/*
 * From Linux 6.12 on a thread with a short slice is chosen before others that are owed as much time, and gets
 * no more of it. For the event loop's thread: a vCPU that it has just woken would otherwise run first, for a
 * slice of 3 ms, while the client waits for its answer.
 */
void ask_short_slice(void)
{
	struct attributes attr;

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) < 0)
		return;
	if (attr.policy != SCHED_OTHER && attr.policy != SCHED_BATCH)
		return; /* others have no slices, or `runtime` has another meaning */
	attr.runtime = SHORT_SLICE_NS;
	syscall(SYS_sched_setattr, 0, &attr, 0);
}

/*
 * For the reaper alone: its turn is short, and bounded by the rings' sizes, so it starves no guest. Never for
 * a vCPU, and never for the event loop, which a client can keep busy.
 */
void ask_real_time(void)
{
	struct sched_param param = { .sched_priority = 1 };

	if (sched_getscheduler(0) != SCHED_OTHER || sched_setscheduler(0, SCHED_FIFO, &param) < 0)
		ask_short_slice();
}
