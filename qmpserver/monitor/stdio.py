"""Standard input and output as a device; a terminal gets its settings back at the end."""

import asyncio
import contextlib
import os
import signal
import termios
from typing import Any

from qmpserver.monitor.channel import Channel
from qmpserver.monitor.chardev import StdioChardev
from qmpserver.monitor.device import Device
from qmpserver.monitor.sockets import DeviceError

__all__ = ["Stdio"]

_STDIN = 0
_STDOUT = 1
# Indices into the list of `termios.tcgetattr`.
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6
_COOKED_INPUT = (
    termios.IGNBRK
    | termios.BRKINT
    | termios.PARMRK
    | termios.ISTRIP
    | termios.INLCR
    | termios.IGNCR
    | termios.ICRNL
    | termios.IXON
)


class Stdio(Device):
    """Standard input and output, for one device at a time.

    Raises:
        DeviceError: Another device has them.
    """

    _in_use = False

    def __init__(self, chardev: StdioChardev, loop: asyncio.AbstractEventLoop) -> None:
        if Stdio._in_use:
            raise DeviceError("cannot use stdio by multiple character devices")
        super().__init__(loop, chardev.id, "stdio")
        self._source, self._sink = _STDIN, _STDOUT
        self._signal = chardev.signal
        self._terminal: list[Any] | None = None
        self._blocking = [(fd, os.get_blocking(fd)) for fd in (self._source, self._sink)]
        self._channel: Channel | None = None
        self._closed = False
        self._connected.set()
        Stdio._in_use = True

    def stop(self) -> None:
        """Leave the terminal to the client that may still be connected."""

    def close(self) -> None:
        """Close the channel and restore the settings of the descriptors."""
        if self._closed:
            return
        self._closed = True
        if self._channel is not None:
            self._channel.close()
        Stdio._in_use = False
        # The descriptors may be shared with the shell, which expects them to block.
        for fd, blocking in self._blocking:
            with contextlib.suppress(OSError):
                os.set_blocking(fd, blocking)
        if self._terminal is not None:
            self._loop.remove_signal_handler(signal.SIGCONT)
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._source, termios.TCSANOW, self._terminal)

    def _start(self) -> None:
        for fd, _ in self._blocking:
            os.set_blocking(fd, False)
        if os.isatty(self._source):
            self._terminal = termios.tcgetattr(self._source)
            self._set_up_terminal()
            # The shell has the terminal while this process is suspended.
            self._loop.add_signal_handler(signal.SIGCONT, self._set_up_terminal)
        self._channel = Channel(self._loop, self._source, self._sink, close_descriptors=False)
        self._hand_out(self._channel)

    def _set_up_terminal(self) -> None:
        assert self._terminal is not None
        mode = [*self._terminal[:6], list(self._terminal[6])]
        if self._raw:
            mode[_IFLAG] &= ~_COOKED_INPUT
            mode[_OFLAG] |= termios.OPOST
            mode[_CFLAG] &= ~(termios.CSIZE | termios.PARENB)
            mode[_CFLAG] |= termios.CS8
            mode[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
            mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
        if not self._signal:
            mode[_LFLAG] &= ~termios.ISIG
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._source, termios.TCSANOW, mode)
