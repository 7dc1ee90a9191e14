"""How a migration releases what it has, whatever cancels it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def to_the_end(steps: Coroutine[object, object, T]) -> T:
    """Await `steps` to their end, also if the caller is cancelled meanwhile, and return the result.

    Raises:
        CancelledError: The caller was cancelled meanwhile; the steps have ended.
    """
    task = asyncio.ensure_future(steps)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result
