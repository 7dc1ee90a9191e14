/* Which pages are left writable, and not logged, until they are sent. Nothing here locks or calls. */
#ifndef QMPSERVER_PROTECTION_H
#define QMPSERVER_PROTECTION_H

#include <stdbool.h>
#include <stdint.h>

/* cdef begin */
struct protection {
	uint64_t words;     /* of the bitmap */
	uint32_t deferred;  /* written with all rings locked */
	uint64_t *writable; /* a bit per page of RAM: set by harvests, cleared before the page is sent */
};
/* cdef end */

/* 0, or -1 and errno. */
int protection_init(struct protection *protection, uint64_t pages);
void protection_free(struct protection *protection);

/* Whether a harvest is to leave the page writable. Under the lock of the ring in which it was found. */
bool protection_defer(struct protection *protection, uint64_t page);

/* Pages of a word are about to be sent. Returns those that are writable, and must be protected before. Any thread. */
uint64_t protection_take(struct protection *protection, uint64_t word, uint64_t bits);

/* Return the pages of a word that are writable. Any thread. */
uint64_t protection_writable(const struct protection *protection, uint64_t word);

/* All RAM is about to be protected. */
void protection_forget(struct protection *protection);

#endif
