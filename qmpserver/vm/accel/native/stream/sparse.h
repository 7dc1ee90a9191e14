/* RAM's pages in a file with holes: a memory file, or a file on disk that has them from an offset on. */
#ifndef QMPSERVER_STREAM_SPARSE_H
#define QMPSERVER_STREAM_SPARSE_H

#include <stdint.h>

struct sparse {
	int fd;
	uint64_t base; /* the offset of page 0, a multiple of the page size */
	uint64_t pages;
	uint64_t *filled; /* pages that may be no holes; each word belongs to one thread */
};

/*
 * Find the first pages with data among those from `page` up to `end`. 1 and the range, `*first` to `*last` (not
 * included); 0 if there are none, -1 and errno. Moves the file's position.
 */
int sparse_find_data(const struct sparse *sparse, uint64_t page, uint64_t end, uint64_t *first, uint64_t *last);

/* Learn which pages have data. 0, or -1 and errno; in either case sparse_free() follows. */
int sparse_init(struct sparse *sparse, int fd, uint64_t base, uint64_t pages);
void sparse_free(struct sparse *sparse);

/* Write pages of one word. 0, or -1 and errno. */
int sparse_write(struct sparse *sparse, uint64_t page, uint64_t count, const uint8_t *content);

/* Make pages zero, holes where they are none. 0, or -1 and errno. */
int sparse_clear(struct sparse *sparse, uint64_t page, uint64_t count);

#endif
