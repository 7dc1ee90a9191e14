/*
 * Putting the dirty limit in and out of service. Only the event loop's thread calls these; setting and
 * cancelling are a few stores, and limit_kick() makes a few wakes: no client waits for another thread.
 *
 * The order is what makes one kick enough. The quit flag decides (limit_in_force), so it is stored first when the
 * limit ends and last when it begins: from that moment on a vCPU finds no limit to wait for, and the reaper finds
 * the limit out of service. Then the limits, "in service", and only then the kicks. Kicked before the state is
 * cleared, a reaper that asks for "in service" alone would go back to sleep.
 *
 * Kicks are a call of their own because the answer to the client is best sent between: on a busy machine a
 * woken vCPU may take the processor from the thread that woke it, for milliseconds. A new limit for a vCPU that runs is
 * the other way round: it is kicked at once, and gives up its processor. Kicked after the answer, it would run
 * free until the client has had its turn.
 */
#include "limit.h"

#include "engine.h"

static void set_one(struct vcpu *vcpu, uint64_t mb_per_s)
{
	store_release(&vcpu->limit, mb_per_s);
	trace_now(TRACE_DIRTYLIMIT_SET_VCPU, vcpu->index, mb_per_s, 0);
}

static bool chosen(const struct vcpu *vcpu, int64_t cpu_index)
{
	return cpu_index < 0 || vcpu->index == (uint64_t)cpu_index;
}

void limit_set(struct engine *engine, int64_t cpu_index, uint64_t mb_per_s)
{
	struct limit_service *service = &engine->limit;
	bool changed = false; /* a limit that is repeated disturbs no vCPU */

	if (!load_acquire(&service->in_service))
		trace_now(TRACE_DIRTYLIMIT_STATE_INITIALIZE, engine->nvcpus, 0, 0);
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		if (chosen(engine->vcpus[i], cpu_index)) {
			changed |= load_acquire(&engine->vcpus[i]->limit) != mb_per_s;
			set_one(engine->vcpus[i], mb_per_s);
		}
	store_release(&service->in_service, 1);
	store_release(&service->quit, 0);
	for (uint32_t i = 0; changed && i < engine->nvcpus; i++)
		if (chosen(engine->vcpus[i], cpu_index) &&
		    load_acquire(&engine->vcpus[i]->state) == VCPU_RUNNING)
			vcpu_kick(engine->vcpus[i]);
}

void limit_cancel(struct engine *engine, int64_t cpu_index)
{
	struct limit_service *service = &engine->limit;
	bool last = true;

	for (uint32_t i = 0; i < engine->nvcpus; i++)
		if (load_acquire(&engine->vcpus[i]->limit) && !chosen(engine->vcpus[i], cpu_index))
			last = false;

	store_release(&service->last_cancel_ns, now_ns());
	if (last)
		store_release(&service->quit, 1);
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		if (chosen(engine->vcpus[i], cpu_index) && load_acquire(&engine->vcpus[i]->limit))
			set_one(engine->vcpus[i], 0);
	if (last) {
		store_release(&service->in_service, 0);
		trace_now(TRACE_DIRTYLIMIT_STATE_FINALIZE, 0, 0, 0);
	}
}

void limit_kick(struct engine *engine, int64_t cpu_index)
{
	if (!limit_in_force(&engine->limit))
		reaper_kick(engine);
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		if (chosen(engine->vcpus[i], cpu_index))
			vcpu_kick(engine->vcpus[i]);
}
