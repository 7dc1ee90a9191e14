/*
 * Sender and receiver with everything going on at once, for the sanitizers.
 *
 *     stream ROUNDS
 *
 * A guest stores to RAM all the while, pages are added during passes, the rate changes, and the channels are
 * sockets or pipes or one file with all of RAM; in some rounds a peer hangs up or either side is stopped. In the
 * others RAM must arrive whole. Prints one line; exits with 0 only if all pages are equal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "atomics.h"
#include "stream/receiver.h"
#include "stream/sender.h"

#define PAGE 4096ull
#define PAGES 2100ull
#define WORDS ((PAGES + 63) / 64)
#define MAX_CHANNELS 4u
#define BASE (1ull << 20)

enum kind { SOCKETS, PIPES, MAPPED, KINDS };

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "stream: %s failed\n", what);
		abort();
	}
}

static int new_ram(void)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);

	check(fd >= 0 && !ftruncate(fd, (off_t)(PAGES * PAGE)), "memfd_create");
	return fd;
}

/* Map RAM; each look at it has a mapping of its own, as a guest has one that no sanitizer sees. */
static uint8_t *map(int fd)
{
	uint8_t *ram = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	check(ram != MAP_FAILED, "mmap");
	return ram;
}

struct guest {
	struct sender *sender;
	uint8_t *ram;
	uint64_t random;
	uint32_t done;
};

static uint64_t any(uint64_t *state, uint64_t below)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (*state >> 11) % below;
}

/* Store to pages and report them, as a guest and its dirty log do. */
static void *run_guest(void *opaque)
{
	struct guest *guest = opaque;
	uint64_t bitmap[WORDS];

	do {
		memset(bitmap, 0, sizeof(bitmap));
		for (uint64_t i = any(&guest->random, 100); i; i--) {
			uint64_t page = any(&guest->random, PAGES);

			if (any(&guest->random, 4))
				guest->ram[page * PAGE + any(&guest->random, PAGE)] += 1;
			else
				memset(guest->ram + page * PAGE, 0, PAGE);
			bitmap[page / 64] |= 1ull << (page % 64);
		}
		sender_add(guest->sender, bitmap);
		usleep(200);
	} while (!load_acquire(&guest->done));
	return NULL;
}

static void wait_for(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	uint64_t count;

	check(poll(&poll_fd, 1, 20000) > 0 && read(fd, &count, sizeof(count)) > 0, "a notification");
}

static bool sender_ended(const struct sender *sender, uint32_t channels)
{
	struct sender_counters counters;
	bool stopped = false;

	for (uint32_t i = 0; i < channels; i++)
		stopped |= sender_state(sender, i) >= CHANNEL_FAILED;
	sender_read_counters(sender, &counters);
	return stopped || !counters.busy;
}

static bool receiver_ended(const struct receiver *receiver, uint32_t channels)
{
	bool busy = false;

	for (uint32_t i = 0; i < channels; i++)
		busy |= receiver_state(receiver, i) == CHANNEL_BUSY;
	return !busy;
}

static void receive_all(struct receiver *receiver, uint32_t channels)
{
	for (uint32_t i = 0; i < channels; i++)
		check(!receiver_start(receiver, i), "receiver_start");
}

