/*
 * Pages go through a buffer that stays in the processor's cache and are written to the memory file with pwrite().
 * Reading them straight into a mapping of fresh memory is slower, although it copies less: it takes a page fault for
 * each page, and the kernel clears a page that is then overwritten. Then they are mapped, many with one call: else the
 * guest would take a page fault for each when it first uses it.
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
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"
#include "bits.h"
#include "memory.h"
#include "stream/sparse.h"
#include "stream/wire.h"
#include "stream/zero.h"

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#endif

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
	struct sparse ram;
	uint8_t *mapping; /* of RAM */
	int notify_fd;
	bool mapped;
	struct sparse file; /* if mapped */
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

static enum channel_state write_pages(struct incoming *in, uint64_t page, uint64_t count, const uint8_t *content)
{
	struct receiver *receiver = in->receiver;
	bool fresh = bits_of(page, count) & ~receiver->ram.filled[page / WORD_PAGES];

	if (sparse_write(&receiver->ram, page, count, content) < 0)
		return channel_fail(&in->channel, errno, "cannot write to RAM at page %" PRIu64, page);
	/* Older kernels refuse, and leave it to the guest. */
	if (fresh)
		madvise(receiver->mapping + page * PAGE_BYTES, count * PAGE_BYTES, MADV_POPULATE_READ);
	return CHANNEL_BUSY;
}

/* Make pages zero, a block at a time, to look whether the thread is to stop. */
static enum channel_state clear_pages(struct incoming *in, uint64_t page, uint64_t count)
{
	while (count) {
		uint64_t now = count < STREAM_BLOCK ? count : STREAM_BLOCK;

		if (channel_stopping(&in->channel))
			return CHANNEL_STOPPED;
		if (sparse_clear(&in->receiver->ram, page, now) < 0)
			return channel_fail(&in->channel, errno, "cannot free RAM at page %" PRIu64, page);
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
	if (count > receiver->ram.pages || first > receiver->ram.pages - count)
		return channel_fail(channel, 0, "a %s frame has a = %" PRIu64 " and count = %" PRIu64
				    ", but RAM has %" PRIu64 " pages", name, first, count, receiver->ram.pages);
	if (receiver->channels == 1)
		return CHANNEL_BUSY;
	if (first / STREAM_BLOCK != last / STREAM_BLOCK)
		return channel_fail(channel, 0, "a %s frame has a = %" PRIu64 " and count = %" PRIu64
				    ", across a multiple of %d", name, first, count, STREAM_BLOCK);
	if (stream_channel_of(first, receiver->channels) != in->index)
		return channel_fail(channel, 0, "page %" PRIu64 " is on channel %u, but travels on channel %u", first,
				    in->index, stream_channel_of(first, receiver->channels));
	return CHANNEL_BUSY;
}

static enum channel_state receive_pages(struct incoming *in, struct stream_frame frame)
{
	enum channel_state state;

