/*
 * What threads ask of the scheduler so that a kick is answered at once on a busy machine. The kernel may
 * refuse each (by age or privilege); nothing but latency is lost then.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORT_SLICE_NS 100000ull /* the kernel's least */

/*
 * From Linux 6.12 on a thread with a short slice is chosen before others that are owed as much time, and gets
 * no more of it. For the event loop's thread: a vCPU that it has just woken would otherwise run first, for a
 * slice of 3 ms, while the client waits for its answer.
 */
void ask_short_slice(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = { .size = sizeof(attr), .policy = SCHED_OTHER, .runtime = SHORT_SLICE_NS };

	syscall(SYS_sched_setattr, 0, &attr, 0);
}

/*
 * For the reaper alone: its turn is short, and bounded by the rings' sizes, so it starves no guest. Never for
 * a vCPU, and never for the event loop, which a client can keep busy.
 */
void ask_real_time(void)
{
	struct sched_param param = { .sched_priority = 1 };

	if (sched_setscheduler(0, SCHED_FIFO, &param) < 0)
		ask_short_slice();
}
