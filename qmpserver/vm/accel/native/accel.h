/*
 * An accelerator as the engine sees it: one const table in kvm.c, one in soft.c. No entry is NULL.
 *
 * The engine decides when a vCPU enters the guest, when threads wake each other and when rings are harvested; the
 * accelerator runs the guest, logs pages and resets rings.
 */
#ifndef QMPSERVER_ACCEL_H
#define QMPSERVER_ACCEL_H

#include <stdbool.h>
#include <stdint.h>

struct engine;
struct vcpu;

/* How a stay in the guest ended. */
enum vcpu_exit { EXIT_KICKED, EXIT_RING_FULL, EXIT_HALTED, EXIT_FAILED };

struct accel_ops {
	const char *name; /* in the names of the vCPUs' threads */

	/* On the vCPU's own thread. */
	int (*thread_init)(struct vcpu *vcpu); /* acquire what it needs to run; 0 or an errno value */
	void (*thread_exit)(struct vcpu *vcpu); /* release it; only after a thread_init that succeeded */
	/* Stay in the guest until kicked (the kicks are not `seen`), the time `until` (0: none), or an exit. */
	enum vcpu_exit (*enter)(struct vcpu *vcpu, uint32_t seen, uint64_t until);
	void (*complete_exit)(struct vcpu *vcpu); /* end an instruction that the last exit left half-done */

	/* On any thread. */
	void (*interrupt)(struct vcpu *vcpu); /* have enter() return, if it was called; cannot fail */

	/* Under the lock of the dirty log. */
	void (*reset_rings)(struct engine *engine); /* the rings tell how far it came */
	/* Switch the log of all RAM; switching on protects all pages unless it was on. 0, or -1 and errno. */
	int (*log_dirty_pages)(struct engine *engine, bool on);
	/* Push up to `count` entries into the canary's ring; they count when their flags say dirty. */
	void (*push_canaries)(struct engine *engine, uint32_t count);

	void (*free_vcpu)(struct vcpu *vcpu);
	void (*free_vm)(struct engine *engine);
};

extern const struct accel_ops kvm_ops, soft_ops;

#endif
