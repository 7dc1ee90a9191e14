/*
 * A pass takes each page that is to be sent once: a thread exchanges words of the bitmap for 0, has the pages
 * protected that were left writable, and only then looks at them. So a page that is stored to later is reported again
 * and sent again, in this pass or the next.
 *
 * A page that is stored to again while it waits costs nothing. So cold pages go first, which were never found dirty,
 * and hot ones last: a pass ends before them if more are found meanwhile. A page is in one of the three bitmaps, or for
 * the moment of a move in none. Which are hot:
 *
 *     if each harvest finds a page anew     those that the last harvest has found
 *     if it is left writable until sent     those that were found soon after they were sent; and at the start those that
 *                                           were found soon after the log was switched on
 *
 * A guest's hot pages are often neighbours, and at the start nobody knows them. So a level is not sent in the order of
 * addresses, which could begin with just them, but block by block, spread over RAM by reversing the number's bits.
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
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"
#include "bits.h"
#include "clock.h"
#include "engine.h"
#include "stream/rate.h"
#include "stream/sparse.h"
#include "stream/wire.h"
#include "stream/zero.h"

#define BLOCK_WORDS (STREAM_BLOCK / WORD_PAGES)
#define BATCH_FRAMES 64
#define BATCH_PAGES 64
#define STEPS_PER_SECOND 64
#define FIRST_HARVESTS 3 /* they come soon after the log was switched on */

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

/* In the order in which pages are sent. */
enum level { COLD, WARM, HOT, LEVELS };

struct sender {
	struct engine *engine; /* or NULL */
	const uint8_t *ram;
	uint64_t pages;
	int ram_fd;
	int notify_fd;
	uint64_t *pending[LEVELS];
	uint64_t bits[LEVELS]; /* in each of them */
	uint64_t *sent[2]; /* since the last harvest, and between that and the one before */
	uint64_t added; /* bits that were set, less those that were moved */
	uint32_t harvests;
	uint32_t passes;
	uint32_t sync; /* the pass ends with SYNC */
	uint32_t stopped; /* the guest */
	uint32_t busy;
	pthread_mutex_t rate_lock;
	struct rate rate;
	uint64_t rate_limit; /* rate.limit, for a look without the lock */
	bool mapped;
	struct sparse file; /* if mapped */
	uint32_t channels;
	struct outgoing outgoing[];
};

static uint64_t count_bits(uint64_t bits)
{
	return (uint64_t)__builtin_popcountll(bits);
}

/* Take those of the bits that are set in a word of a level. */
static uint64_t take(struct sender *sender, enum level level, uint64_t word, uint64_t bits)
{
	uint64_t *pending = &sender->pending[level][word];

	if (!(load_relaxed(pending) & bits))
		return 0;
	bits &= __atomic_fetch_and(pending, ~bits, __ATOMIC_ACQUIRE);
	add_relaxed(&sender->bits[level], -count_bits(bits));
	return bits;
}

static uint64_t in_ram(const struct sender *sender, uint64_t word, uint64_t bits)
{
	return bits & bits_of(0, sender->pages - word * WORD_PAGES);
}

static void put(struct sender *sender, enum level level, uint64_t word, uint64_t bits)
{
	uint64_t before, *pending = &sender->pending[level][word];

	/* Counted first: a thread may take them at once. */
	add_relaxed(&sender->bits[level], count_bits(bits));
	before = __atomic_fetch_or(pending, bits, __ATOMIC_RELEASE) & bits;
	add_relaxed(&sender->bits[level], -count_bits(before));
	add_relaxed(&sender->added, count_bits(bits & ~before));
}

/* Take pages out of a level, to put them into another. */
static uint64_t move(struct sender *sender, enum level level, uint64_t word, uint64_t bits)
{
	uint64_t moved = take(sender, level, word, bits);

	add_relaxed(&sender->added, -count_bits(moved));
	return moved;
}

/* The pages of a word that were found and left writable: they are not found again until they were sent. */
static uint64_t writable(const struct sender *sender, uint64_t word)
{
	return sender->engine ? protection_writable(&sender->engine->protection, word) : 0;
}

