"""QMP servers for test suites, and the pytest plugin that provides them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmpserver.testing.thread import ServerThread

__all__ = ["ServerThread"]


def __getattr__(name: str) -> Any:
    """Import a name at its first use: pytest loads the plugin in suites that do not use it."""
    if name not in __all__:
        raise AttributeError(f"module 'qmpserver.testing' has no attribute '{name}'")
    from qmpserver.testing import thread

    return getattr(thread, name)
