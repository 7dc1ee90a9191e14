/*
 * Pages go through a buffer that stays in the processor's cache and are written to the memory file with pwrite().
 * Reading them straight into a mapping of fresh memory is slower, although it copies less: it takes a page fault for
 * each page, and the kernel clears a page that is then overwritten.
 *
 * One call reads the rest of a payload and the header that follows it, and never more: a descriptor whose CONTROL
 * header was read is at the first byte of the payload.
 */
#define _GNU_SOURCE
#include "stream/receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "atomics.h"
#include "memory.h"
#include "stream/wire.h"

#define WORD_PAGES 64

struct incoming {
	struct channel channel;
	struct receiver *receiver;
	uint32_t index;
	uint32_t starts;  /* asked for */
	uint32_t started; /* begun */
	uint64_t pages;
	uint64_t zero_pages;
	uint64_t bytes;
	struct stream_frame frame;
	size_t have; /* bytes of the next header that were read, in `frame` */
	uint8_t *buffer; /* STREAM_RUN pages */
};

struct receiver {
	uint64_t pages;
	int ram_fd;
	int notify_fd;
	uint64_t *filled; /* pages that may be no holes; a word belongs to the thread of its channel */
	uint32_t channels;
	struct incoming incoming[];
};

/* Return CHANNEL_BUSY if `bytes` were read into the buffers, at least; else how the channel ends. */
static enum channel_state read_at_least(struct incoming *in, struct iovec *iov, int count, size_t bytes, size_t *done)
{
	struct channel *channel = &in->channel;

	*done = 0;
	while (*done < bytes) {
		struct msghdr message = { .msg_iov = iov, .msg_iovlen = (size_t)count };
		ssize_t now;

		if (channel_stopping(channel))
			return CHANNEL_STOPPED;
		now = channel->socket ? recvmsg(channel->fd, &message, MSG_DONTWAIT)
				      : readv(channel->fd, iov, count);
		if (now > 0) {
			count_up(&in->bytes, (uint64_t)now);
			*done += (size_t)now;
			iov = channel_advance(iov, &count, (size_t)now);
		} else if (!now) {
			return CHANNEL_EOF;
		} else if (errno == EAGAIN) {
			channel_wait(channel, POLLIN, 0);
		} else if (errno != EINTR) {
			return channel_fail(channel, errno, "cannot receive RAM");
		}
	}
	return CHANNEL_BUSY;
}

static enum channel_state read_header(struct incoming *in)
{
	struct iovec iov = { .iov_base = (char *)&in->frame + in->have, .iov_len = sizeof(in->frame) - in->have };
	size_t done;
	enum channel_state state = read_at_least(in, &iov, 1, iov.iov_len, &done);

	in->have += done;
	if (state == CHANNEL_EOF && in->have)
		return channel_fail(&in->channel, 0, "the stream ends after %zu of a header's %zu bytes", in->have,
				    sizeof(in->frame));
	return state;
}

/* Read a payload of `bytes` into the buffer, and as much of the next header as there is. */
static enum channel_state read_payload(struct incoming *in, size_t bytes)
{
	struct iovec iov[] = { { .iov_base = in->buffer, .iov_len = bytes },
			       { .iov_base = &in->frame, .iov_len = sizeof(in->frame) } };
	size_t done;
	enum channel_state state = read_at_least(in, iov, 2, bytes, &done);

	if (state == CHANNEL_EOF)
		return channel_fail(&in->channel, 0, "the stream ends after %zu of a PAGES frame's %zu bytes", done,
				    bytes);
	if (state == CHANNEL_BUSY)
		in->have = done - bytes;
	return state;
}

static enum channel_state write_pages(struct incoming *in, uint64_t page, uint64_t count)
{
	uint64_t bytes = count * PAGE_BYTES, done = 0;

