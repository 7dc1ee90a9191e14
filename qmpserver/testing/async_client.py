"""The fixture `qmp` for coroutine tests; loaded by the plugin where pytest-asyncio runs them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qemu.qmp import QMPClient

    from qmpserver.testing.thread import ServerThread

NAME = "_qmp_on_{}_loop"
SCOPES = ("function", "class", "module", "package", "session")


def _on_loop_of(scope: Any) -> Any:
    @pytest_asyncio.fixture(name=NAME.format(scope), loop_scope=scope)
    async def client(qmp_server: ServerThread) -> AsyncIterator[QMPClient]:
        from qemu.qmp import QMPClient, QMPError

        connected = QMPClient("qmp")
        await connected.connect(qmp_server.add_monitor())
        yield connected
        with contextlib.suppress(EOFError, OSError, QMPError):  # the server may have broken it
            await connected.disconnect()

    return client


# A client can be used on the loop only that it was connected on.
globals().update({scope: _on_loop_of(scope) for scope in SCOPES})