/* The pages of a word that were sent since the harvest before the last one; at the start, all. */
static uint64_t take_recent(struct sender *sender, uint64_t word)
{
	uint64_t now = load_relaxed(&sender->sent[0][word]), before = sender->sent[1][word];

	if (now)
		now = __atomic_exchange_n(&sender->sent[0][word], 0, __ATOMIC_RELAXED);
	if (now != before)
		sender->sent[1][word] = now;
	return load_relaxed(&sender->harvests) <= FIRST_HARVESTS ? ~0ull : now | before;
}

void sender_add(struct sender *sender, const uint64_t *bitmap)
{
	add_relaxed(&sender->harvests, 1);
	for (uint64_t word = 0; word < bits_words(sender->pages); word++) {
		uint64_t bits = in_ram(sender, word, bitmap[word]), left = writable(sender, word), before;
		uint64_t warm = bits & left & ~take_recent(sender, word), hot = bits & ~warm;

		move(sender, COLD, word, bits);
		move(sender, WARM, word, hot);
		/*
		 * All pages of the bitmap are put, whether they seem to be pending or not. A look without a
		 * read-modify-write may be older than a thread's take and its reading of the page.
		 */
		before = move(sender, HOT, word, ~(bits | left) | warm);
		if (hot)
			put(sender, HOT, word, hot);
		if (before | warm)
			put(sender, WARM, word, before | warm);
	}
}

static void add_cold(struct sender *sender, uint64_t word, uint64_t bits)
{
	bits = in_ram(sender, word, bits);
	bits &= ~(load_relaxed(&sender->pending[WARM][word]) | load_relaxed(&sender->pending[HOT][word]));
	put(sender, COLD, word, bits);
}

int sender_add_data(struct sender *sender)
{
	struct sparse ram = { .fd = sender->ram_fd, .pages = sender->pages };
	uint64_t page = 0, last = 0;
	int found;

	while ((found = sparse_find_data(&ram, last, sender->pages, &page, &last)) > 0)
		for (; page < last; page += WORD_PAGES - page % WORD_PAGES)
			add_cold(sender, page / WORD_PAGES, bits_of(page, last - page));
	return found;
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

/* Keep the error in errno. Return false. */
static bool failed(struct outgoing *out, const char *what)
{
	channel_set_state(&out->channel, channel_fail(&out->channel, errno, "%s", what));
	return false;
}

static bool write_stream(struct outgoing *out, struct iovec *iov, int count)
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
			return failed(out, "cannot send RAM");
		}
	}
	return true;
}

/* Make holes of pages in the file, a block at a time, to look whether the thread is to stop. */
static bool clear_mapped(struct outgoing *out, uint64_t page, uint64_t count)
{
	while (count) {
		uint64_t now = count < STREAM_BLOCK ? count : STREAM_BLOCK;

		if (channel_stopping(&out->channel))
			return false;
		if (sparse_clear(&out->sender->file, page, now) < 0)
			return failed(out, "cannot free the file's pages");
		page += now;
		count -= now;
	}
	return true;
}