	while (done < bytes) {
		ssize_t now = pwrite(in->receiver->ram_fd, in->buffer + done, bytes - done,
				     (off_t)(page * PAGE_BYTES + done));

		if (now >= 0)
			done += (uint64_t)now;
		else if (errno != EINTR)
			return channel_fail(&in->channel, errno, "cannot write to RAM at page %" PRIu64, page);
	}
	return CHANNEL_BUSY;
}

/* The bits of the `count` pages from `page` on that are in the same word as `page`. */
static uint64_t word_bits(uint64_t page, uint64_t count)
{
	uint64_t first = page % WORD_PAGES, room = WORD_PAGES - first;

	return ~0ull >> (WORD_PAGES - (count < room ? count : room)) << first;
}

/* Make holes of the pages that are none. */
static enum channel_state clear_pages(struct incoming *in, uint64_t page, uint64_t count)
{
	struct receiver *receiver = in->receiver;

	while (count) {
		uint64_t room = WORD_PAGES - page % WORD_PAGES, now = count < room ? count : room;
		uint64_t first = page - page % WORD_PAGES, *word = &receiver->filled[page / WORD_PAGES];
		uint64_t bits = *word & word_bits(page, count);

		*word &= ~bits;
		while (bits) {
			uint64_t from = (uint64_t)__builtin_ctzll(bits), others = ~(bits >> from);
			uint64_t run = others ? (uint64_t)__builtin_ctzll(others) : WORD_PAGES;

			if (fallocate(receiver->ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				      (off_t)((first + from) * PAGE_BYTES), (off_t)(run * PAGE_BYTES)) < 0)
				return channel_fail(&in->channel, errno, "cannot free RAM at page %" PRIu64,
						    first + from);
			bits &= ~word_bits(first + from, run);
		}
		if (channel_stopping(&in->channel))
			return CHANNEL_STOPPED;
		page += now;
		count -= now;
	}
	return CHANNEL_BUSY;
}

/* Return CHANNEL_BUSY if the frame's pages are in RAM, and travel on this channel. */
static enum channel_state check_pages(struct incoming *in, const char *name, const struct stream_frame *frame)
{
	const struct receiver *receiver = in->receiver;
	struct channel *channel = &in->channel;
	uint64_t first = frame->a, count = frame->count, last = first + count - 1;

	if (!count)
		return channel_fail(channel, 0, "a %s frame has no pages", name);
	if (frame->b)
		return channel_fail(channel, 0, "a %s frame has b = %" PRIu64 ", which must be 0", name, frame->b);
	if (count > receiver->pages || first > receiver->pages - count)
		return channel_fail(channel, 0, "a %s frame has %" PRIu64 " pages from page %" PRIu64
				    " on, but RAM has %" PRIu64 " pages", name, count, first, receiver->pages);
	if (receiver->channels == 1)
		return CHANNEL_BUSY;
	if (first / STREAM_BLOCK != last / STREAM_BLOCK)
		return channel_fail(channel, 0, "a %s frame has pages %" PRIu64 " to %" PRIu64
				    " of more than one block of %d pages", name, first, last, STREAM_BLOCK);
	if (stream_channel_of(first, receiver->channels) != in->index)
		return channel_fail(channel, 0, "page %" PRIu64 " is on channel %u, but travels on channel %u", first,
				    in->index, stream_channel_of(first, receiver->channels));
	return CHANNEL_BUSY;
}

static enum channel_state receive_pages(struct incoming *in, struct stream_frame frame)
{
	enum channel_state state;

	if (frame.count > STREAM_RUN)
		return channel_fail(&in->channel, 0, "a PAGES frame has %u pages, but at most %d are allowed", frame.count,
				    STREAM_RUN);
	state = check_pages(in, "PAGES", &frame);
	if (state != CHANNEL_BUSY)
		return state;
	if (frame.a % STREAM_RUN + frame.count > STREAM_RUN)
		return channel_fail(&in->channel, 0, "a PAGES frame has %u pages from page %" PRIu64
				    " on, across a multiple of %d", frame.count, frame.a, STREAM_RUN);
	state = read_payload(in, frame.count * PAGE_BYTES);
	if (state == CHANNEL_BUSY) {
		/* Before the write, which may fail when half of it is done. */
		in->receiver->filled[frame.a / WORD_PAGES] |= word_bits(frame.a, frame.count);
		state = write_pages(in, frame.a, frame.count);
		count_up(&in->pages, frame.count);
	}
	return state;
}

