"""The asyncio client of what talks to a server in no hurry: qemu.qmp, with errors in one line.

What measures uses the one in ``vm.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

from qemu.qmp import ConnectError, ExecInterruptedError, QMPClient, StateError
from qemu.qmp.error import ProtocolError
from qemu.qmp.message import DeserializationError

from qmpserver.tools.errors import HUNG_UP, NO_GREETING, TOO_LONG, ServerError, not_qmp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from qmpserver.tools.address import ServerAddress

GREETING_S = 5.0
REPLY_S = 30.0
HANG_UP_S = 1.0


@contextlib.asynccontextmanager
async def connected(
    address: ServerAddress, patience: float = GREETING_S
) -> AsyncIterator[QMPClient]:
    """Be a client of the server for as long as the context lasts.

    Raises ServerError: It can't be connected to, or does not greet as a QMP server within
    `patience` seconds.
    """
    logging.getLogger("qemu.qmp").propagate = False  # what it would print is raised too
    client = QMPClient()
    try:
        async with asyncio.timeout(patience):
            await client.connect(address.where)
    except TimeoutError:
        await _hang_up(client)
        what = "no answer to qmp_capabilities"
        if client.greeting is None:
            what = NO_GREETING
        raise ServerError(f"{address}: {what} (after {patience:g} s)") from None
    except ConnectError as error:
        raise ServerError(f"{address}: {_why(error.exc)}") from None
    try:
        yield client
    finally:
        await _hang_up(client)


async def execute(
    client: QMPClient,
    address: ServerAddress,
    command: str,
    arguments: Mapping[str, object] | None = None,
    patience: float = REPLY_S,
) -> Any:
    """Execute a command and return what it returns.

    Raises:
        qemu.qmp.ExecuteError: The server says so.
        ServerError: No answer came within `patience` seconds, or none that makes sense.
    """
    try:
        async with asyncio.timeout(patience):
            return await client.execute(command, dict(arguments) if arguments else None)
    except TimeoutError:
        raise ServerError(f"{address}: no answer to {command} within {patience:g} s") from None
    except (ExecInterruptedError, StateError):  # it went now, or since the last command
        why = HUNG_UP
        try:
            async with asyncio.timeout(HANG_UP_S):
                await client.disconnect()
        except (EOFError, TimeoutError):
            pass
        except Exception as error:  # it raises what ended its reader, whatever that was
            why = _why(error)
        raise ServerError(f"{address}: no answer to {command}: {why}") from None
    except ProtocolError as error:
        raise ServerError(f"{address}: no answer to {command}: {_why(error)}") from None


async def _hang_up(client: QMPClient) -> None:
    with contextlib.suppress(Exception):  # what ended its reader, which was told before
        async with asyncio.timeout(HANG_UP_S):
            await client.disconnect()


def _why(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while isinstance(inner := getattr(error, "exc", None), BaseException):
        error = inner
    if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
        return HUNG_UP
    if isinstance(error, OSError) and error.errno:  # asyncio words it its own way
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    if isinstance(error, DeserializationError | UnicodeDecodeError):
        raw = error.raw if isinstance(error, DeserializationError) else error.object
        return not_qmp(raw) if raw.endswith(b"\n") else HUNG_UP  # in the middle of it
    if isinstance(error, AssertionError):
        return "it refuses qmp_capabilities"
    text = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if text.startswith("Separator "):  # asyncio's, of the end of a line
        return TOO_LONG
    return f"what it sends is not QMP: {text}"
