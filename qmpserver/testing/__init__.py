"""QMP servers for test suites, and a small client."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmpserver.testing.client import MonitorClient
    from qmpserver.testing.questions import Exactly
    from qmpserver.testing.thread import ServerThread

__all__ = ["Exactly", "MonitorClient", "ServerThread"]

_HOMES = {"Exactly": "questions", "MonitorClient": "client", "ServerThread": "thread"}


def __getattr__(name: str) -> Any:
    """Import a name at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'qmpserver.testing' has no attribute '{name}'")
    return getattr(import_module(f"qmpserver.testing.{_HOMES[name]}"), name)
