/* Guest RAM, and where the guest sees it. */
#ifndef QMPSERVER_MEMORY_H
#define QMPSERVER_MEMORY_H

#include <stdint.h>

#define PAGE_BYTES 4096ull

/* cdef begin */
#define MEMORY_MAX_SLOTS 4

/* A guest-physical range backed by RAM; its index is KVM's slot number. */
struct memslot {
	uint64_t gpa;
	uint64_t ram_page; /* the RAM page that its first page is */
	uint64_t pages;
};

struct memory {
	uint8_t *ram;
	uint64_t pages;
	uint32_t nslots;
	struct memslot slots[MEMORY_MAX_SLOTS];
};
/* cdef end */

#endif
