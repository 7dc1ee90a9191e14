"""Devices from their descriptions.

To add a kind of device: describe and parse it in `chardev`, make it a `Device` in a module
of its own, and open it here.
"""

import asyncio
import os
import socket
from functools import partial

from qmpserver.monitor.background import call_in_thread
from qmpserver.monitor.chardev import (
    Address,
    Chardev,
    FileChardev,
    InetAddress,
    NullChardev,
    PipeChardev,
    PtyChardev,
    SocketChardev,
    StdioChardev,
    UnixAddress,
)
from qmpserver.monitor.descriptors import Descriptors, open_file, open_pipe
from qmpserver.monitor.device import Device
from qmpserver.monitor.fds import FileDescriptors
from qmpserver.monitor.pty import Pty
from qmpserver.monitor.socket_devices import BACKLOG, Connector, Listener
from qmpserver.monitor.sockets import connect, listen, remove, socket_file
from qmpserver.monitor.stdio import Stdio

__all__ = ["listen_on", "open_device"]


async def open_device(chardev: Chardev, fds: FileDescriptors) -> Device:
    """Open the device that `chardev` describes; its file may be in a set of `fds`.

    Calls that may block run in a thread; nothing stays open if the caller is cancelled.

    Raises:
        DeviceError: It cannot be opened; the message is QEMU's.
    """
    loop = asyncio.get_running_loop()
    match chardev:
        case SocketChardev(server=True):
            sock = await listen_on(chardev.address, BACKLOG)
            return Listener(chardev, loop, sock)
        case SocketChardev(reconnect_ms=0):  # its only attempt, whose failure is the caller's
            connecting = partial(connect, chardev.address)
            sock = await call_in_thread(f"connect-{chardev.id}", connecting, socket.socket.close)
            return Connector(chardev, loop, sock)
        case SocketChardev():
            return Connector(chardev, loop)
        case StdioChardev():
            return Stdio(chardev, loop)
        case FileChardev(path, append):
            opened = partial(open_file, path, append, fds)
            sink = await call_in_thread(f"open-{chardev.id}", opened, os.close)
            return Descriptors(loop, chardev.id, "file", -1, sink)
        case PipeChardev(path):
            source, sink = open_pipe(path)
            return Descriptors(loop, chardev.id, "pipe", source, sink)
        case PtyChardev():
            return Pty(chardev, loop)
        case NullChardev():
            return Descriptors(loop, chardev.id, "null", -1, -1)


async def listen_on(address: Address, backlog: int) -> socket.socket:
    """Return a socket that listens, as `sockets.listen` does, without blocking the event loop.

    Raises:
        DeviceError: It is not possible; the message is QEMU's.
    """
    listening = partial(listen, address, backlog)
    if _may_block(address):
        return await call_in_thread("listen", listening, partial(_discard, address))
    return listening()


def _may_block(address: Address) -> bool:
    """Return whether listening may wait: for a name to be resolved, or to replace a file."""
    if isinstance(address, UnixAddress):
        return not address.abstract and os.path.lexists(address.path)
    return isinstance(address, InetAddress)


def _discard(address: Address, sock: socket.socket) -> None:
    remove(sock, socket_file(address))
