"""A connection in front of another one, which passes everything on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.monitor.channel import Connection, Owner


class Relay:
    """A `Connection` that is the `Owner` of another one; subclasses change what passes through.

    Use from the event loop's thread only.
    """

    def __init__(self, channel: Connection) -> None:
        self._channel = channel
        self._owner: Owner | None = None

    @property
    def owner(self) -> Owner:
        """The owner, once the connection has been started."""
        assert self._owner is not None
        return self._owner

    def start(self, owner: Owner) -> None:
        """Start reading, and tell `owner` of everything."""
        self._owner = owner
        self._channel.start(self)

    @property
    def closed(self) -> bool:
        """Whether the channel is closed."""
        return self._channel.closed

    @property
    def unsent(self) -> int:
        """How much was written that the client has not taken yet."""
        return self._channel.unsent

    def take_fds(self) -> list[int]:
        """Return the file descriptors received last."""
        return self._channel.take_fds()

    def pause(self) -> None:
        """Read nothing until `resume`."""
        self._channel.pause()

    def resume(self) -> None:
        """Read again after `pause`."""
        self._channel.resume()

    def write(self, data: bytes) -> None:
        """Send whole messages, or a part of a large one; only its last part ends a line."""
        self._channel.write(data)

    async def flush_until(self, deadline: float) -> None:
        """Wait until all is sent, the channel is closed, or `deadline` (loop time) is over."""
        await self._channel.flush_until(deadline)

    def close(self) -> None:
        """Close at once."""
        self._channel.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self.owner.data_received(data)

    def eof_received(self) -> None:
        """Pass on that the client will send no more."""
        self.owner.eof_received()

    def drained(self) -> None:
        """Pass on that the client has taken everything that was written."""
        self.owner.drained()

    def channel_closed(self) -> None:
        """Pass on that the channel was closed."""
        self.owner.channel_closed()
