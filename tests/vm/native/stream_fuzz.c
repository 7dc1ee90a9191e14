/*
 * Broken streams for the receiver, for the sanitizers: random frames, most of them right, with a header or the
 * framing damaged here and there, cut anywhere, arriving in pieces.
 *
 *     stream_fuzz COUNT [SEED]
 *
 * A plain interpreter of the same bytes says how each channel must end and which pages RAM has then: pages and
 * holes must be these, the memory after RAM stays empty, and nothing waits for ever. Prints one line; a stream that
 * fails is named by its seed: `stream_fuzz 1 SEED` repeats it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stream/receiver.h"
#include "stream/wire.h"

#define PAGE 4096u
#define RAM_PAGES 1100u /* three blocks, the last one not whole */
#define FILE_PAGES 2048u
#define MAX_CHANNELS 3u
#define MAX_BYTES (512u * 1024)
#define HANG_MS 20000

static uint64_t seed, state;

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "stream_fuzz: %s: repeat with seed %" PRIu64 "\n", what, seed);
		abort();
	}
}

static uint64_t any(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

static bool one_in(uint64_t n)
{
	return !any(n);
}

/* The RAM that must result. */
struct model {
	uint8_t content[RAM_PAGES][PAGE];
	bool data[RAM_PAGES];
};

/* One channel's bytes, and how it must end after each start. */
struct stream {
	uint8_t bytes[MAX_BYTES];
	size_t length;
	size_t sent;
	enum channel_state ends[64];
	uint64_t control[64];
	unsigned int nends;
	unsigned int seen;
};

static struct model model;
static uint8_t noise[(STREAM_RUN + 1) * PAGE]; /* of payloads; mostly zero, as are headers */
static struct stream streams[MAX_CHANNELS];

static void put(struct stream *s, const void *bytes, size_t length)
{
	if (length > MAX_BYTES - s->length)
		length = MAX_BYTES - s->length;
	memcpy(s->bytes + s->length, bytes, length);
	s->length += length;
}

/* A value that is near one that matters, or is anything. */
static uint64_t odd_value(void)
{
	static const uint64_t values[] = { 0, 1, 2, 3, 4, 16, 63, 64, 65, 511, 512, 513, RAM_PAGES - 1, RAM_PAGES,
					   RAM_PAGES + 1, FILE_PAGES, STREAM_CONTROL_MAX, STREAM_CONTROL_MAX + 1,
					   UINT32_MAX, UINT32_MAX + 1ull, UINT64_MAX / PAGE, UINT64_MAX - 1,
					   UINT64_MAX };

	return one_in(4) ? any(UINT64_MAX) : values[any(sizeof(values) / sizeof(values[0]))];
}

static void damage(struct stream_frame *frame)
{
	switch (any(6)) {
	case 0:
		frame->type = (uint32_t)odd_value();
		break;
	case 1:
		frame->count = (uint32_t)odd_value();
		break;
	case 2:
		frame->a = odd_value();
		break;
	case 3:
		frame->b = odd_value();
		break;
	case 4:
		frame->count += one_in(2) ? 1 : -1u;
		break;
	default:
		((uint8_t *)frame)[any(sizeof(*frame))] ^= (uint8_t)(1u << any(8));
	}
}

/* Write frames; how many are damaged depends on the stream. */
static void generate(struct stream *s, uint32_t index, uint32_t channels, uint64_t sane)
{
	uint64_t pages = 0, zero = 0, frames = any(20);

	s->length = 0;
	for (uint64_t i = 0; i < frames && s->length < MAX_BYTES / 2; i++) {
		uint64_t block = index + channels * any((RAM_PAGES / STREAM_BLOCK + channels) / channels);
		uint64_t first = block * STREAM_BLOCK + any(STREAM_BLOCK), room, payload = 0;
		struct stream_frame frame = { .type = STREAM_SYNC, .a = pages, .b = zero };
		uint64_t kind = any(8);

		if (first >= RAM_PAGES)
			first = index * STREAM_BLOCK;
		if (kind < 4) {
			room = STREAM_RUN - first % STREAM_RUN;
			if (room > RAM_PAGES - first)
				room = RAM_PAGES - first;
			room = one_in(4) ? room : (room + 7) / 8;
			frame = (struct stream_frame){ STREAM_PAGES, (uint32_t)(1 + any(room)), first, 0 };
			payload = frame.count * PAGE;
			pages += frame.count;
		} else if (kind < 6) {
			room = channels == 1 ? RAM_PAGES - first : STREAM_BLOCK - first % STREAM_BLOCK;
			if (room > RAM_PAGES - first)
				room = RAM_PAGES - first;
			frame = (struct stream_frame){ STREAM_ZERO, (uint32_t)(1 + any(room)), first, 0 };
			zero += frame.count;
		} else if (kind < 7) {
			payload = any(200);
			frame = (struct stream_frame){ STREAM_CONTROL, 0, payload, 0 };
		}
		if (one_in(sane))
			damage(&frame);
		put(s, &frame, one_in(sane * 4) ? any(sizeof(frame)) : sizeof(frame));
		put(s, noise + any(PAGE), one_in(sane * 4) ? any(2 * PAGE) : payload);
	}
	if (one_in(3) && s->length)
		s->length -= any(s->length);
}

/* Interpret the bytes as the format says. */
static void interpret(struct stream *s, uint32_t index, uint32_t channels)
{
	uint64_t pages = 0, zero = 0;
	size_t at = 0;

	s->nends = 0;
	for (;;) {
		enum channel_state end = CHANNEL_FAILED;
		size_t left = s->length - at, payload;
		struct stream_frame f;

		check(s->nends < 64, "the fuzzer's own table");
		if (left < sizeof(f)) {
			s->ends[s->nends++] = left ? CHANNEL_FAILED : CHANNEL_EOF;
			return;
		}
		memcpy(&f, s->bytes + at, sizeof(f));
		at += sizeof(f);
		left -= sizeof(f);
		if (f.type == STREAM_PAGES || f.type == STREAM_ZERO) {
			uint64_t last = f.a + f.count - 1;
			bool right = f.count && !f.b && f.a < RAM_PAGES && last < RAM_PAGES;

			for (uint64_t page = f.a; right && page <= last; page++)
				right = stream_channel_of(page, channels) == index;
			if (right && channels > 1)
				right = f.a / STREAM_BLOCK == last / STREAM_BLOCK;
			if (right && f.type == STREAM_PAGES)
				right = f.count <= 64 && f.a / 64 == last / 64;
			payload = right && f.type == STREAM_PAGES ? f.count * PAGE : 0;
			if (right && payload <= left) {
				for (uint64_t page = f.a; page <= last; page++) {
					model.data[page] = payload;
					if (payload)
						memcpy(model.content[page], s->bytes + at + (page - f.a) * PAGE, PAGE);
				}
				*(payload ? &pages : &zero) += f.count;
				at += payload;
				continue;
			}
		} else if (f.type == STREAM_SYNC && !f.count && f.a == pages && f.b == zero) {
			end = CHANNEL_SYNC;
		} else if (f.type == STREAM_CONTROL && !f.count && !f.b && f.a <= STREAM_CONTROL_MAX) {
			end = CHANNEL_CONTROL;
			s->control[s->nends] = f.a;
		}
		s->ends[s->nends++] = end;
		if (end == CHANNEL_FAILED)
			return;
		if (end == CHANNEL_CONTROL) {
			if (f.a > left) {
				/* Whoever reads the payload finds the end of the stream. */
				s->ends[s->nends++] = CHANNEL_EOF;
				return;
			}
			at += f.a;
		}
	}
}

/* Send some of the stream, unless the peer's buffer is full or it has hung up; at its end, hang up. */
static void feed(struct stream *s, int fd)
{
	size_t left = s->length - s->sent, now = one_in(3) ? 1 + any(100) : left;
	ssize_t done;

	if (now > left)
		now = left;
	done = send(fd, s->bytes + s->sent, now, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (done > 0)
		s->sent += (size_t)done;
	if (s->sent == s->length)
		shutdown(fd, SHUT_WR);
}

/* Read a CONTROL frame's payload as its reader does. Return whether all of it came. */
static bool take_payload(struct stream *s, int in, int out, uint64_t bytes)
{
	while (bytes) {
		uint8_t buffer[4096];
		ssize_t done = recv(in, buffer, bytes < sizeof(buffer) ? bytes : sizeof(buffer), MSG_DONTWAIT);

		if (!done)
			return false;
		if (done > 0)
			bytes -= (uint64_t)done;
		else if (s->sent < s->length)
			feed(s, out);
	}
	return true;
}

/* Compare the state of a channel that has ended with the model's, and start it again if that goes on. */
static void end(struct receiver *receiver, struct stream *s, uint32_t index, const int pair[2])
{
	enum channel_state ended = receiver_state(receiver, index);

	if (ended == CHANNEL_BUSY || s->seen == s->nends)
		return;
	check(ended == s->ends[s->seen], "another end");
	check((ended == CHANNEL_FAILED) == (receiver_error(receiver, index)[0] != 0), "an error's text");
	if (ended == CHANNEL_CONTROL) {
		uint64_t bytes = receiver_control_bytes(receiver, index);

		check(bytes == s->control[s->seen], "another length of a payload");
		if (!take_payload(s, pair[1], pair[0], bytes)) {
			check(s->ends[s->seen + 1] == CHANNEL_EOF, "a payload that was cut");
			s->seen = s->nends;
			return;
		}
	}
	s->seen++;
	if (s->seen < s->nends)
		check(!receiver_start(receiver, index), "receiver_start");
}

static void check_ram(int ram_fd, const uint8_t *view)
{
	off_t at = 0, data;
	uint64_t found = 0, wanted = 0;

	while ((data = lseek(ram_fd, at, SEEK_DATA)) >= 0) {
		off_t hole = lseek(ram_fd, data, SEEK_HOLE);

		for (uint64_t page = (uint64_t)data / PAGE; page < (uint64_t)hole / PAGE; page++, found++) {
			check(page < RAM_PAGES, "a write outside RAM");
			check(model.data[page], "a page where there must be none");
			check(!memcmp(view + page * PAGE, model.content[page], PAGE), "another content");
		}
		at = hole;
	}
	for (uint32_t page = 0; page < RAM_PAGES; page++)
		wanted += model.data[page];
	check(found == wanted, "pages are missing");
	check(lseek(ram_fd, 0, SEEK_END) == (off_t)FILE_PAGES * PAGE, "another size");
}

static void run(int ram_fd, uint8_t *view, uint64_t *errors)
{
	uint32_t channels = 1 + (uint32_t)any(MAX_CHANNELS);
	uint64_t sane = (uint64_t[]){ 3, 10, 1000 }[any(3)];
	int pairs[MAX_CHANNELS][2], fds[MAX_CHANNELS];
	struct receiver *receiver;
	bool waits = true;

	check(!fallocate(ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)FILE_PAGES * PAGE), "fallocate");
	memset(model.data, 0, sizeof(model.data));
	for (uint64_t i = any(4); i; i--) {
		uint64_t page = any(RAM_PAGES);

		memset(view + page * PAGE, (int)i, PAGE);
		memset(model.content[page], (int)i, PAGE);
		model.data[page] = true;
	}
	for (uint32_t i = 0; i < channels; i++) {
		streams[i].sent = streams[i].seen = 0;
		generate(&streams[i], i, channels, sane);
		interpret(&streams[i], i, channels);
		check(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs[i]), "socketpair");
		fds[i] = pairs[i][1];
	}
	receiver = receiver_new(view, RAM_PAGES, ram_fd, fds, channels, -1);
	check(receiver, "receiver_new");
	for (uint32_t i = 0; i < channels; i++)
		check(!receiver_start(receiver, i), "receiver_start");
	while (waits) {
		struct pollfd polls[MAX_CHANNELS + 1] = { { .fd = receiver_notify_fd(receiver), .events = POLLIN } };
		uint64_t count;

		waits = false;
		for (uint32_t i = 0; i < channels; i++) {
			struct stream *s = &streams[i];

			polls[i + 1].fd = s->sent < s->length && s->seen < s->nends ? pairs[i][0] : -1;
			polls[i + 1].events = POLLOUT;
			if (!s->length)
				shutdown(pairs[i][0], SHUT_WR);
			waits |= s->seen < s->nends;
		}
		if (!waits)
			break;
		check(poll(polls, channels + 1, HANG_MS) > 0, "a hang");
		if (polls[0].revents && read(polls[0].fd, &count, sizeof(count)) < 0)
			check(errno == EAGAIN, "read");
		for (uint32_t i = 0; i < channels; i++) {
			if (polls[i + 1].revents)
				feed(&streams[i], pairs[i][0]);
			end(receiver, &streams[i], i, pairs[i]);
		}
	}
	receiver_free(receiver);
	for (uint32_t i = 0; i < channels; i++) {
		for (unsigned int j = 0; j < streams[i].nends; j++)
			*errors += streams[i].ends[j] == CHANNEL_FAILED;
		close(pairs[i][0]);
		close(pairs[i][1]);
	}
	check_ram(ram_fd, view);
}

int main(int argc, char **argv)
{
	uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000;
	uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	int ram_fd = memfd_create("fuzz", MFD_CLOEXEC);
	uint64_t errors = 0;
	uint8_t *view;

	check(ram_fd >= 0 && !ftruncate(ram_fd, (off_t)FILE_PAGES * PAGE), "memfd_create");
	view = mmap(NULL, (size_t)FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
	check(view != MAP_FAILED, "mmap");
	state = 1;
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = one_in(40) ? (uint8_t)any(256) : 0;
	for (seed = first; seed < first + count; seed++) {
		state = seed * 0x9e3779b97f4a7c15ull + 1;
		for (int i = 0; i < 4; i++)
			any(2);
		run(ram_fd, view, &errors);
	}
	printf("stream_fuzz: %" PRIu64 " streams, %" PRIu64 " errors in them, all ended as they must\n", count, errors);
	return 0;
}
