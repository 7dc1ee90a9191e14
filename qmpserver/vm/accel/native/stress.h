/*
 * The built-in guest `stress`: what its machine code and the host agree on.
 *
 * A vCPU writes over all bytes of its working set again and again: it adds a page of random data to each page.
 * After each GiB it sends a line through the first serial port, with the time and how long that GiB took. The
 * memory map and the working sets are the guest `dirty`'s (guest.h). Python reads the text between the cdef marks.
 */
#ifndef QMPSERVER_STRESS_H
#define QMPSERVER_STRESS_H

#include <stdint.h>

#include "guest.h"

/* cdef begin */
/* The random data is in place of the first control block; a block for each vCPU follows, a page each. */
#define STRESS_DATA 0x106000
#define STRESS_CONTROL 0x107000
#define STRESS_MAX_VCPUS 249

/* A vCPU's control block; addresses are guest-physical. The line is sent as it is, with two numbers filled in: they end
   before the given addresses, and reach back to a space. */
struct stress_guest {
	uint64_t base;         /* of the working set */
	uint64_t pages;        /* at least 1 */
	uint64_t ticks_per_ms; /* of the vCPU's time stamp counter */
	uint64_t epoch_ms;     /* the time since 1970 when the counter was 0, modulo 2^64 */
	uint64_t now_end;      /* the number that is the time since 1970, in ms */
	uint64_t took_end;     /* the number that is the duration, in ms */
	uint64_t line_end;
	uint64_t lock;         /* of the first block: not 0 while a vCPU sends */
	char line[128];
};

/* Entered at its start in 64-bit mode at CPL 3 with IOPL 3, rdi the address of the control block. */
extern const unsigned char guest_stress_code[];
extern const unsigned char guest_stress_code_end[];
/* cdef end */

#endif
