"""The device: where the clients of a monitor come from.

A device hands the `Channel` of each client to the function attached to it; it knows
nothing of the protocol.  The kinds of devices are in `socket_devices`, `stdio`, `pty`
and `descriptors`; `opening` makes one from its description.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from qmpserver.monitor.channel import Channel
from qmpserver.monitor.sockets import DeviceError

__all__ = ["Attach", "Device"]

Attach = Callable[[Channel], object]


class Device(ABC):
    """An open device.

    Use from the event loop's thread only.

    Attributes:
        id: Its name.
        filename: Its kind and address, in the form of QEMU's `query-chardev`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, filename: str) -> None:
        self.id = name
        self.filename = filename
        self._loop = loop
        self._attach: Attach | None = None
        self._raw = False
        self._connected = asyncio.Event()

    @property
    def attached(self) -> bool:
        """Whether the device is in use by a monitor."""
        return self._attach is not None

    @property
    def waits(self) -> bool:
        """Whether nothing should start before the first client has connected."""
        return False

    def shown(self, peers: bool) -> str:
        """Return `filename`; without `peers`, not with the address of a UNIX socket's other end."""
        return self.filename

    async def wait_connected(self) -> None:
        """Wait until the first client has connected; return at once if the device needs none."""
        await self._connected.wait()

    def attach(self, attach: Attach, *, raw: bool = False) -> None:
        """Call `attach` with the channel of each client from now on.

        Args:
            attach: Takes the channels.
            raw: On a terminal, pass on each key as it is typed, without echo.

        Raises:
            DeviceError: The device is in use already.
        """
        if self._attach is not None:
            raise DeviceError(f"Device '{self.id}' is in use")
        self._attach = attach
        self._raw = raw
        self._start()

    @abstractmethod
    def stop(self) -> None:
        """Accept no more clients; those connected stay."""

    def close(self) -> None:
        """Release all resources; connections are closed."""
        self.stop()

    @abstractmethod
    def _start(self) -> None:
        """Begin to hand out channels."""

    def _hand_out(self, channel: Channel) -> None:
        assert self._attach is not None
        self._connected.set()
        self._attach(channel)
