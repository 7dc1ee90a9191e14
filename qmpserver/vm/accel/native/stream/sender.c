/*
 * A pass takes each page that is to be sent once: a thread exchanges a word of the bitmap for 0 and only then looks
 * at the pages. So a page that is stored to later is reported again and sent again, in this pass or the next.
 *
 * A memory file's hole stays one: reading it through the mapping would fill it. mincore() tells which pages of a word
 * are in memory; only for the others, SEEK_DATA tells holes from pages that are swapped out.
 */
#define _GNU_SOURCE
#include "stream/sender.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "atomics.h"
#include "clock.h"
#include "memory.h"
#include "stream/rate.h"
#include "stream/wire.h"
#include "stream/zero.h"

#define WORD_PAGES 64
#define BLOCK_WORDS (STREAM_BLOCK / WORD_PAGES)
#define BATCH_FRAMES 64
#define BATCH_PAGES 64

/* Frames that are written with one call, payloads straight from RAM. */
struct batch {
	struct stream_frame frames[BATCH_FRAMES];
	struct iovec iov[2 * BATCH_FRAMES];
	uint32_t nframes;
	int niov;
	uint64_t pages;
	uint64_t zero_pages;
};

struct outgoing {
	struct channel channel;
	struct sender *sender;
	uint32_t index;
	uint32_t passes; /* begun */
	uint64_t pages;
	uint64_t zero_pages;
	uint64_t bytes;
	struct batch batch;
};

struct sender {
	const uint8_t *ram;
	uint64_t pages;
	int ram_fd;
	int notify_fd;
	uint64_t *pending;
	uint64_t added; /* bits that were set and were not before */
	uint32_t passes;
	uint32_t sync; /* the pass ends with SYNC */
	uint32_t busy;
	pthread_mutex_t rate_lock;
	struct rate rate;
	uint64_t rate_limit; /* rate.limit, for a look without the lock */
	uint32_t channels;
	struct outgoing outgoing[];
};

static uint64_t words(const struct sender *sender)
{
	return (sender->pages + WORD_PAGES - 1) / WORD_PAGES;
}

/* The bits of the pages from `first` to `last` (included) of one word. */
static uint64_t mask(uint64_t first, uint64_t last)
{
	return ~0ull << first & ~0ull >> (63 - last);
}

/* The bits of a word that are pages of RAM. */
static uint64_t valid(const struct sender *sender, uint64_t word)
{
	uint64_t left = sender->pages - word * WORD_PAGES;

	return mask(0, left < WORD_PAGES ? left - 1 : 63);
}

static void add_word(struct sender *sender, uint64_t word, uint64_t bits)
{
	uint64_t before;

	bits &= valid(sender, word);
	if (!bits)
		return;
	before = __atomic_fetch_or(&sender->pending[word], bits, __ATOMIC_RELEASE);
	add_relaxed(&sender->added, (uint64_t)__builtin_popcountll(bits & ~before));
}

void sender_add(struct sender *sender, const uint64_t *bitmap)
{
	for (uint64_t word = 0; word < words(sender); word++)
		add_word(sender, word, bitmap[word]);
}

int sender_add_data(struct sender *sender)
{
	off_t end = (off_t)(sender->pages * PAGE_BYTES), at = 0;

	while (at < end) {
		off_t data = lseek(sender->ram_fd, at, SEEK_DATA);
		uint64_t first, last;

		if (data < 0)
			return errno == ENXIO ? 0 : -1;
		if (data >= end)
			break;
		at = lseek(sender->ram_fd, data, SEEK_HOLE);
		if (at < 0)
			return errno == ENXIO ? 0 : -1;
		if (at > end)
			at = end;
		first = (uint64_t)data / PAGE_BYTES;
		last = ((uint64_t)at - 1) / PAGE_BYTES;
		for (uint64_t word = first / WORD_PAGES; word <= last / WORD_PAGES; word++)
			add_word(sender, word,
				 mask(word == first / WORD_PAGES ? first % WORD_PAGES : 0,
				      word == last / WORD_PAGES ? last % WORD_PAGES : 63));
	}
	return 0;
}

