/*
 * Making, starting, stopping and freeing an engine.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_VCPUS 1024

static struct vcpu *vcpu_new(struct engine *engine, uint32_t ring_size)
{
	struct vcpu *vcpu;

	if (engine->nvcpus == MAX_VCPUS) {
		errno = ENOSPC;
		return NULL;
	}
	/* Its own cache lines: each thread writes its counters all the time. */
	vcpu = aligned_alloc(64, (sizeof(*vcpu) + 63) / 64 * 64);
	if (!vcpu)
		return NULL;
	memset(vcpu, 0, sizeof(*vcpu));
	vcpu->engine = engine;
	vcpu->index = engine->nvcpus;
	vcpu->fd = -1;
	controller_init(&vcpu->controller, engine->controller_kind, ring_size);
	dirtylog_init_vcpu(vcpu);
	engine->vcpus[engine->nvcpus] = vcpu;
	return vcpu;
}

static void vcpu_free(struct vcpu *vcpu)
{
	dirtylog_free_vcpu(vcpu);
	free(vcpu);
}

struct engine *engine_new(int vm_fd, uint8_t *ram, uint64_t ram_pages, enum reaper_mode mode,
			  enum controller_kind controller)
{
	struct engine *engine = calloc(1, sizeof(*engine));

	if (!engine)
		return NULL;
	engine->ops = vm_fd < 0 ? &soft_ops : &kvm_ops;
	engine->kvm = (struct kvm_vm){ .fd = vm_fd, .canary_fd = -1 };
	engine->uart.fd = -1;
	engine->memory.ram = ram;
	engine->memory.pages = ram_pages;
	engine->reaper.mode = mode;
	engine->controller_kind = controller;
	engine->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	engine->reaper.kick_fd = eventfd(0, EFD_CLOEXEC);
	engine->reaper.quit_fd = eventfd(0, EFD_CLOEXEC);
	engine->vcpus = calloc(MAX_VCPUS, sizeof(*engine->vcpus));
	sem_init(&engine->initialized, 0, 0);
	sem_init(&engine->reaper.initialized, 0, 0);
	if (dirtylog_init(engine) < 0 || protection_init(&engine->protection, ram_pages) < 0 ||
	    engine->notify_fd < 0 || engine->reaper.kick_fd < 0 || engine->reaper.quit_fd < 0 || !engine->vcpus ||
	    (vm_fd < 0 ? soft_new(engine) : kvm_install_kick()) < 0) {
		int error = errno;

		engine_free(engine);
		errno = error;
		return NULL;
	}
	return engine;
}

int engine_add_slot(struct engine *engine, uint64_t gpa, uint64_t ram_page, uint64_t pages)
{
	struct memory *memory = &engine->memory;

	if (memory->nslots == MEMORY_MAX_SLOTS) {
		errno = ENOSPC;
		return -1;
	}
	memory->slots[memory->nslots++] = (struct memslot){ .gpa = gpa, .ram_page = ram_page, .pages = pages };
	return 0;
}

int engine_add_kvm_vcpu(struct engine *engine, int fd, void *run, void *ring, uint32_t ring_size)
{
	struct vcpu *vcpu = vcpu_new(engine, ring_size);

	if (!vcpu)
		return -1;
	vcpu->fd = fd;
	vcpu->run = run;
	vcpu->ring.entries = ring;
	vcpu->ring.size = ring_size;
	engine->nvcpus++;
	return 0;
}

int engine_add_soft_vcpu(struct engine *engine, uint64_t control_gpa, uint32_t ring_size)
{
	struct vcpu *vcpu = vcpu_new(engine, ring_size);

	if (!vcpu)
		return -1;
	if (soft_vcpu_init(vcpu, control_gpa, ring_size) < 0) {
		int error = errno;

		engine->vcpus[engine->nvcpus] = NULL;
		vcpu_free(vcpu);
		errno = error;
		return -1;
	}
	engine->nvcpus++;
	return 0;
}

int engine_add_kvm_canary(struct engine *engine, int fd, uint64_t gpa, void *ring, uint32_t ring_size)
{
	engine->kvm.canary_fd = fd;
	engine->kvm.canary_gpa = gpa;
	return dirtylog_start_canary(engine, (struct ring){ .entries = ring, .size = ring_size });
}