/* Write the batch to the file that has all of RAM. */
static bool write_mapped(struct outgoing *out)
{
	struct sender *sender = out->sender;
	const struct batch *batch = &out->batch;

	for (uint32_t i = 0; i < batch->nframes; i++) {
		const struct stream_frame *frame = &batch->frames[i];

		if (frame->type == STREAM_ZERO) {
			if (!clear_mapped(out, frame->a, frame->count))
				return false;
		} else {
			if (channel_stopping(&out->channel))
				return false;
			if (sparse_write(&sender->file, frame->a, frame->count,
					 sender->ram + frame->a * PAGE_BYTES) < 0)
				return failed(out, "cannot save RAM");
			count_up(&out->bytes, frame->count * PAGE_BYTES);
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
	    !(out->sender->mapped ? write_mapped(out) : write_stream(out, batch->iov, batch->niov)))
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

/* Return the first page from `page` on that is no hole; that page if it cannot be told. */
static uint64_t next_data(const struct sender *sender, uint64_t page)
{
	off_t found = lseek(sender->ram_fd, (off_t)(page * PAGE_BYTES), SEEK_DATA);

	if (found >= 0)
		return (uint64_t)found / PAGE_BYTES;
	return errno == ENXIO ? sender->pages : page;
}

/* Return which of the pages are holes of the memory file, without filling any. */
static uint64_t find_holes(const struct sender *sender, uint64_t word, uint64_t bits)
{
	uint64_t first = word * WORD_PAGES, left = sender->pages - first, absent = bits, holes = 0;
	uint64_t data = next_data(sender, first + (uint64_t)__builtin_ctzll(bits));
	unsigned char resident[WORD_PAGES];
	size_t count = left < WORD_PAGES ? left : WORD_PAGES;

	if (data >= first + WORD_PAGES)
		return bits;
	if (!mincore((void *)(uintptr_t)(sender->ram + first * PAGE_BYTES), count * PAGE_BYTES, resident))
		for (size_t i = 0; i < count; i++)
			absent &= ~((uint64_t)(resident[i] & 1) << i);
	for (; absent; absent &= absent - 1) {
		uint64_t page = first + (uint64_t)__builtin_ctzll(absent);

		if (data <= page)
			data = next_data(sender, page);
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
		int page = __builtin_ctzll(left);

		if (page_is_zero(sender->ram + (first + (uint64_t)page) * PAGE_BYTES))
			zero |= 1ull << page;
	}
	while (bits) {
		bool is_zero = zero >> __builtin_ctzll(bits) & 1;
		struct run run = bits_first_run(is_zero ? bits & zero : bits & ~zero);

		if (!(is_zero ? send_zero : send_pages)(out, first + run.from, run.count))
			return false;
		bits &= ~bits_of(run.from, run.count);
	}
	return true;
}

/* Take the pages of a level in some words, and have them protected. Returns whether there are any. */
static bool take_words(struct sender *sender, enum level level, uint64_t first, uint64_t words, uint64_t *taken)
{
	uint64_t any = 0;

	for (uint64_t i = 0; i < words; i++)
		any |= taken[i] = take(sender, level, first + i, ~0ull);
	if (!any)
		return false;
	if (sender->engine && !load_relaxed(&sender->stopped)) {
		engine_protect(sender->engine, first, taken, words);
		for (uint64_t i = 0; i < words; i++)
			if (taken[i])
				__atomic_fetch_or(&sender->sent[0][first + i], taken[i], __ATOMIC_RELAXED);
	}
	return true;
}

/* How many words are protected at once: few on a slow link, or they would be found dirty again before they are sent. */
static uint64_t step_words(const struct sender *sender)
{
	uint64_t words = load_relaxed(&sender->rate_limit) / STEPS_PER_SECOND / (WORD_PAGES * PAGE_BYTES);

	return !load_relaxed(&sender->rate_limit) || words > BLOCK_WORDS ? BLOCK_WORDS : words ? words : 1;
}

/* Send the pages of a level in a block; hot ones until more are found. False: the thread is to end. */
static bool send_block(struct outgoing *out, enum level level, uint64_t block, uint32_t harvests)
{
	struct sender *sender = out->sender;
	uint64_t word = block * BLOCK_WORDS, end = word + BLOCK_WORDS, taken[BLOCK_WORDS], words;

	if (end > bits_words(sender->pages))
		end = bits_words(sender->pages);
	for (; word < end; word += words) {
		words = step_words(sender);
		if (words > end - word)
			words = end - word;
		if (level == HOT && load_relaxed(&sender->harvests) != harvests)
			return true;
		if (!take_words(sender, level, word, words, taken))
			continue;
		for (uint64_t i = 0; i < words; i++) {
			if (!taken[i])
				continue;
			if (channel_stopping(&out->channel) || !send_word(out, word + i, taken[i]))
				return false;
		}
	}
	return true;
}

/* Send the channel's pages of a level. False: the thread is to end. */
static bool send_level(struct outgoing *out, enum level level, uint32_t harvests)
{
	const struct sender *sender = out->sender;
	uint64_t blocks = (sender->pages + STREAM_BLOCK - 1) / STREAM_BLOCK;
	uint64_t mine = (blocks + sender->channels - 1 - out->index) / sender->channels;
	uint32_t bits = bits_below(mine);

	for (uint64_t i = 0; i < 1ull << bits; i++) {
		uint64_t which = bits_reversed(i, bits);

		if (which < mine && !send_block(out, level, out->index + which * sender->channels, harvests))
			return false;
	}
	return true;
}

/* False: the thread is to end. */
static bool run_pass(struct outgoing *out)
{
	struct sender *sender = out->sender;
	uint32_t harvests = load_acquire(&sender->harvests);

	if (load_relaxed(&sender->bits[COLD]) && !send_level(out, COLD, harvests))
		return false;
	if (!send_level(out, WARM, harvests) || !send_level(out, HOT, harvests) || !flush(out))
		return false;
	if (!load_relaxed(&sender->sync) || sender->mapped)
		return true;
	add_frame(&out->batch, STREAM_SYNC, 0, out->pages, out->zero_pages);
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

/* Make the file as large as it will be, since it may end in a hole. 0, or -1 and errno. */
static int map_file(struct sender *sender, int fd, uint64_t base)
{
	uint64_t size = base + sender->pages * PAGE_BYTES;
	struct stat st;

	if (fstat(fd, &st) < 0 || ((uint64_t)st.st_size < size && ftruncate(fd, (off_t)size) < 0))
		return -1;
	return sparse_init(&sender->file, fd, base, sender->pages);
}

struct sender *sender_new(struct engine *engine, const uint8_t *ram, uint64_t pages, int ram_fd, const int *fds,
			  uint32_t channels, int64_t base)
{
	struct sender *sender = calloc(1, sizeof(*sender) + channels * sizeof(sender->outgoing[0]));
	int error;

	if (!sender)
		return NULL;
	sender->engine = engine;
	sender->ram = ram;
	sender->pages = pages;
	sender->ram_fd = ram_fd;
	sender->channels = channels;
	pthread_mutex_init(&sender->rate_lock, NULL);
	for (uint32_t i = 0; i < channels; i++)
		sender->outgoing[i].channel.wake_fd = -1;
	sender->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (sender->notify_fd < 0)
		goto fail;
	for (int level = 0; level < LEVELS; level++) {
		sender->pending[level] = calloc(bits_words(sender->pages), sizeof(uint64_t));
		if (!sender->pending[level])
			goto fail;
	}
	for (int i = 0; i < 2; i++) {
		sender->sent[i] = calloc(bits_words(sender->pages), sizeof(uint64_t));
		if (!sender->sent[i])
			goto fail;
	}
	sender->mapped = base >= 0;
	if (sender->mapped && map_file(sender, fds[0], (uint64_t)base) < 0)
		goto fail;
	for (uint32_t i = 0; i < channels; i++) {
		struct outgoing *out = &sender->outgoing[i];

		out->sender = sender;
		out->index = i;
		if (channel_init(&out->channel, fds[i], sender->notify_fd) < 0 ||
		    channel_start(&out->channel, "mig/src/send_", i, send_thread, out) < 0)
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
	sparse_free(&sender->file);
	for (int level = 0; level < LEVELS; level++)
		free(sender->pending[level]);
	free(sender->sent[0]);
	free(sender->sent[1]);
	free(sender);
}

int sender_notify_fd(const struct sender *sender)
{
	return sender->notify_fd;
}

int sender_begin_pass(struct sender *sender, bool sync)
{
	for (uint32_t i = 0; i < sender->channels; i++)
		if (sender_state(sender, i) >= CHANNEL_FAILED || channel_stopping(&sender->outgoing[i].channel)) {
			errno = EPIPE;
			return -1;
		}
	if (load_acquire(&sender->busy)) {
		errno = EBUSY;
		return -1;
	}
	pthread_mutex_lock(&sender->rate_lock);
	rate_begin(&sender->rate, now_ns());
	pthread_mutex_unlock(&sender->rate_lock);
	store_relaxed(&sender->busy, sender->channels);
	store_relaxed(&sender->sync, sync);
	store_release(&sender->passes, sender->passes + 1);
	for (uint32_t i = 0; i < sender->channels; i++)
		channel_wake(&sender->outgoing[i].channel);
	return 0;
}

void sender_guest_stopped(struct sender *sender)
{
	store_release(&sender->stopped, 1);
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

	*counters = (struct sender_counters){ .cold = load_acquire(&sender->bits[COLD]),
					      .waiting = load_acquire(&sender->bits[WARM]) +
							 load_acquire(&sender->bits[HOT]),
					      .busy = load_acquire(&sender->busy) };
	for (uint32_t i = 0; i < sender->channels; i++) {
		counters->pages += load_acquire(&sender->outgoing[i].pages);
		counters->zero_pages += load_acquire(&sender->outgoing[i].zero_pages);
		counters->bytes += load_acquire(&sender->outgoing[i].bytes);
	}
	/* A page can be sent in the moment before put() counts it. */
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
