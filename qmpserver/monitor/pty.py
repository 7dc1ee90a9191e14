"""A pseudo-terminal as a device: its clients are those that open its other side, one at a time."""

import asyncio
import os
import select
import tty

from qmpserver.monitor.channel import Channel
from qmpserver.monitor.chardev import PtyChardev
from qmpserver.monitor.device import Device
from qmpserver.monitor.sockets import DeviceError

__all__ = ["Pty"]

_LOOK_S = 0.1  # the kernel does not tell that the other side is opened


class Pty(Device):
    """A pseudo-terminal; `filename` has the path of its other side, `pty:/dev/pts/N`.

    What is sent while nobody has the other side open is lost, as in QEMU.

    Raises:
        DeviceError: There are no more pseudo-terminals.
    """

    def __init__(self, chardev: PtyChardev, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._controller, terminal = os.openpty()
        except OSError as error:
            raise DeviceError(f"Failed to create PTY: {error.strerror}") from None
        super().__init__(loop, chardev.id, f"pty:{os.ttyname(terminal)}")
        tty.setraw(terminal)
        os.close(terminal)
        os.set_blocking(self._controller, False)
        self._channel: Channel | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._connected.set()

    def stop(self) -> None:
        """Wait for no client any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Close it; the client finds the end of it."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        if self._channel is not None:
            self._channel.close()
        os.close(self._controller)

    def _start(self) -> None:
        """Wait for a client."""
        self._timer = None
        if self._is_open():
            self._channel = Channel(
                self._loop, self._controller, self._controller, close_descriptors=False
            )
            self._channel.on_close = self._left
            self._hand_out(self._channel)
        else:
            self._timer = self._loop.call_later(_LOOK_S, self._start)

    def _is_open(self) -> bool:
        """Return whether a process has the other side open."""
        poll = select.poll()
        poll.register(self._controller, 0)  # a hang-up is told without being asked for
        return not poll.poll(0)

    def _left(self) -> None:
        self._channel = None
        if not self._closed:
            self._start()