	if (frame.count > STREAM_RUN)
		return channel_fail(&in->channel, 0, "a PAGES frame has %u pages, but at most %d are allowed",
				    frame.count, STREAM_RUN);
	state = check_pages(in, "PAGES", &frame);
	if (state != CHANNEL_BUSY)
		return state;
	if (frame.a % STREAM_RUN + frame.count > STREAM_RUN)
		return channel_fail(&in->channel, 0, "a PAGES frame has a = %" PRIu64
				    " and count = %u, across a multiple of %d", frame.a, frame.count, STREAM_RUN);
	state = read_payload(in, frame.count * PAGE_BYTES);
	if (state == CHANNEL_BUSY) {
		state = write_pages(in, frame.a, frame.count, in->buffer);
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
		return channel_fail(&in->channel, 0, "a CONTROL frame has %" PRIu64
				    " bytes, but at most %d are allowed", frame.a, STREAM_CONTROL_MAX);
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

/* Read `count` pages of one word from the file into RAM. */
static enum channel_state load_pages(struct incoming *in, uint64_t page, uint64_t count)
{
	const struct sparse *file = &in->receiver->file;
	uint64_t bytes = count * PAGE_BYTES, done = 0, left = bits_of(0, count), zero = 0;
	enum channel_state state = CHANNEL_BUSY;

	while (done < bytes) {
		ssize_t now = pread(in->channel.fd, in->buffer + done, bytes - done,
				    (off_t)(file->base + page * PAGE_BYTES + done));

		if (now > 0)
			done += (uint64_t)now;
		else if (!now)
			return channel_fail(&in->channel, 0, "the file ends at page %" PRIu64, page);
		else if (errno != EINTR)
			return channel_fail(&in->channel, errno, "cannot load RAM at page %" PRIu64, page);
	}
	count_up(&in->bytes, bytes);
	/* A file system without holes has data everywhere. */
	for (uint64_t i = 0; i < count; i++)
		zero |= (uint64_t)page_is_zero(in->buffer + i * PAGE_BYTES) << i;
	while (left && state == CHANNEL_BUSY) {
		bool is_zero = zero >> __builtin_ctzll(left) & 1;
		struct run run = bits_first_run(is_zero ? left & zero : left & ~zero);

		if (is_zero)
			state = clear_pages(in, page + run.from, run.count);
		else
			state = write_pages(in, page + run.from, run.count, in->buffer + run.from * PAGE_BYTES);
		count_up(is_zero ? &in->zero_pages : &in->pages, run.count);
		left &= ~bits_of(run.from, run.count);
	}
	return state;
}

/* Load the channel's blocks from the file that has all of RAM. Return how the channel ends. */
static enum channel_state load(struct incoming *in)
{
	const struct receiver *receiver = in->receiver;
	const struct sparse *file = &receiver->file;
	uint64_t pages = file->pages, size = file->base + pages * PAGE_BYTES, page = in->index * STREAM_BLOCK;
	enum channel_state state = CHANNEL_BUSY;
	struct stat st;

	if (fstat(in->channel.fd, &st) < 0)
		return channel_fail(&in->channel, errno, "cannot load RAM");
	if ((uint64_t)st.st_size < size)
		return channel_fail(&in->channel, 0, "the file has %" PRIu64 " bytes, but RAM ends at %" PRIu64,
				    (uint64_t)st.st_size, size);
	while (page < pages && state == CHANNEL_BUSY) {
		uint64_t block_end = page - page % STREAM_BLOCK + STREAM_BLOCK;
		uint64_t end = receiver->channels == 1 || block_end > pages ? pages : block_end;
		uint64_t first = end, last = end;

		if (sparse_find_data(file, page, end, &first, &last) < 0)
			return channel_fail(&in->channel, errno, "cannot search the file for data");
		state = clear_pages(in, page, first - page);
		for (page = first; page < last && state == CHANNEL_BUSY;) {
			uint64_t room = WORD_PAGES - page % WORD_PAGES, now = last - page < room ? last - page : room;

			state = channel_stopping(&in->channel) ? CHANNEL_STOPPED : load_pages(in, page, now);
			page += now;
		}
		if (page == end)
			page += (receiver->channels - 1) * STREAM_BLOCK;
	}
	return state == CHANNEL_BUSY ? CHANNEL_SYNC : state;
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
		state = in->receiver->mapped ? load(in) : receive(in);
		if (state == CHANNEL_STOPPED)
			break;
		channel_set_state(channel, state);
	}
	if (channel->state != CHANNEL_FAILED)
		channel_set_state(channel, CHANNEL_STOPPED);
	return NULL;
}

struct receiver *receiver_new(uint8_t *ram, uint64_t pages, int ram_fd, const int *fds, uint32_t channels,
			      int64_t base)
{
	struct receiver *receiver = calloc(1, sizeof(*receiver) + channels * sizeof(receiver->incoming[0]));
	int error;

	if (!receiver)
		return NULL;
	receiver->mapping = ram;
	receiver->channels = channels;
	receiver->mapped = base >= 0;
	if (receiver->mapped)
		receiver->file = (struct sparse){ .fd = fds[0], .base = (uint64_t)base, .pages = pages };
	for (uint32_t i = 0; i < channels; i++)
		receiver->incoming[i].channel.wake_fd = -1;
	receiver->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (receiver->notify_fd < 0 || sparse_init(&receiver->ram, ram_fd, 0, pages) < 0)
		goto fail;
	for (uint32_t i = 0; i < channels; i++) {
		struct incoming *in = &receiver->incoming[i];

		in->receiver = receiver;
		in->index = i;
		in->buffer = malloc(STREAM_RUN * PAGE_BYTES);
		if (!in->buffer || channel_init(&in->channel, fds[i], receiver->notify_fd) < 0 ||
		    channel_start(&in->channel, "mig/dst/recv_", i, receive_thread, in) < 0)
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
	sparse_free(&receiver->ram);
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

	if (state >= CHANNEL_FAILED || channel_stopping(&in->channel)) {
		errno = EPIPE;
		return -1;
	}
	if (state == CHANNEL_BUSY) {
		errno = EBUSY;
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
