"""The first serial port: what the guest sends goes to the client of a device."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from qmpserver.monitor.channel import READ_SIZE

if TYPE_CHECKING:
    from qmpserver.monitor.channel import Channel
    from qmpserver.vm.accel.engine import Engine


class SerialPort:
    """The way from the vCPUs' threads to the event loop, and on. The guest receives nothing.

    Use it from the event loop's thread. Without a client, what is sent is lost, as in QEMU; and
    also what comes while a client is behind by more than a pipe holds.
    """

    def __init__(self, engine: Engine) -> None:
        self._source, self._sink = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._channel: Channel | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._source, self._sent)
        engine.set_serial(self._sink)

    def attach(self, channel: Channel) -> None:
        """Send to a client from now on."""
        self._channel = channel
        channel.start(self)

    def close(self) -> None:
        """Release all resources; the engine must have been closed."""
        self._loop.remove_reader(self._source)
        self._sent()  # what the guest sent last
        os.close(self._source)
        os.close(self._sink)

    def data_received(self, data: bytes) -> None:
        """Drop what the client sends."""

    def eof_received(self) -> None:
        """Go on: a client that sends nothing may read."""

    def drained(self) -> None:
        """Read on: the client has taken everything."""
        self._loop.add_reader(self._source, self._sent)

    def channel_closed(self) -> None:
        """Forget the client."""
        self._channel = None
        self._loop.add_reader(self._source, self._sent)

    def _sent(self) -> None:
        try:
            data = os.read(self._source, READ_SIZE)
        except BlockingIOError:
            return
        if self._channel is None:
            return
        self._channel.write(data)
        if self._channel is not None and self._channel.unsent:
            self._loop.remove_reader(self._source)