/* End the reaper and the first `vcpus` vCPUs, whose threads have been started. */
static void join(struct engine *engine, uint32_t vcpus)
{
	store_release(&engine->quit, 1);
	for (uint32_t i = 0; i < vcpus; i++)
		vcpu_kick(engine->vcpus[i]);
	notify(engine->reaper.quit_fd);
	for (uint32_t i = 0; i < vcpus; i++)
		pthread_join(engine->vcpus[i]->thread, NULL);
	pthread_join(engine->reaper.thread, NULL);
}

/* Wait until the first `vcpus` vCPUs' threads know their ids and have what they need. 0, or one's errno value. */
static int wait_initialized(struct engine *engine, uint32_t vcpus)
{
	int error = 0;

	for (uint32_t i = 0; i < vcpus; i++)
		while (sem_wait(&engine->initialized) < 0)
			;
	for (uint32_t i = 0; i < vcpus && !error; i++)
		error = engine->vcpus[i]->thread_error;
	return error;
}

/*
 * All threads begin parked: a vCPU that runs would fault in memory under the lock that the kernel needs to make
 * the next thread's stack, and many of them keep it for seconds.
 */
static int start_parked(struct engine *engine)
{
	uint32_t vcpus = 0;
	int error, failed;

	store_release(&engine->stopped, 1);
	error = pthread_create(&engine->reaper.thread, NULL, reaper_thread, engine);
	if (error)
		return error;
	while (!error && vcpus < engine->nvcpus) {
		error = pthread_create(&engine->vcpus[vcpus]->thread, NULL, vcpu_thread, engine->vcpus[vcpus]);
		vcpus += !error;
	}
	failed = wait_initialized(engine, vcpus);
	while (sem_wait(&engine->reaper.initialized) < 0)
		;
	if (!error)
		error = failed;
	if (error)
		join(engine, vcpus);
	return error;
}

int engine_start(struct engine *engine, bool stopped)
{
	sigset_t all, old;
	int error;

	/* Threads inherit the mask: Python's signals are for Python's main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	error = start_parked(engine);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	ask_short_slice(); /* after its children, which would inherit it */
	if (error)
		return error;
	engine->started = true;
	if (!stopped)
		engine_cont(engine);
	return 0;
}

void engine_stop(struct engine *engine)
{
	store_release(&engine->stopped, 1);
	kick_all(engine);
}

void engine_cont(struct engine *engine)
{
	store_release(&engine->stopped, 0);
	/*
	 * Not left to their threads: after a stop that follows, one that is found parked has parked since. Nor done before
	 * the store: a thread that another kick has woken would park again.
	 */
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		uint32_t parked = VCPU_PARKED;

		__atomic_compare_exchange_n(&engine->vcpus[i]->state, &parked, VCPU_RUNNING, false, __ATOMIC_ACQ_REL,
					    __ATOMIC_ACQUIRE);
	}
	kick_all(engine);
}

void engine_set_vcpu_state(struct engine *engine, uint32_t index, enum vcpu_state state, uint32_t exit_reason)
{
	struct vcpu *vcpu = engine->vcpus[index];

	store_release(&vcpu->exit_reason, exit_reason);
	store_release(&vcpu->state, state); /* its thread waits, and reads it when the machine continues */
}

uint32_t engine_count(struct engine *engine, enum vcpu_state state)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < engine->nvcpus; i++)
		count += load_acquire(&engine->vcpus[i]->state) == state;
	return count;
}

void engine_pages(struct engine *engine, uint64_t *pages)
{
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		pages[i] = vcpu_pages(engine->vcpus[i]);
}

void engine_free(struct engine *engine)
{
	if (engine->started)
		join(engine, engine->nvcpus);
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		engine->ops->free_vcpu(engine->vcpus[i]);
		vcpu_free(engine->vcpus[i]);
	}
	engine->ops->free_vm(engine);
	dirtylog_free(engine);
	protection_free(&engine->protection);
	sem_destroy(&engine->initialized);
	sem_destroy(&engine->reaper.initialized);
	if (engine->notify_fd >= 0)
		close(engine->notify_fd);
	if (engine->reaper.kick_fd >= 0)
		close(engine->reaper.kick_fd);
	if (engine->reaper.quit_fd >= 0)
		close(engine->reaper.quit_fd);
	free(engine->vcpus);
	free(engine);
}
