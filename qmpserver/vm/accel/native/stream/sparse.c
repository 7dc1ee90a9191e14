#define _GNU_SOURCE
#include "stream/sparse.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "bits.h"
#include "memory.h"

static off_t offset(const struct sparse *sparse, uint64_t page)
{
	return (off_t)(sparse->base + page * PAGE_BYTES);
}

int sparse_find_data(const struct sparse *sparse, uint64_t page, uint64_t end, uint64_t *first, uint64_t *last)
{
	off_t data = lseek(sparse->fd, offset(sparse, page), SEEK_DATA), hole;
	uint64_t bytes;

	if (data < 0)
		return errno == ENXIO ? 0 : -1;
	if (data >= offset(sparse, end))
		return 0;
	hole = lseek(sparse->fd, data, SEEK_HOLE);
	if (hole < 0)
		return -1;
	/* A file system's blocks may be smaller than pages. */
	*first = ((uint64_t)data - sparse->base) / PAGE_BYTES;
	bytes = (uint64_t)hole - sparse->base;
	*last = bytes / PAGE_BYTES + (bytes % PAGE_BYTES != 0);
	if (*last > end)
		*last = end;
	return 1;
}

int sparse_init(struct sparse *sparse, int fd, uint64_t base, uint64_t pages)
{
	uint64_t page = 0, last = 0;
	int found;

	*sparse = (struct sparse){ .fd = fd, .base = base, .pages = pages };
	sparse->filled = calloc(bits_words(pages), sizeof(uint64_t));
	if (!sparse->filled)
		return -1;
	while ((found = sparse_find_data(sparse, last, pages, &page, &last)) > 0)
		for (; page < last; page += WORD_PAGES - page % WORD_PAGES)
			sparse->filled[page / WORD_PAGES] |= bits_of(page, last - page);
	return found;
}

void sparse_free(struct sparse *sparse)
{
	free(sparse->filled);
}

int sparse_write(struct sparse *sparse, uint64_t page, uint64_t count, const uint8_t *content)
{
	uint64_t bytes = count * PAGE_BYTES, done = 0;

	/* Before the write, which may fail when a part of it is done. */
	sparse->filled[page / WORD_PAGES] |= bits_of(page, count);
	while (done < bytes) {
		ssize_t now = pwrite(sparse->fd, content + done, bytes - done, offset(sparse, page) + (off_t)done);

		if (now >= 0)
			done += (uint64_t)now;
		else if (errno != EINTR)
			return -1;
	}
	return 0;
}

int sparse_clear(struct sparse *sparse, uint64_t page, uint64_t count)
{
	while (count) {
		uint64_t *word = &sparse->filled[page / WORD_PAGES], first = page - page % WORD_PAGES;
		uint64_t now = WORD_PAGES - page % WORD_PAGES, bits = *word & bits_of(page, count);

		while (bits) {
			struct run run = bits_first_run(bits);

			if (fallocate(sparse->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				      offset(sparse, first + run.from), (off_t)(run.count * PAGE_BYTES)) < 0)
				return -1;
			bits &= ~bits_of(run.from, run.count);
			*word &= ~bits_of(run.from, run.count);
		}
		if (now > count)
			now = count;
		page += now;
		count -= now;
	}
	return 0;
}
