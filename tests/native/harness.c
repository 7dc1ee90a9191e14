/*
 * The whole engine on the software accelerator, with everything going on at once, for the sanitizers:
 * a sanitized extension does not load into a plain Python.
 *
 *     cc -g -fsanitize=thread -I qmpserver/accel/native tests/native/harness.c qmpserver/accel/native/[a-z]*.c
 *
 * Prints one line, and exits with 0 only if no page was lost: at each pause, every page whose content
 * changed since the last one must be in the bitmap.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine.h"
#include "guest.h"

#define PAGES 4096ull
#define VCPUS 2
#define RING 1024
#define SET_PAGES 1500ull

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "harness: %s failed\n", what);
		exit(1);
	}
}

static void wait_parked(struct engine *engine)
{
	while (engine_count(engine, VCPU_PARKED) < VCPUS)
		usleep(100);
}

/* Pages that changed and are not marked. */
static uint64_t lost(const uint8_t *ram, const uint8_t *copy, const uint64_t *bitmap)
{
	uint64_t count = 0;

	for (uint64_t page = 0; page < PAGES; page++)
		if (memcmp(ram + page * 4096, copy + page * 4096, 4096) &&
		    !(bitmap[page / 64] >> (page % 64) & 1))
			count++;
	return count;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 50;
	uint8_t *ram = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint8_t *copy = malloc(PAGES * 4096);
	uint64_t bitmap[PAGES / 64], pages[VCPUS], missing = 0, changed = 0;

	for (int mode = REAPER_EVENT; mode <= REAPER_POLL; mode++) {
		struct engine *engine = engine_new(-1, ram, PAGES, mode, mode == REAPER_POLL);

		check(engine && !engine_add_slot(engine, 0, 0, PAGES), "engine_new");
		for (uint64_t i = 0; i < VCPUS; i++) {
			struct dirty_guest *control = (struct dirty_guest *)(ram + i * 4096);

			*control = (struct dirty_guest){ .base = (512 + i * SET_PAGES) * 4096,
							 .pages = SET_PAGES,
							 .pattern = i,
							 .seed = 88172645463325252ull + i };
			check(!engine_add_soft_vcpu(engine, i * 4096, RING), "engine_add_soft_vcpu");
		}
		check(!engine_start(engine, true), "engine_start");
		soft_set_tracking(engine, true);
		engine_set_tracking(engine, true);
		for (int round = 0; round < rounds; round++) {
			wait_parked(engine);
			engine_take_bitmap(engine, bitmap);
			memcpy(copy, ram, PAGES * 4096);
			engine_cont(engine);
			for (int i = 0; i < 5; i++) {
				limit_set(engine, i % 3 - 1, 1 + (uint64_t)(round * 37 % 800));
				limit_kick(engine, i % 3 - 1);
				usleep(500);
				reaper_kick(engine);
				engine_pages(engine, pages);
				usleep(500);
				limit_cancel(engine, i % 2 ? -1 : i % 3 - 1);
				limit_kick(engine, i % 2 ? -1 : i % 3 - 1);
			}
			engine_stop(engine);
			wait_parked(engine);
			engine_take_bitmap(engine, bitmap);
			missing += lost(ram, copy, bitmap);
			for (uint64_t i = 0; i < PAGES / 64; i++)
				changed += (uint64_t)__builtin_popcountll(bitmap[i]);
		}
		check(!engine->reset_shortfalls, "every reset");
		engine_free(engine);
	}
	printf("harness: %d rounds, %llu pages marked, %llu lost\n", 2 * rounds,
	       (unsigned long long)changed, (unsigned long long)missing);
	free(copy);
	munmap(ram, PAGES * 4096);
	return missing ? 1 : 0;
}