static enum channel_state receive_zero(struct incoming *in, struct stream_frame frame)
{
	enum channel_state state = check_pages(in, "ZERO", &frame);

	if (state == CHANNEL_BUSY) {
		state = clear_pages(in, frame.a, frame.count);
		count_up(&in->zero_pages, frame.count);
	}
	return state;
}

static enum channel_state receive_sync(struct incoming *in, struct stream_frame frame)
{
	if (frame.count)
		return channel_fail(&in->channel, 0, "a SYNC frame has count = %u, which must be 0", frame.count);
	if (frame.a != in->pages || frame.b != in->zero_pages)
		return channel_fail(&in->channel, 0, "a SYNC frame counts %" PRIu64 " pages and %" PRIu64
				    " zero pages, but %" PRIu64 " and %" PRIu64 " have arrived", frame.a, frame.b,
				    in->pages, in->zero_pages);
	return CHANNEL_SYNC;
}

static enum channel_state receive_control(struct incoming *in, struct stream_frame frame)
{
	if (frame.count)
		return channel_fail(&in->channel, 0, "a CONTROL frame has count = %u, which must be 0", frame.count);
	if (frame.b)
		return channel_fail(&in->channel, 0, "a CONTROL frame has b = %" PRIu64 ", which must be 0", frame.b);
	if (frame.a > STREAM_CONTROL_MAX)
		return channel_fail(&in->channel, 0, "a CONTROL frame has %" PRIu64 " bytes, but at most %d are allowed",
				    frame.a, STREAM_CONTROL_MAX);
	return CHANNEL_CONTROL;
}

/* Return how the channel ends. */
static enum channel_state receive(struct incoming *in)
{
	enum channel_state state;

	do {
		struct stream_frame frame;

		state = read_header(in);
		if (state != CHANNEL_BUSY)
			return state;
		frame = in->frame; /* its place is the next header's */
		in->have = 0;
		switch (frame.type) {
		case STREAM_PAGES:
			state = receive_pages(in, frame);
			break;
		case STREAM_ZERO:
			state = receive_zero(in, frame);
			break;
		case STREAM_SYNC:
			return receive_sync(in, frame);
		case STREAM_CONTROL:
			return receive_control(in, frame);
		default:
			return channel_fail(&in->channel, 0, "a frame has the unknown type %u", frame.type);
		}
	} while (state == CHANNEL_BUSY);
	return state;
}

static void *receive_thread(void *opaque)
{
	struct incoming *in = opaque;
	struct channel *channel = &in->channel;
	enum channel_state state;

	while (!channel_stopping(channel)) {
		if (load_acquire(&in->starts) == in->started) {
			channel_wait(channel, 0, 0);
			continue;
		}
		in->started++;
		state = receive(in);
		if (state == CHANNEL_STOPPED)
			break;
		channel_set_state(channel, state);
	}
	if (channel->state != CHANNEL_FAILED)
		channel_set_state(channel, CHANNEL_STOPPED);
	return NULL;
}

/* Mark the pages that have data already. 0, or -1 and errno. */
static int find_data(struct receiver *receiver)
{
	off_t end = (off_t)(receiver->pages * PAGE_BYTES), at = 0;

	while (at < end) {
		off_t data = lseek(receiver->ram_fd, at, SEEK_DATA);
		uint64_t page, last;

		if (data < 0)
			return errno == ENXIO ? 0 : -1;
		at = lseek(receiver->ram_fd, data, SEEK_HOLE);
		if (at < 0)
			return -1;
		last = ((uint64_t)(at < end ? at : end) + PAGE_BYTES - 1) / PAGE_BYTES;
		for (page = (uint64_t)data / PAGE_BYTES; page < last; page += WORD_PAGES - page % WORD_PAGES)
			receiver->filled[page / WORD_PAGES] |= word_bits(page, last - page);
	}
	return 0;
}

