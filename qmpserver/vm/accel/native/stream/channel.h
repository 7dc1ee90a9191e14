/* A thread and the descriptor that it serves: how it waits, is woken and stopped, and tells how it ended. */
#ifndef QMPSERVER_STREAM_CHANNEL_H
#define QMPSERVER_STREAM_CHANNEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/* cdef begin */
#define CHANNEL_ERROR_BYTES 160

enum channel_state {
	CHANNEL_IDLE,    /* not asked for anything yet, or done with what it was asked for */
	CHANNEL_BUSY,
	CHANNEL_SYNC,    /* a receiver read SYNC, and its totals are right */
	CHANNEL_CONTROL, /* a receiver read the header of a CONTROL frame; its payload is still to be read */
	CHANNEL_EOF,     /* a receiver found the end of the stream between two frames */
	CHANNEL_FAILED,  /* for good; the error says why */
	CHANNEL_STOPPED, /* for good, as asked */
};
/* cdef end */

struct channel {
	int fd; /* the caller's */
	bool socket;
	int wake_fd;   /* eventfd: look again at all that the thread waits for */
	int notify_fd; /* eventfd, shared with the other channels: Python shall look at the states */
	uint32_t stopping;
	uint32_t state;                  /* enum channel_state; released after all that it is about */
	char error[CHANNEL_ERROR_BYTES]; /* of CHANNEL_FAILED */
	bool started;
	pthread_t thread;
};

/* Prepare a channel for `fd`. 0, or -1 and errno; in either case channel_close() follows. */
int channel_init(struct channel *channel, int fd, int notify_fd);

/* Start the thread, with all signals blocked; its name is `name` with the number. 0, or -1 and errno. */
int channel_start(struct channel *channel, const char *name, uint32_t number, void *(*run)(void *), void *opaque);

/* Have the thread look again. Any thread. */
void channel_wake(struct channel *channel);

/* Have the thread end within a millisecond, whatever it waits for. Any thread. */
void channel_stop(struct channel *channel);

/* Stop the thread, wait for its end and free all but the descriptor. */
void channel_close(struct channel *channel);

/* On the channel's own thread. */

/*
 * Wait until the descriptor has one of poll's `events` (0: it does not matter), the thread is woken, or the time
 * `until` (0: none). Also returns for no reason: the caller looks at everything again.
 */
void channel_wait(struct channel *channel, short events, uint64_t until);

bool channel_stopping(const struct channel *channel);

/* Have Python look at the states. */
void channel_notify(struct channel *channel);

/* Set the state and have Python look at it. */
void channel_set_state(struct channel *channel, enum channel_state state);

/* Keep the text of an error, with that of `error_number` unless it is 0. Return CHANNEL_FAILED. */
__attribute__((format(printf, 3, 4))) enum channel_state channel_fail(struct channel *channel, int error_number,
								      const char *format, ...);

/* Remove the first `done` bytes from an array of buffers; return the first that is not empty. */
struct iovec *channel_advance(struct iovec *iov, int *count, size_t done);

#endif
