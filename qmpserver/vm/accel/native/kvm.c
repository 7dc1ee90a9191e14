/*
 * KVM's side of the engine: KVM_RUN, KVM_RESET_DIRTY_RINGS, and getting a thread out of the guest.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* initial-exec: a signal handler must not be the one to allocate thread-local storage */
static __thread struct kvm_run *own_run __attribute__((tls_model("initial-exec")));

static void on_kick(int sig)
{
	(void)sig;
	if (own_run)
		__atomic_store_n(&own_run->immediate_exit, 1, __ATOMIC_RELAXED);
}

int kvm_install_kick(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_handler = on_kick;
	return sigaction(SIGRTMIN, &action, NULL);
}

void kvm_signal(struct vcpu *vcpu)
{
	syscall(SYS_tgkill, getpid(), load(&vcpu->tid), SIGRTMIN);
}

static void block_kick(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(how, &set, NULL);
}

int kvm_thread_init(struct vcpu *vcpu)
{
	struct sigevent event;

	own_run = vcpu->run;
	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = SIGRTMIN;
	event._sigev_un._tid = vcpu->tid;
	if (timer_create(CLOCK_MONOTONIC, &event, &vcpu->look_timer) < 0)
		return -1;
	block_kick(SIG_UNBLOCK);
	return 0;
}

void kvm_thread_exit(struct vcpu *vcpu)
{
	block_kick(SIG_BLOCK);
	own_run = NULL;
	if (load(&vcpu->state) != VCPU_FAILED || vcpu->exit_reason)
		timer_delete(vcpu->look_timer);
}

static void set_timer(struct vcpu *vcpu, uint64_t until)
{
	struct itimerspec when = { .it_value = { .tv_sec = (time_t)(until / 1000000000ull),
						 .tv_nsec = (long)(until % 1000000000ull) } };

	timer_settime(vcpu->look_timer, TIMER_ABSTIME, &when, NULL);
}

/* No device is there: writes go nowhere, reads float high, as on an empty bus. */
static void answer_io(struct kvm_run *run)
{
	if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_IN)
		memset((uint8_t *)run + run->io.data_offset, 0xff, (size_t)run->io.size * run->io.count);
	else if (run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write)
		memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
}

/*
 * An instruction that left for the sake of a device ends in the next KVM_RUN: have it end now, or that would
 * happen to registers that were set meanwhile.
 */
void kvm_complete_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	while (run->exit_reason == KVM_EXIT_IO || run->exit_reason == KVM_EXIT_MMIO) {
		int ret;

		__atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		ret = ioctl(vcpu->fd, KVM_RUN, 0);
		__atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		if (ret < 0)
			break;
		answer_io(run);
	}
}

enum vcpu_exit kvm_run(struct vcpu *vcpu, uint32_t seen, uint64_t until)
{
	struct kvm_run *run = vcpu->run;
	enum vcpu_exit why = EXIT_KICKED;
	int ret = 0, error = 0;

	if (until)
		set_timer(vcpu, until);
	__atomic_fetch_add(&vcpu->in_guest, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&vcpu->kicks, __ATOMIC_SEQ_CST) == seen) {
		ret = ioctl(vcpu->fd, KVM_RUN, 0);
		error = errno;
	} else {
		ret = -1;
		error = EINTR;
	}
	vcpu_left_guest(vcpu);
	/* After this a kick's signal may still come, and costs one round at most; its wish is read anyway. */
	__atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	if (until)
		set_timer(vcpu, 0);

	if (ret < 0) {
		if (error == EINTR || error == EAGAIN)
			return EXIT_KICKED;
		store(&vcpu->exit_reason, KVM_EXIT_INTERNAL_ERROR);
		return EXIT_FAILED;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_DIRTY_RING_FULL:
		return EXIT_RING_FULL;
	case KVM_EXIT_INTR:
		return EXIT_KICKED;
	case KVM_EXIT_IO:
	case KVM_EXIT_MMIO:
		answer_io(run);
		return EXIT_KICKED;
	case KVM_EXIT_HLT:
		why = EXIT_HALTED;
		break;
	default:
		why = EXIT_FAILED;
		break;
	}
	store(&vcpu->exit_reason, run->exit_reason);
	return why;
}

int64_t kvm_reset_rings(struct engine *engine)
{
	sigset_t all, old;
	int64_t ret;

	/*
	 * A pending signal would make the kernel end early and drop the pages it was just gathering, which the
	 * number that it returns does not always tell. SIGSTOP can't be blocked: under storms of it, what
	 * it cut short returned too few.
	 */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = ioctl(engine->vm_fd, KVM_RESET_DIRTY_RINGS, 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

int kvm_log_dirty_pages(struct engine *engine, bool on)
{
	for (uint32_t i = 0; i < engine->nslots; i++) {
		const struct memslot *slot = &engine->slots[i];
		struct kvm_userspace_memory_region region = {
			.slot = i,
			.flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
			.guest_phys_addr = slot->gpa,
			.memory_size = slot->pages * 4096,
			.userspace_addr = (uintptr_t)(engine->ram + slot->ram_page * 4096),
		};

		if (ioctl(engine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
			return -1;
	}
	return 0;
}
