/* The receiver: threads that read frames from descriptors, check them, and write their pages to RAM. */
#ifndef QMPSERVER_STREAM_RECEIVER_H
#define QMPSERVER_STREAM_RECEIVER_H

#include <stdint.h>

#include "stream/channel.h"

/* cdef begin */
struct receiver;

struct receiver_counters {
	uint64_t pages;      /* received with their content */
	uint64_t zero_pages; /* received as zero */
	uint64_t bytes;      /* read from the descriptors */
};

/*
 * Create a receiver of RAM, the first `pages` pages of the memory file `ram_fd`, mapped at `ram`, with a thread for each
 * of the descriptors: sockets, pipes that do not block, or files. All stay the caller's. With a `base` of 0 or more they
 * are all of one file that a sender with this `base` has written. Blocks for tens of milliseconds for each GiB of data
 * that RAM has already. NULL and errno on failure.
 */
struct receiver *receiver_new(uint8_t *ram, uint64_t pages, int ram_fd, const int *fds, uint32_t channels,
			      int64_t base);

/* End the threads and free the receiver. Blocks until they have ended, which takes less than a millisecond. */
void receiver_free(struct receiver *receiver);

/* Return the eventfd that is written when a channel has ended. */
int receiver_notify_fd(const struct receiver *receiver);

/*
 * Have a channel's thread receive until SYNC, CONTROL, the end of the stream, or an error. After CONTROL the caller
 * reads the payload before it starts the channel again. Of a file with all of RAM each channel loads its part, and ends
 * as with SYNC. Never blocks. 0, or -1 and errno: EBUSY if it receives
 * already, EPIPE if it failed or was stopped.
 */
int receiver_start(struct receiver *receiver, uint32_t channel);

/* Have all threads end within a millisecond. Any thread. Never blocks. */
void receiver_stop(struct receiver *receiver);

/* Any thread. Counters grow at any time. */
void receiver_read_counters(const struct receiver *receiver, struct receiver_counters *counters);
enum channel_state receiver_state(const struct receiver *receiver, uint32_t channel);
const char *receiver_error(const struct receiver *receiver, uint32_t channel); /* of CHANNEL_FAILED */
uint64_t receiver_control_bytes(const struct receiver *receiver, uint32_t channel); /* of CHANNEL_CONTROL */
/* cdef end */

#endif
