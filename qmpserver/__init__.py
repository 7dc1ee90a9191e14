"""A QMP-compatible virtual-machine monitor with a real KVM dirty-ring engine.

``__all__`` is the public interface, for programs that embed a QMP server.
Names are imported when they are first used: the program must start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qmpserver import _version

if TYPE_CHECKING:
    from qmpserver.monitor import Client, DeviceError, Registry, RegistryError, Server, UnixAddress
    from qmpserver.options import OptionError
    from qmpserver.qapi import Schema
    from qmpserver.qmp import QMPError

__all__ = [
    "Client",
    "DeviceError",
    "OptionError",
    "QMPError",
    "Registry",
    "RegistryError",
    "Schema",
    "Server",
    "UnixAddress",
    "__version__",
]

__version__ = _version.VERSION

_HOMES = {
    "Client": "monitor",
    "DeviceError": "monitor",
    "OptionError": "options",
    "QMPError": "qmp",
    "Registry": "monitor",
    "RegistryError": "monitor",
    "Schema": "qapi",
    "Server": "monitor",
    "UnixAddress": "monitor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qmpserver' has no attribute '{name}'")
    value = getattr(import_module(f"qmpserver.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
