"""QMP on sockets: devices that clients connect through, one monitor per client, the commands.

This package joins `qmpserver.qmp` (the protocol) and `qmpserver.qapi` (the
schema) to an event loop.  It knows the meaning of no command, and nothing of a
machine.  README.md says how to embed it.

=====================================  =======================================================
`server`                               all monitors of one machine
`client`, `terminal`                   one client of a QMP monitor, of a human monitor
`registry`                             the commands, bound to functions
`events`                               how often events are sent, and to which clients
`executions`, `background`             coroutines of commands; blocking calls in threads
`channel`, `relay`, `readiness`        bytes to and from one client
`chardev`, `opening`                   device descriptions in QEMU's syntax; devices from them
`device`                               where clients come from; the kinds:
`socket_devices`, `sockets`            listening and connecting sockets
`stdio`, `descriptors`                 standard input and output; files and pipes
`fds`, `fd_commands`                   passed file descriptors, and the commands for them
`hmp`, `expression`, `readline`        the human monitor's syntax and line editing
`qtest`                                QEMU's test protocol, on a device of its own
=====================================  =======================================================
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
from qmpserver.monitor.client import Client
from qmpserver.monitor.device import Device
from qmpserver.monitor.registry import Registry, RegistryError
from qmpserver.monitor.server import MONITOR_OPTIONS, Server
from qmpserver.monitor.socket_devices import Listener, SocketDevice
from qmpserver.monitor.sockets import DeviceError
from qmpserver.monitor.terminal import HumanCommands

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
    "Listener",
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
