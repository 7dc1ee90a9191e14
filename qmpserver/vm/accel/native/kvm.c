/*
 * The accelerator KVM: KVM_RUN, KVM_RESET_DIRTY_RINGS, and getting a thread out of the guest.
 */
#define _GNU_SOURCE
#include "kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"

#ifndef sigev_notify_thread_id /* musl and newer glibc have the name */
#define sigev_notify_thread_id _sigev_un._tid
#endif

/*
 * A write to this MSR has KVM write the time to the given page at once: three times, so that a reader sees
 * whether it is whole, and each write pushes an entry. The address is the VM's, not the vCPU's, and the guest could
 * read it: 0 afterwards, which writes nothing, is what the guest would have found.
 */
#define MSR_WALL_CLOCK 0x4b564d00
#define PUSHES_PER_WRITE 3
#define MAX_WRITES 128

/* initial-exec: a signal handler must not be the one to allocate thread-local storage */
static __thread struct kvm_run *own_run __attribute__((tls_model("initial-exec")));

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

static void on_kick(int sig)
{
	(void)sig;
	if (own_run)
		store_relaxed(&own_run->immediate_exit, 1);
}

int kvm_install_kick(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_handler = on_kick;
	action.sa_flags = SA_RESTART; /* KVM_RUN ends all the same */
	return sigaction(KICK_SIGNAL, &action, NULL);
}

static void kvm_interrupt(struct vcpu *vcpu)
{
	syscall(SYS_tgkill, getpid(), load_acquire(&vcpu->tid), KICK_SIGNAL);
}

static void mask_kick(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	pthread_sigmask(how, &set, NULL);
}

static int kvm_thread_init(struct vcpu *vcpu)
{
	struct sigevent event;

	own_run = vcpu->run;
	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = KICK_SIGNAL;
	event.sigev_notify_thread_id = vcpu->tid;
	if (timer_create(CLOCK_MONOTONIC, &event, &vcpu->look_timer) < 0)
		return errno;
	mask_kick(SIG_UNBLOCK);
	return 0;
}

static void kvm_thread_exit(struct vcpu *vcpu)
{
	mask_kick(SIG_BLOCK);
	own_run = NULL;
	timer_delete(vcpu->look_timer);
}

static void set_timer(struct vcpu *vcpu, uint64_t until)
{
	struct itimerspec when = { .it_value = to_timespec(until) };

	timer_settime(vcpu->look_timer, TIMER_ABSTIME, &when, NULL);
}

/* One device is there, which only takes; else writes go nowhere, and reads float high, as on an empty bus. */
static void answer_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_IN)
		memset(data, 0xff, (size_t)run->io.size * run->io.count);
	else if (run->exit_reason == KVM_EXIT_IO && run->io.size == 1)
		uart_output(&vcpu->engine->uart, run->io.port, data, run->io.count);
	else if (run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write)
		memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
}

/*
 * An instruction that left for the sake of a device ends in the next KVM_RUN: have it end now, or that would
 * happen to registers that were set meanwhile.
 */
static void kvm_complete_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	while (run->exit_reason == KVM_EXIT_IO || run->exit_reason == KVM_EXIT_MMIO) {
		int ret;

		store_relaxed(&run->immediate_exit, 1);
		ret = ioctl(vcpu->fd, KVM_RUN, 0);
		store_relaxed(&run->immediate_exit, 0);
		if (ret < 0)
			break;
		answer_io(vcpu);
	}
}

static enum vcpu_exit kvm_enter(struct vcpu *vcpu, uint32_t seen, uint64_t until)
{
	struct kvm_run *run = vcpu->run;
	enum vcpu_exit why = EXIT_KICKED;
	int ret, error;

	(void)seen; /* a kick interrupts */
	if (until)
		set_timer(vcpu, until);
	ret = ioctl(vcpu->fd, KVM_RUN, 0);
	error = errno;
	/* Its request is read after this. An interrupt that comes later costs one round. */
	store_relaxed(&run->immediate_exit, 0);
	if (until)
		set_timer(vcpu, 0);

	if (ret < 0) {
		if (error == EINTR || error == EAGAIN)
			return EXIT_KICKED;
		store_release(&vcpu->exit_reason, KVM_EXIT_INTERNAL_ERROR);
		return EXIT_FAILED;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_DIRTY_RING_FULL:
		return EXIT_RING_FULL;
	case KVM_EXIT_INTR:
		return EXIT_KICKED;
	case KVM_EXIT_IO:
	case KVM_EXIT_MMIO:
		answer_io(vcpu);
		return EXIT_KICKED;
	case KVM_EXIT_HLT:
		why = EXIT_HALTED;
		break;
	default:
		why = EXIT_FAILED;
		break;
	}
	store_release(&vcpu->exit_reason, run->exit_reason);
	return why;
}

static void kvm_reset_rings(struct engine *engine)
{
	sigset_t all, old;

	/* A pending signal would cut it short; dirtylog.c has what becomes of those that cannot be blocked. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ioctl(engine->kvm.fd, KVM_RESET_DIRTY_RINGS, 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static int kvm_log_dirty_pages(struct engine *engine, bool on)
{
	const struct memory *memory = &engine->memory;

	for (uint32_t i = 0; i < memory->nslots; i++) {
		const struct memslot *slot = &memory->slots[i];
		struct kvm_userspace_memory_region region = {
			.slot = i,
			.flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
			.guest_phys_addr = slot->gpa,
			.memory_size = slot->pages * PAGE_BYTES,
			.userspace_addr = (uintptr_t)(memory->ram + slot->ram_page * PAGE_BYTES),
		};

		if (ioctl(engine->kvm.fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
			return -1;
	}
	return 0;
}

#ifdef __x86_64__
static void kvm_push_canaries(struct engine *engine, uint32_t count)
{
	_Alignas(struct kvm_msrs) uint8_t buffer[sizeof(struct kvm_msrs) +
						 (MAX_WRITES + 1) * sizeof(struct kvm_msr_entry)] = { 0 };
	struct kvm_msrs *msrs = (struct kvm_msrs *)buffer;
	uint32_t writes = count / PUSHES_PER_WRITE;

	if (writes > MAX_WRITES)
		writes = MAX_WRITES;
	for (uint32_t i = 0; i <= writes; i++) {
		msrs->entries[i].index = MSR_WALL_CLOCK;
		msrs->entries[i].data = i < writes ? engine->kvm.canary_gpa : 0;
	}
	msrs->nmsrs = writes + 1;
	ioctl(engine->kvm.canary_fd, KVM_SET_MSRS, msrs); /* the ring tells whether it succeeded */
}
#else
static void kvm_push_canaries(struct engine *engine, uint32_t count)
{
	(void)engine; /* no other architecture has the MSR: no canary is made there */
	(void)count;
}
#endif

static void kvm_free_vcpu(struct vcpu *vcpu)
{
	(void)vcpu; /* the mappings are Python's */
}

static void kvm_free_vm(struct engine *engine)
{
	(void)engine; /* so are the descriptors */
}

const struct accel_ops kvm_ops = {
	.name = "KVM",
	.thread_init = kvm_thread_init,
	.thread_exit = kvm_thread_exit,
	.enter = kvm_enter,
	.complete_exit = kvm_complete_exit,
	.interrupt = kvm_interrupt,
	.reset_rings = kvm_reset_rings,
	.log_dirty_pages = kvm_log_dirty_pages,
	.push_canaries = kvm_push_canaries,
	.free_vcpu = kvm_free_vcpu,
	.free_vm = kvm_free_vm,
};
