/* The sender: threads that go through bitmaps of pages to send and write them to descriptors. */
#ifndef QMPSERVER_STREAM_SENDER_H
#define QMPSERVER_STREAM_SENDER_H

#include <stdbool.h>
#include <stdint.h>

#include "stream/channel.h"

/* cdef begin */
struct sender;
struct engine;

struct sender_counters {
	uint64_t pending;    /* pages that are to be sent, with those that are being sent */
	uint64_t cold;       /* of these, pages that sender_add() has never named: they go first; none being sent */
	uint64_t waiting;    /* the others; none being sent */
	uint64_t pages;      /* sent with their content */
	uint64_t zero_pages; /* told to be zero */
	uint64_t bytes;      /* written to the descriptors, headers included */
	uint32_t busy;       /* channels that have not finished the pass */
};

/*
 * Create a sender of an engine's RAM, or of any memory with none: `pages` pages of the memory file `ram_fd` mapped at
 * `ram`. It has a thread for each of the descriptors: sockets, pipes that do not block, or files. All stay the caller's.
 * With a `base` of 0 or more there are no frames: the descriptors are all of one file, which gets each page at `base` +
 * its offset in RAM, and a hole for a page that has become zero. The engine must outlive the sender. NULL and errno on
 * failure.
 */
struct sender *sender_new(struct engine *engine, const uint8_t *ram, uint64_t pages, int ram_fd, const int *fds,
			  uint32_t channels, int64_t base);

/* End the threads and free the sender. Blocks until they have ended, which takes less than a millisecond. */
void sender_free(struct sender *sender);

/* Return the eventfd that is written when a pass is done and when a channel failed or was stopped. */
int sender_notify_fd(const struct sender *sender);

/*
 * Add the pages that a harvest has found dirty to those that are to be sent: a bit each, 64 to a word. Any thread, also
 * during a pass, which then ends without them. Never blocks.
 */
void sender_add(struct sender *sender, const uint64_t *bitmap);

/*
 * Add all pages that are not holes in the memory file. Any thread. Blocks for tens of milliseconds a GiB of data.
 * 0, or -1 and errno.
 */
int sender_add_data(struct sender *sender);

/*
 * Have all threads send the pages that are to be sent, the latest dirty ones last; with `sync`, each then says so.
 * Never blocks. 0, or -1 and errno: EBUSY if a pass is under way, EPIPE if a channel has failed or was stopped.
 */
int sender_begin_pass(struct sender *sender, bool sync);

/* The guest stands still from now on: no page needs protection before it is sent. Any thread. Never blocks. */
void sender_guest_stopped(struct sender *sender);

/* Limit the rate of all channels together, in bytes/s; 0: no limit. In effect at once. Any thread. Never blocks. */
void sender_set_rate(struct sender *sender, uint64_t limit);

/* Have all threads end within a millisecond. Any thread. Never blocks. */
void sender_stop(struct sender *sender);

/* Any thread. Counters grow at any time. */
void sender_read_counters(const struct sender *sender, struct sender_counters *counters);
enum channel_state sender_state(const struct sender *sender, uint32_t channel);
const char *sender_error(const struct sender *sender, uint32_t channel); /* of CHANNEL_FAILED */
/* cdef end */

#endif
