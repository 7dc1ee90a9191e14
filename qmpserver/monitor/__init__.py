"""QMP on sockets: devices that clients come through, one monitor per client, the commands.

This package joins `qmpserver.qmp` (the protocol) and `qmpserver.qapi` (the
schema) to an event loop.  It knows no command's meaning and nothing of a
machine.
"""

from qmpserver.monitor.chardev import (
    CHARDEV_OPTIONS,
    Address,
    FdAddress,
    FileChardev,
    InetAddress,
    NullChardev,
    PipeChardev,
    SocketChardev,
    StdioChardev,
    UnixAddress,
    parse_chardev,
    parse_device,
)
from qmpserver.monitor.device import Device, SocketDevice
from qmpserver.monitor.human import HumanCommands
from qmpserver.monitor.registry import Registry, RegistryError
from qmpserver.monitor.server import MONITOR_OPTIONS, Client, Server
from qmpserver.monitor.sockets import DeviceError

__all__ = [
    "CHARDEV_OPTIONS",
    "MONITOR_OPTIONS",
    "Address",
    "Client",
    "Device",
    "DeviceError",
    "FdAddress",
    "FileChardev",
    "HumanCommands",
    "InetAddress",
    "NullChardev",
    "PipeChardev",
    "Registry",
    "RegistryError",
    "Server",
    "SocketChardev",
    "SocketDevice",
    "StdioChardev",
    "UnixAddress",
    "parse_chardev",
    "parse_device",
]
