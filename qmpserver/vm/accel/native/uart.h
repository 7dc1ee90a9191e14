/* The transmitter of a PC's first serial port: what the guest sends goes to a descriptor, a byte at a time. */
#ifndef QMPSERVER_UART_H
#define QMPSERVER_UART_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */
struct uart {
	int fd;               /* non-blocking; -1: nobody listens. Set before the start. */
	uint32_t line_control; /* the register */
};
/* cdef end */

/* A vCPU wrote bytes to an I/O port, this one's or another. Any thread. */
void uart_output(struct uart *uart, uint16_t port, const uint8_t *bytes, size_t count);

#endif