struct receiver *receiver_new(uint64_t pages, int ram_fd, const int *fds, uint32_t channels)
{
	struct receiver *receiver = calloc(1, sizeof(*receiver) + channels * sizeof(receiver->incoming[0]));
	int error;

	if (!receiver)
		return NULL;
	receiver->pages = pages;
	receiver->ram_fd = ram_fd;
	receiver->channels = channels;
	for (uint32_t i = 0; i < channels; i++)
		receiver->incoming[i].channel.wake_fd = -1;
	receiver->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	receiver->filled = calloc((pages + WORD_PAGES - 1) / WORD_PAGES, sizeof(uint64_t));
	if (receiver->notify_fd < 0 || !receiver->filled || find_data(receiver) < 0)
		goto fail;
	for (uint32_t i = 0; i < channels; i++) {
		struct incoming *in = &receiver->incoming[i];

		in->receiver = receiver;
		in->index = i;
		in->buffer = malloc(STREAM_RUN * PAGE_BYTES);
		if (!in->buffer || channel_init(&in->channel, fds[i], receiver->notify_fd) < 0 ||
		    channel_start(&in->channel, "ram-receive", receive_thread, in) < 0)
			goto fail;
	}
	return receiver;
fail:
	error = errno;
	receiver_free(receiver);
	errno = error;
	return NULL;
}

void receiver_free(struct receiver *receiver)
{
	receiver_stop(receiver); /* all at once, before the first is waited for */
	for (uint32_t i = 0; i < receiver->channels; i++) {
		channel_close(&receiver->incoming[i].channel);
		free(receiver->incoming[i].buffer);
	}
	if (receiver->notify_fd >= 0)
		close(receiver->notify_fd);
	free(receiver->filled);
	free(receiver);
}

int receiver_notify_fd(const struct receiver *receiver)
{
	return receiver->notify_fd;
}

int receiver_start(struct receiver *receiver, uint32_t channel)
{
	struct incoming *in = &receiver->incoming[channel];
	enum channel_state state = receiver_state(receiver, channel);

	if (state == CHANNEL_BUSY || state >= CHANNEL_FAILED) {
		errno = state == CHANNEL_BUSY ? EBUSY : EPIPE;
		return -1;
	}
	store_release(&in->channel.state, CHANNEL_BUSY);
	store_release(&in->starts, in->starts + 1);
	channel_wake(&in->channel);
	return 0;
}

void receiver_stop(struct receiver *receiver)
{
	for (uint32_t i = 0; i < receiver->channels; i++)
		channel_stop(&receiver->incoming[i].channel);
}

void receiver_read_counters(const struct receiver *receiver, struct receiver_counters *counters)
{
	*counters = (struct receiver_counters){ 0 };
	for (uint32_t i = 0; i < receiver->channels; i++) {
		counters->pages += load_acquire(&receiver->incoming[i].pages);
		counters->zero_pages += load_acquire(&receiver->incoming[i].zero_pages);
		counters->bytes += load_acquire(&receiver->incoming[i].bytes);
	}
}

enum channel_state receiver_state(const struct receiver *receiver, uint32_t channel)
{
	return load_acquire(&receiver->incoming[channel].channel.state);
}

const char *receiver_error(const struct receiver *receiver, uint32_t channel)
{
	return receiver->incoming[channel].channel.error;
}

uint64_t receiver_control_bytes(const struct receiver *receiver, uint32_t channel)
{
	return receiver->incoming[channel].frame.a;
}
