/* The registers of a 16550 that matter to who only writes: data, and the bit that hides them behind the divisor. */
#include "uart.h"

#include <unistd.h>

#include "atomics.h"

#define COM1 0x3f8
#define DATA COM1
#define LINE_CONTROL (COM1 + 3)
#define DIVISOR_LATCH 0x80

void uart_output(struct uart *uart, uint16_t port, const uint8_t *bytes, size_t count)
{
	if (port == LINE_CONTROL && count)
		store_relaxed(&uart->line_control, bytes[count - 1]);
	if (port != DATA || uart->fd < 0 || load_relaxed(&uart->line_control) & DIVISOR_LATCH)
		return;
	/* What finds no room is lost, as on a line whose other end is not ready. */
	for (size_t i = 0; i < count; i++)
		if (write(uart->fd, &bytes[i], 1) < 0)
			return;
}
