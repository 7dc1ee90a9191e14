"""A QMP-compatible virtual-machine monitor with a real KVM dirty-ring engine.

``__all__`` is the public interface, for programs that embed a QMP server.  Other modules may be
used, but change as the program needs it; `qmpserver.qapi` and `qmpserver.qmp` are libraries of
their own.

=================================  ===========================================================
`Server`, `Client`, `Device`       serves QMP on sockets; one client; where clients come from
`Registry`                         binds functions to the commands of a schema
`Schema`                           the schema: commands, events, types
`UnixAddress`, `InetAddress`       where to listen
`CommandError`                         what a handler raises to refuse a command
`RegistryError`, `SchemaError`,    what the above raise
`OptionError`, `DeviceError`
=================================  ===========================================================

Names are imported when they are first used: the program must start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qmpserver import _version

if TYPE_CHECKING:
    from qmpserver.keyval import OptionError
    from qmpserver.monitor import (
        Client,
        Device,
        DeviceError,
        InetAddress,
        Registry,
        RegistryError,
        Server,
        UnixAddress,
    )
    from qmpserver.qapi import Schema, SchemaError
    from qmpserver.qmp import CommandError

__all__ = [
    "Client",
    "CommandError",
    "Device",
    "DeviceError",
    "InetAddress",
    "OptionError",
    "Registry",
    "RegistryError",
    "Schema",
    "SchemaError",
    "Server",
    "UnixAddress",
    "__version__",
]

__version__ = _version.VERSION

_HOMES = {
    "Client": "monitor",
    "Device": "monitor",
    "DeviceError": "monitor",
    "InetAddress": "monitor",
    "OptionError": "keyval",
    "CommandError": "qmp",
    "Registry": "monitor",
    "RegistryError": "monitor",
    "Schema": "qapi",
    "SchemaError": "qapi",
    "Server": "monitor",
    "UnixAddress": "monitor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qmpserver' has no attribute '{name}'")
    value = getattr(import_module(f"qmpserver.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
