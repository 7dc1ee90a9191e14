/*
 * Every reason to leave a wait is a word in shared memory, stored before the thread is woken; the thread takes the
 * wake-up back before it reads the words. So none is lost.
 */
#define _GNU_SOURCE
#include "stream/channel.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"
#include "clock.h"

static void signal_eventfd(int fd)
{
	uint64_t one = 1;

	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

int channel_init(struct channel *channel, int fd, int notify_fd)
{
	struct stat st;

	channel->fd = fd;
	channel->notify_fd = notify_fd;
	channel->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (channel->wake_fd < 0 || fstat(fd, &st) < 0)
		return -1;
	channel->socket = S_ISSOCK(st.st_mode);
	return 0;
}

int channel_start(struct channel *channel, const char *name, uint32_t number, void *(*run)(void *), void *opaque)
{
	char full_name[16]; /* as long as the kernel allows */
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	error = pthread_create(&channel->thread, NULL, run, opaque);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error) {
		errno = error;
		return -1;
	}
	channel->started = true;
	snprintf(full_name, sizeof(full_name), "%s%u", name, number);
	pthread_setname_np(channel->thread, full_name);
	return 0;
}

void channel_wake(struct channel *channel)
{
	signal_eventfd(channel->wake_fd);
}

void channel_stop(struct channel *channel)
{
	store_release(&channel->stopping, 1);
	channel_wake(channel);
}

void channel_close(struct channel *channel)
{
	if (channel->started) {
		channel_stop(channel);
		pthread_join(channel->thread, NULL);
	}
	if (channel->wake_fd >= 0)
		close(channel->wake_fd);
}

void channel_wait(struct channel *channel, short events, uint64_t until)
{
	struct pollfd fds[] = { { .fd = channel->wake_fd, .events = POLLIN },
				{ .fd = channel->fd, .events = events } };
	uint64_t count, now = until ? now_ns() : 0;
	struct timespec timeout = to_timespec(until > now ? until - now : 0);

	if (ppoll(fds, events ? 2 : 1, until ? &timeout : NULL, NULL) > 0 && fds[0].revents)
		while (read(channel->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
			;
}

bool channel_stopping(const struct channel *channel)
{
	return load_acquire(&channel->stopping);
}

void channel_notify(struct channel *channel)
{
	signal_eventfd(channel->notify_fd);
}

void channel_set_state(struct channel *channel, enum channel_state state)
{
	store_release(&channel->state, state);
	channel_notify(channel);
}

enum channel_state channel_fail(struct channel *channel, int error_number, const char *format, ...)
{
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(channel->error, sizeof(channel->error), format, args);
	va_end(args);
	if (error_number && length >= 0 && (size_t)length < sizeof(channel->error)) {
		errno = error_number; /* C libraries do not agree on strerror_r() */
		snprintf(channel->error + length, sizeof(channel->error) - (size_t)length, ": %m");
	}
	return CHANNEL_FAILED;
}

struct iovec *channel_advance(struct iovec *iov, int *count, size_t done)
{
	while (*count && done >= iov->iov_len) {
		done -= iov->iov_len;
		iov++;
		(*count)--;
	}
	if (*count) {
		iov->iov_base = (char *)iov->iov_base + done;
		iov->iov_len -= done;
	}
	return iov;
}