static void open_channels(enum kind kind, uint32_t channels, int ends[][2])
{
	for (uint32_t i = 0; i < channels; i++) {
		if (kind == MAPPED) {
			ends[i][0] = i ? dup(ends[0][0]) : memfd_create("file", MFD_CLOEXEC);
			ends[i][1] = dup(ends[i][0]);
			check(ends[i][0] >= 0 && ends[i][1] >= 0, "a file");
		} else if (kind == PIPES) {
			int fds[2];

			check(!pipe2(fds, O_CLOEXEC | O_NONBLOCK), "pipe2");
			ends[i][0] = fds[1];
			ends[i][1] = fds[0];
		} else {
			check(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends[i]), "socketpair");
		}
	}
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 50, whole = 0;
	uint64_t random = 88172645463325252ull, sent = 0, lost = 0;

	for (int round = 0; round < rounds; round++) {
		uint32_t channels = 1 + (uint32_t)round % MAX_CHANNELS;
		enum kind kind = (enum kind)(round / 4 % KINDS);
		int ends[MAX_CHANNELS][2], send_fds[MAX_CHANNELS], receive_fds[MAX_CHANNELS];
		int source = new_ram(), target = new_ram(), broken = round % 5 == 4 ? round / 5 % 3 : -1;
		int64_t base = kind == MAPPED ? (int64_t)BASE : -1;
		uint8_t *seen = map(source), *received = map(target);
		struct guest guest = { .ram = map(source), .random = random + (uint64_t)round };
		struct sender_counters counters;
		struct receiver *receiver;
		struct sender *sender;
		pthread_t thread;

		if (broken == 2 && kind != SOCKETS)
			broken = -1; /* nobody hangs up on a file */
		open_channels(kind, channels, ends);
		for (uint32_t i = 0; i < channels; i++) {
			send_fds[i] = ends[i][0];
			receive_fds[i] = ends[i][1];
		}
		for (uint64_t i = 0; i < PAGES / 2; i++) {
			seen[any(&random, PAGES) * PAGE + any(&random, PAGE)] = (uint8_t)i;
			received[any(&random, PAGES / 10) * PAGE] = 0;
		}
		sender = sender_new(NULL, seen, PAGES, source, send_fds, channels, base);
		receiver = receiver_new(received, PAGES, target, receive_fds, channels, base);
		check(sender && receiver && !sender_add_data(sender), "sender_new, receiver_new");
		guest.sender = sender;
		check(!pthread_create(&thread, NULL, run_guest, &guest), "pthread_create");
		if (kind != MAPPED)
			receive_all(receiver, channels);
		for (int pass = 0; pass < 6; pass++) {
			sender_set_rate(sender, any(&random, 3) ? 0 : 100000000 + any(&random, 1000000000));
			if (sender_begin_pass(sender, false) < 0) {
				check(broken >= 0 && errno == EPIPE, "sender_begin_pass");
				break;
			}
			if (pass == 3 && broken == 0)
				sender_stop(sender);
			if (pass == 3 && broken == 1)
				receiver_stop(receiver);
			if (pass == 3 && broken == 2)
				shutdown(ends[0][1], SHUT_RDWR);
			sender_set_rate(sender, 0);
			if (broken == 1 && pass == 3)
				break;
			while (!sender_ended(sender, channels))
				wait_for(sender_notify_fd(sender));
		}
		store_release(&guest.done, 1);
		pthread_join(thread, NULL);
		if (broken < 0) {
			check(!sender_begin_pass(sender, true), "the last pass");
			while (!sender_ended(sender, channels))
				wait_for(sender_notify_fd(sender));
			if (kind == MAPPED)
				receive_all(receiver, channels);
			while (!receiver_ended(receiver, channels))
				wait_for(receiver_notify_fd(receiver));
			for (uint32_t i = 0; i < channels; i++)
				check(receiver_state(receiver, i) == CHANNEL_SYNC, receiver_error(receiver, i));
			for (uint64_t page = 0; page < PAGES; page++)
				lost += memcmp(seen + page * PAGE, received + page * PAGE, PAGE) != 0;
			whole++;
		}
		sender_read_counters(sender, &counters);
		check(broken >= 0 || (!counters.pending && !counters.cold), "counting what is pending");
		sent += counters.pages + counters.zero_pages;
		sender_free(sender);
		receiver_free(receiver);
		for (uint32_t i = 0; i < channels; i++) {
			close(ends[i][0]);
			close(ends[i][1]);
		}
		munmap(seen, PAGES * PAGE);
		munmap(received, PAGES * PAGE);
		munmap(guest.ram, PAGES * PAGE);
		close(source);
		close(target);
	}
	printf("stream: %d rounds, %d whole, %llu pages sent, %llu lost\n", rounds, whole, (unsigned long long)sent,
	       (unsigned long long)lost);
	return lost || whole == rounds || whole < rounds / 2;
}
