"""The fixture `qmp` for coroutine tests, one for each scope that an event loop can have.

The plugin imports this when a coroutine test uses the fixture: it needs pytest-asyncio.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from qemu.qmp import QMPClient

    from qmpserver.testing.thread import ServerThread

_NAME = "_qmp_on_{}_loop"
_SCOPES = ("function", "class", "module", "package", "session")


def fixture_for(request: pytest.FixtureRequest) -> str:
    """Return the name of the fixture whose client is connected on the loop of a test."""
    mark = request.node.get_closest_marker("asyncio")
    scope = mark.kwargs.get("loop_scope") if mark else None
    return _NAME.format(scope or request.config.getini("asyncio_default_test_loop_scope"))


def _on_loop_of(scope: Any) -> Any:
    @pytest_asyncio.fixture(name=_NAME.format(scope), loop_scope=scope)
    async def client(qmp_server: ServerThread) -> AsyncIterator[QMPClient]:
        from qemu.qmp import QMPClient, QMPError

        connected = QMPClient("qmp")
        await connected.connect(qmp_server.add_monitor())
        yield connected
        with contextlib.suppress(EOFError, OSError, QMPError):  # the server may have ended
            await connected.disconnect()

    return client


globals().update({scope: _on_loop_of(scope) for scope in _SCOPES})
