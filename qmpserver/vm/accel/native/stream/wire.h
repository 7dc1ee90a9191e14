/*
 * The frames that carry RAM, version 1 of the wire format. vm/migration/README.md describes all of it.
 *
 * A frame is a header, little endian as all machines that KVM's dirty ring runs this on, and a payload. A run of
 * PAGES does not cross a multiple of STREAM_RUN pages. With more than one channel a block of STREAM_BLOCK pages
 * always travels on the same one: the last version of a page that arrives is the newest, without a barrier between
 * passes, and no two threads of the receiver ever write the same page.
 */
#ifndef QMPSERVER_STREAM_WIRE_H
#define QMPSERVER_STREAM_WIRE_H

#include <stdint.h>

/* cdef begin */
#define STREAM_RUN 64
#define STREAM_BLOCK 512
#define STREAM_CONTROL_MAX 67108864

#define STREAM_PAGES 1    /* `count` pages from page `a` on; they are the payload */
#define STREAM_ZERO 2     /* `count` pages from page `a` on are zero */
#define STREAM_SYNC 3     /* this channel has carried `a` pages in PAGES and `b` in ZERO frames, and no others */
#define STREAM_CONTROL 16 /* `a` bytes of JSON, for Python */

struct stream_frame {
	uint32_t type;
	uint32_t count;
	uint64_t a;
	uint64_t b;
};
/* cdef end */

_Static_assert(sizeof(struct stream_frame) == 24, "the header has no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers are sent as they are in memory");

static inline uint32_t stream_channel_of(uint64_t page, uint32_t channels)
{
	return (uint32_t)(page / STREAM_BLOCK % channels);
}

#endif