/* Wait until `bytes` may be sent. False: the thread is to stop. */
static bool claim(struct outgoing *out, uint64_t bytes)
{
	struct sender *sender = out->sender;

	for (;;) {
		uint64_t until;

		if (channel_stopping(&out->channel))
			return false;
		pthread_mutex_lock(&sender->rate_lock);
		until = rate_claim(&sender->rate, bytes, now_ns());
		pthread_mutex_unlock(&sender->rate_lock);
		if (!until)
			return true;
		channel_wait(&out->channel, 0, until);
	}
}

static bool write_all(struct outgoing *out, struct iovec *iov, int count)
{
	struct channel *channel = &out->channel;

	while (count) {
		struct msghdr message = { .msg_iov = iov, .msg_iovlen = (size_t)count };
		ssize_t done;

		if (channel_stopping(channel))
			return false;
		done = channel->socket ? sendmsg(channel->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
				       : writev(channel->fd, iov, count);
		if (done >= 0) {
			count_up(&out->bytes, (uint64_t)done);
			iov = channel_advance(iov, &count, (size_t)done);
		} else if (errno == EAGAIN) {
			channel_wait(channel, POLLOUT, 0);
		} else if (errno != EINTR) {
			channel_set_state(channel, channel_fail(channel, errno, "cannot send RAM"));
			return false;
		}
	}
	return true;
}

/* Send the batch and begin a new one. False: the thread is to end. */
static bool flush(struct outgoing *out)
{
	struct batch *batch = &out->batch;

	if (!batch->nframes)
		return true;
	if (!claim(out, batch->nframes * sizeof(batch->frames[0]) + batch->pages * PAGE_BYTES) ||
	    !write_all(out, batch->iov, batch->niov))
		return false;
	count_up(&out->pages, batch->pages);
	count_up(&out->zero_pages, batch->zero_pages);
	batch->nframes = 0;
	batch->niov = 0;
	batch->pages = batch->zero_pages = 0;
	return true;
}

static void add_frame(struct batch *batch, uint32_t type, uint32_t count, uint64_t a, uint64_t b)
{
	struct stream_frame *frame = &batch->frames[batch->nframes++];

	*frame = (struct stream_frame){ .type = type, .count = count, .a = a, .b = b };
	batch->iov[batch->niov++] = (struct iovec){ .iov_base = frame, .iov_len = sizeof(*frame) };
}

/* As many pages as are worth a claim of the rate, so that a slow stream is smooth. */
static uint64_t batch_pages(const struct sender *sender)
{
	uint64_t bytes = rate_slice(load_relaxed(&sender->rate_limit), BATCH_PAGES * PAGE_BYTES) / sender->channels;

	return bytes > PAGE_BYTES ? bytes / PAGE_BYTES : 1;
}

static bool send_pages(struct outgoing *out, uint64_t page, uint64_t count)
{
	struct batch *batch = &out->batch;

	while (count) {
		uint64_t limit = batch_pages(out->sender), now;

		if (batch->nframes == BATCH_FRAMES || batch->pages >= limit) {
			if (!flush(out))
				return false;
			continue;
		}
		now = limit - batch->pages < count ? limit - batch->pages : count;
		add_frame(batch, STREAM_PAGES, (uint32_t)now, page, 0);
		batch->iov[batch->niov++] =
			(struct iovec){ .iov_base = (void *)(uintptr_t)(out->sender->ram + page * PAGE_BYTES),
					.iov_len = now * PAGE_BYTES };
		batch->pages += now;
		page += now;
		count -= now;
	}
	return true;
}

static bool send_zero(struct outgoing *out, uint64_t page, uint64_t count)
{
	struct batch *batch = &out->batch;
	struct stream_frame *last = batch->nframes ? &batch->frames[batch->nframes - 1] : NULL;

	if (last && last->type == STREAM_ZERO && last->a + last->count == page && last->count <= UINT32_MAX - count) {
		last->count += (uint32_t)count;
	} else {
		if (batch->nframes == BATCH_FRAMES && !flush(out))
			return false;
		add_frame(batch, STREAM_ZERO, (uint32_t)count, page, 0);
	}
	batch->zero_pages += count;
	return true;
}

/* Return which of the pages are holes of the memory file, without filling any. */
static uint64_t find_holes(const struct sender *sender, uint64_t word, uint64_t bits)
{
	uint64_t first = word * WORD_PAGES, left = sender->pages - first, data = first, absent = bits, holes = 0;
	unsigned char resident[WORD_PAGES];
	size_t count = left < WORD_PAGES ? left : WORD_PAGES;

	if (!mincore((void *)(uintptr_t)(sender->ram + first * PAGE_BYTES), count * PAGE_BYTES, resident))
		for (size_t i = 0; i < count; i++)
			absent &= ~((uint64_t)(resident[i] & 1) << i);
	for (; absent; absent &= absent - 1) {
		uint64_t page = first + (uint64_t)__builtin_ctzll(absent);

		if (data <= page) {
			off_t found = lseek(sender->ram_fd, (off_t)(page * PAGE_BYTES), SEEK_DATA);

			if (found >= 0)
				data = (uint64_t)found / PAGE_BYTES;
			else
				data = errno == ENXIO ? sender->pages : page;
		}
		if (data > page)
			holes |= 1ull << (page - first);
	}
	return holes;
}

static bool send_word(struct outgoing *out, uint64_t word, uint64_t bits)
{
	const struct sender *sender = out->sender;
	uint64_t first = word * WORD_PAGES, zero = find_holes(sender, word, bits);

	for (uint64_t left = bits & ~zero; left; left &= left - 1) {
		uint64_t page = (uint64_t)__builtin_ctzll(left);

		if (page_is_zero(sender->ram + (first + page) * PAGE_BYTES))
			zero |= 1ull << page;
	}
	while (bits) {
		uint64_t page = (uint64_t)__builtin_ctzll(bits);
		bool is_zero = zero >> page & 1;
		uint64_t others = ~((is_zero ? bits & zero : bits & ~zero) >> page);
		uint64_t count = others ? (uint64_t)__builtin_ctzll(others) : WORD_PAGES;

		if (!(is_zero ? send_zero : send_pages)(out, first + page, count))
			return false;
		bits &= ~mask(page, page + count - 1);
	}
	return true;
}

/* False: the thread is to end. */
static bool run_pass(struct outgoing *out)
{
	struct sender *sender = out->sender;
	struct batch *batch = &out->batch;

	for (uint64_t block = out->index; block * BLOCK_WORDS < words(sender); block += sender->channels)
		for (uint64_t word = block * BLOCK_WORDS; word < (block + 1) * BLOCK_WORDS && word < words(sender);
		     word++) {
			if (!load_relaxed(&sender->pending[word]))
				continue;
			if (channel_stopping(&out->channel) ||
			    !send_word(out, word, __atomic_exchange_n(&sender->pending[word], 0, __ATOMIC_ACQUIRE)))
				return false;
		}
	if (!flush(out))
		return false;
	if (!load_relaxed(&sender->sync))
		return true;
	add_frame(batch, STREAM_SYNC, 0, out->pages, out->zero_pages);
	return flush(out);
}

static void *send_thread(void *opaque)
{
	struct outgoing *out = opaque;
	struct sender *sender = out->sender;
	struct channel *channel = &out->channel;

	while (!channel_stopping(channel)) {
		if (load_acquire(&sender->passes) == out->passes) {
			channel_wait(channel, 0, 0);
			continue;
		}
		out->passes++;
		store_release(&channel->state, CHANNEL_BUSY);
		if (!run_pass(out))
			break;
		store_release(&channel->state, CHANNEL_IDLE);
		if (__atomic_sub_fetch(&sender->busy, 1, __ATOMIC_ACQ_REL) == 0)
			channel_notify(channel);
	}
	if (channel->state != CHANNEL_FAILED)
		channel_set_state(channel, CHANNEL_STOPPED);
	return NULL;
}

struct sender *sender_new(const uint8_t *ram, uint64_t pages, int ram_fd, const int *fds, uint32_t channels)
{
	struct sender *sender = calloc(1, sizeof(*sender) + channels * sizeof(sender->outgoing[0]));
	int error;

	if (!sender)
		return NULL;
	sender->ram = ram;
	sender->pages = pages;
	sender->ram_fd = ram_fd;
	sender->channels = channels;
	pthread_mutex_init(&sender->rate_lock, NULL);
	for (uint32_t i = 0; i < channels; i++)
		sender->outgoing[i].channel.wake_fd = -1;
	sender->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	sender->pending = calloc(words(sender), sizeof(uint64_t));
	if (sender->notify_fd < 0 || !sender->pending)
		goto fail;
	for (uint32_t i = 0; i < channels; i++) {
		struct outgoing *out = &sender->outgoing[i];

		out->sender = sender;
		out->index = i;
		if (channel_init(&out->channel, fds[i], sender->notify_fd) < 0 ||
		    channel_start(&out->channel, "ram-send", send_thread, out) < 0)
			goto fail;
	}
	return sender;
fail:
	error = errno;
	sender_free(sender);
	errno = error;
	return NULL;
}

void sender_free(struct sender *sender)
{
	sender_stop(sender); /* all at once, before the first is waited for */
	for (uint32_t i = 0; i < sender->channels; i++)
		channel_close(&sender->outgoing[i].channel);
	if (sender->notify_fd >= 0)
		close(sender->notify_fd);
	pthread_mutex_destroy(&sender->rate_lock);
	free(sender->pending);
	free(sender);
}

int sender_notify_fd(const struct sender *sender)
{
	return sender->notify_fd;
}

int sender_begin_pass(struct sender *sender, bool sync)
{
	for (uint32_t i = 0; i < sender->channels; i++)
		if (sender_state(sender, i) >= CHANNEL_FAILED) {
			errno = EPIPE;
			return -1;
		}
	if (load_acquire(&sender->busy)) {
		errno = EBUSY;
		return -1;
	}
	store_relaxed(&sender->busy, sender->channels);
	store_relaxed(&sender->sync, sync);
	store_release(&sender->passes, sender->passes + 1);
	for (uint32_t i = 0; i < sender->channels; i++)
		channel_wake(&sender->outgoing[i].channel);
	return 0;
}

void sender_set_rate(struct sender *sender, uint64_t limit)
{
	pthread_mutex_lock(&sender->rate_lock);
	rate_set(&sender->rate, limit, now_ns());
	store_relaxed(&sender->rate_limit, limit);
	pthread_mutex_unlock(&sender->rate_lock);
	for (uint32_t i = 0; i < sender->channels; i++)
		channel_wake(&sender->outgoing[i].channel);
}

void sender_stop(struct sender *sender)
{
	for (uint32_t i = 0; i < sender->channels; i++)
		channel_stop(&sender->outgoing[i].channel);
}

void sender_read_counters(const struct sender *sender, struct sender_counters *counters)
{
	uint64_t added, done;

	*counters = (struct sender_counters){ .busy = load_acquire(&sender->busy) };
	for (uint32_t i = 0; i < sender->channels; i++) {
		counters->pages += load_acquire(&sender->outgoing[i].pages);
		counters->zero_pages += load_acquire(&sender->outgoing[i].zero_pages);
		counters->bytes += load_acquire(&sender->outgoing[i].bytes);
	}
	/* A page can be sent in the moment before add_word() counts it. */
	added = load_acquire(&sender->added);
	done = counters->pages + counters->zero_pages;
	counters->pending = added > done ? added - done : 0;
}

enum channel_state sender_state(const struct sender *sender, uint32_t channel)
{
	return load_acquire(&sender->outgoing[channel].channel.state);
}

const char *sender_error(const struct sender *sender, uint32_t channel)
{
	return sender->outgoing[channel].channel.error;
}
