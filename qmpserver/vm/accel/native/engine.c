/*
 * Making, starting, stopping and freeing an engine.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
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
	vcpu->full_fetch = UINT64_MAX; /* never */
	engine->vcpus[engine->nvcpus] = vcpu;
	return vcpu;
}

struct engine *engine_new(int vm_fd, uint8_t *ram, uint64_t ram_pages, enum reaper_mode mode,
			  enum controller_kind controller)
{
	struct engine *engine = calloc(1, sizeof(*engine));
	pthread_mutexattr_t inherit;

	if (!engine)
		return NULL;
	engine->vm_fd = vm_fd;
	engine->ram = ram;
	engine->ram_pages = ram_pages;
	engine->reaper.mode = mode;
	engine->controller_kind = controller;
	engine->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	engine->reaper.kick_fd = eventfd(0, EFD_CLOEXEC);
	engine->reaper.quit_fd = eventfd(0, EFD_CLOEXEC);
	engine->vcpus = calloc(MAX_VCPUS, sizeof(*engine->vcpus));
	engine->bitmap = calloc((ram_pages + 63) / 64, sizeof(uint64_t));
	/* The reaper has a real-time priority: who holds the lock that it waits for must not be kept from running. */
	pthread_mutexattr_init(&inherit);
	pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&engine->reap_lock, &inherit);
	pthread_mutexattr_destroy(&inherit);
	if (engine->notify_fd < 0 || engine->reaper.kick_fd < 0 || engine->reaper.quit_fd < 0 ||
	    !engine->vcpus || !engine->bitmap || (vm_fd < 0 ? soft_new(engine) : kvm_install_kick()) < 0) {
		int error = errno;

		engine_free(engine);
		errno = error;
		return NULL;
	}
	return engine;
}

int engine_add_slot(struct engine *engine, uint64_t gpa, uint64_t ram_page, uint64_t pages)
{
	if (engine->nslots == ENGINE_MAX_SLOTS) {
		errno = ENOSPC;
		return -1;
	}
	engine->slots[engine->nslots++] =
		(struct memslot){ .gpa = gpa, .ram_page = ram_page, .pages = pages };
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
		free(vcpu);
		errno = error;
		return -1;
	}
	engine->nvcpus++;
	return 0;
}

/* Started so far are `vcpus` threads, and the reaper: end them. */
static void join(struct engine *engine, uint32_t vcpus)
{
	uint64_t one = 1;

	store(&engine->quit, 1);
	for (uint32_t i = 0; i < vcpus; i++)
		vcpu_kick(engine->vcpus[i]);
	while (write(engine->reaper.quit_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	for (uint32_t i = 0; i < vcpus; i++)
		pthread_join(engine->vcpus[i]->thread, NULL);
	pthread_join(engine->reaper.thread, NULL);
}

/* A thread's id is known when it has begun to run: some microseconds, so that nobody is told of thread 0. */
static void wait_for_ids(const struct engine *engine)
{
	while (!load(&engine->reaper.tid))
		usleep(20);
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		while (!load(&engine->vcpus[i]->tid))
			usleep(20);
}

int engine_start(struct engine *engine, bool stopped)
{
	sigset_t all, old;
	uint32_t i = 0;
	int error;

	engine->stopped = stopped;
	/* Threads inherit the mask: Python's signals are for Python's main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	error = pthread_create(&engine->reaper.thread, NULL, reaper_thread, engine);
	if (!error) {
		pthread_setname_np(engine->reaper.thread, "kvm-reaper");
		for (; i < engine->nvcpus && !error; i++) {
			char name[24];

			error = pthread_create(&engine->vcpus[i]->thread, NULL, vcpu_thread,
					       engine->vcpus[i]);
			if (error)
				break;
			snprintf(name, sizeof(name), "CPU %u/%s", i, engine->soft ? "soft" : "KVM");
			pthread_setname_np(engine->vcpus[i]->thread, name);
		}
		engine->started = !error;
		if (error)
			join(engine, i);
		else
			wait_for_ids(engine);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	ask_short_slice(); /* after its children, which would inherit it */
	return error;
}

void kick_all(struct engine *engine)
{
	for (uint32_t i = 0; i < engine->nvcpus; i++)
		vcpu_kick(engine->vcpus[i]);
}

void engine_stop(struct engine *engine)
{
	store(&engine->stopped, 1);
	kick_all(engine);
}

void engine_notify(struct engine *engine)
{
	uint64_t one = 1;

	while (write(engine->notify_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void engine_cont(struct engine *engine)
{
	store(&engine->stopped, 0);
	kick_all(engine);
}

void engine_reset(struct engine *engine)
{
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct vcpu *vcpu = engine->vcpus[i];

		if (vcpu->soft)
			soft_vcpu_reset(vcpu);
		else if (load(&vcpu->state) == VCPU_FAILED && !load(&vcpu->exit_reason))
			continue; /* its thread could not be set up */
		store(&vcpu->exit_reason, 0);
		store(&vcpu->state, VCPU_PARKED); /* its thread waits, and only reads it */
	}
	kick_all(engine);
}

uint32_t engine_count(struct engine *engine, enum vcpu_state state)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < engine->nvcpus; i++)
		count += load(&engine->vcpus[i]->state) == state;
	return count;
}

void engine_pages(struct engine *engine, uint64_t *pages)
{
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		struct ring *ring = &engine->vcpus[i]->ring;

		pages[i] = ring->size ? ring_pushed(ring, 0) : 0;
	}
}

uint32_t vcpu_waiting(struct vcpu *vcpu)
{
	uint64_t fetch = load(&vcpu->ring.fetch);
	uint64_t pushed = vcpu->ring.size ? ring_pushed(&vcpu->ring, fetch) : fetch;

	return (uint32_t)(pushed - fetch);
}

void engine_free(struct engine *engine)
{
	if (engine->started)
		join(engine, engine->nvcpus);
	for (uint32_t i = 0; i < engine->nvcpus; i++) {
		soft_vcpu_free(engine->vcpus[i]);
		free(engine->vcpus[i]);
	}
	soft_free(engine);
	pthread_mutex_destroy(&engine->reap_lock);
	if (engine->notify_fd >= 0)
		close(engine->notify_fd);
	if (engine->reaper.kick_fd >= 0)
		close(engine->reaper.kick_fd);
	if (engine->reaper.quit_fd >= 0)
		close(engine->reaper.quit_fd);
	free(engine->bitmap);
	free(engine->vcpus);
	free(engine);
}
