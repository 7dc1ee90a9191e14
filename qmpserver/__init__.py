"""A QMP server: for a real machine on KVM, a stand-in for QEMU, or a program of your own.

`__all__` is the public interface, for programs that embed a QMP server.  A name
in it is removed, or changed so that callers must change, only after one minor
release in which its use gives a `DeprecationWarning`.  The same holds for
`__all__` of `qmpserver.qapi`, `qmpserver.qmp`, `qmpserver.standin` and `qmpserver.testing`.
All other modules may change in any release.

- `Server` serves the monitors of one machine or program.
- `Client` is a connected client, as handlers see it.
- `Device` is an open device; a `Listener` accepts connections.
- `Registry` binds functions to the commands of a schema.
- `Schema` is a QAPI schema: commands, events and types.
- `CommandError` is raised by a handler: the command fails with this error.
- `RegistryError`, `SchemaError`, `OptionError` and `DeviceError` are raised by the above.

Names are imported when they are first used, because the program must start fast.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmpserver.keyval import OptionError
    from qmpserver.monitor import (
        Client,
        Device,
        DeviceError,
        Listener,
        Registry,
        RegistryError,
        Server,
    )
    from qmpserver.qapi import Schema, SchemaError
    from qmpserver.qmp import CommandError

    __version__: str

__all__ = [
    "Client",
    "CommandError",
    "Device",
    "DeviceError",
    "Listener",
    "OptionError",
    "Registry",
    "RegistryError",
    "Schema",
    "SchemaError",
    "Server",
    "__version__",
]

_HOMES = {
    "Client": "monitor",
    "CommandError": "qmp",
    "Device": "monitor",
    "DeviceError": "monitor",
    "Listener": "monitor",
    "OptionError": "keyval",
    "Registry": "monitor",
    "RegistryError": "monitor",
    "Schema": "qapi",
    "SchemaError": "qapi",
    "Server": "monitor",
    "__version__": "_version",
}
# Old names, until the next minor release: the module and the name there, and the advice.
_DEPRECATED = {
    "QMPError": ("qmp", "CommandError", "use CommandError"),
    "InetAddress": ("monitor", "InetAddress", "use Server.serve_tcp()"),
    "UnixAddress": ("monitor", "UnixAddress", "use Server.serve_unix()"),
}


def __getattr__(name: str) -> Any:
    if name in _DEPRECATED:
        module, attribute, advice = _DEPRECATED[name]
        message = f"qmpserver.{name} is deprecated: {advice}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(import_module(f"qmpserver.{module}"), attribute)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    attribute = "VERSION" if name == "__version__" else name
    value = getattr(import_module(f"qmpserver.{_HOMES[name]}"), attribute)
    globals()[name] = value
    return value
