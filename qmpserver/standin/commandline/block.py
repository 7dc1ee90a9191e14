"""The option that creates block nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.keyval import parse_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch


def _blockdev(launch: Launch, value: str) -> None:
    launch.execute("blockdev-add", parse_members(value, "driver"))


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"blockdev": _blockdev}
