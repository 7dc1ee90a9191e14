"""A migration between two QMP servers: prepared, started, followed to its end, or cancelled.

The servers are asked by QMP alone, in one thread. Between two looks it waits for events of both
servers, and for the caller's wish to cancel.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qmpserver.migration.status import OVER
from qmpserver.tools.errors import QmpctlError, RefusedError, ServerError, UsageError, sensible
from qmpserver.tools.figures import LIMITED, Figures, read_figures
from qmpserver.tools.side import Side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qmpserver.tools.client import Client

    Look = Callable[[Figures], object]

INTERVAL_S = 0.1  # between two looks
PATIENCE_S = 10.0  # for a cancel, and for the destination once the source has completed
LAST_WORDS_S = 1.0  # for a destination to say why it failed
PAUSED = "pre-switchover"
SOURCE_ONLY = ("auto-converge", "dirty-limit", "pause-before-switchover")
"""Capabilities without an effect on a destination, which may refuse them."""

_WILDCARDS = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a migration.

    Attributes:
        status: "completed", "cancelled", or "failed" if either side failed.
        source: The source's last answer to `query-migrate`.
        destination: The destination's; empty if it has gone.
        pause: The milliseconds from STOP on the source to RESUME on the destination, by their
            clocks; None if the guest did not run before, or does not run after.
        guest: The run state of the destination if it has the guest, of the source otherwise.
        error: Why it failed, in the words of both sides; empty if it did not.
    """

    status: str
    source: dict[str, Any]
    destination: dict[str, Any]
    pause: float | None
    guest: str
    error: str


class Migration:
    """One migration, over two connections; a context manager.

    Its end cancels a migration that is still under way, and removes the socket that it chose. It
    also ends a destination that it told to listen and that did not get the guest: that one is of no
    further use, and QEMU's usually ends itself.
    """

    def __init__(self, source: Client, destination: Client) -> None:
        self.source = Side("source", source)
        self.destination = Side("destination", destination)
        self._socket = contextlib.ExitStack()
        self._under_way = False
        self._told = False  # the destination, to listen
        self._useless = False  # the destination, which has been told to listen

    def __enter__(self) -> Migration:
        return self

    def __exit__(self, *_: object) -> None:
        with self._socket, contextlib.suppress(QmpctlError):
            if self._under_way:
                self.source.client.execute("migrate_cancel", patience=LAST_WORDS_S)
            elif self._useless:
                self.destination.client.execute("quit", patience=LAST_WORDS_S)

    def prepare(
        self,
        capabilities: Sequence[str] = (),
        source_parameters: Mapping[str, object] | None = None,
        destination_parameters: Mapping[str, object] | None = None,
    ) -> None:
        """Switch capabilities on, and set parameters; others stay as they are.

        Raises:
            QmpctlError: The destination waits for no migration, or a server refuses.
            ServerError: A server has gone, or makes no sense.
        """
        status = self.destination.run_state()
        if status != "inmigrate":
            raise QmpctlError(
                f"{self.destination}: it waits for no migration, its status is '{status}': start "
                "it with -incoming defer"
            )
        for side, parameters in (
            (self.destination, destination_parameters),
            (self.source, source_parameters),
        ):
            with contextlib.suppress(RefusedError):  # then it is polled alone
                side.client.execute("migrate-set-capabilities", _on(["events"]))
            wanted = [c for c in capabilities if side is self.source or c not in SOURCE_ONLY]
            if wanted:
                side.execute("migrate-set-capabilities", _on(wanted))
            if parameters:
                side.execute("migrate-set-parameters", parameters)

    def start(self, uri: str | None = None) -> None:
        """Start the migration.

        Args:
            uri: The socket that the destination listens on, and the source connects to. If None:
                the one that the destination listens on already, or else a private UNIX socket.

        Raises:
            UsageError: A socket must be named.
            QmpctlError: A server refuses.
            ServerError: A server has gone, or makes no sense.
        """
        info = self.destination.info()
        with sensible(self.destination, "query-migrate"):
            listening = [self._seen_from_source(one) for one in info.get("socket-address", ())]
        if listening:
            uri = uri or listening[0]
        else:
            uri = uri or self._private_socket()
            self._listen(uri)
        self._under_way = True
        try:
            self.source.execute("migrate", {"uri": uri})
        except QmpctlError as error:
            self._under_way = isinstance(error, ServerError)  # without an answer it may be
            self._useless = self._told
            raise

    def _seen_from_source(self, listening: Mapping[str, Any]) -> str:
        """Return the URI of a socket that the destination listens on."""
        if listening["type"] == "unix":
            return f"unix:{listening['path']}"
        host, server = str(listening["host"]), self.destination.client.address.where
        if host in _WILDCARDS:
            host = "localhost" if isinstance(server, str) else server[0]
        host = f"[{host}]" if ":" in host else host
        return f"tcp:{host}:{listening['port']}"

    def _private_socket(self) -> str:
        for side in (self.source, self.destination):
            if not isinstance(side.client.address.where, str):
                raise UsageError(f"give --uri: {side} may be out of reach of a UNIX socket")
        directory = self._socket.enter_context(
            tempfile.TemporaryDirectory(prefix="qmpctl-", ignore_cleanup_errors=True)
        )
        if (owner := _user(self.destination.client)) != os.geteuid():
            try:
                os.chown(directory, owner, -1)
            except OSError:
                raise UsageError(f"give --uri: {self.destination} is of another user") from None
        return f"unix:{directory}/migration.sock"

    def _listen(self, uri: str) -> None:
        """Have the destination listen. If it can, it stays after a failure, to be asked why."""
        arguments: dict[str, object] = {"uri": uri}
        try:
            self.destination.client.execute(
                "migrate-incoming", arguments | {"exit-on-error": False}
            )
        except RefusedError as error:
            if "'exit-on-error'" not in error.desc:  # an argument that QEMU has since 9.1
                raise self.destination.refusal("migrate-incoming", error) from None
            self.destination.execute("migrate-incoming", arguments)
        self._told = True

    def follow(self, look: Look, interrupt: int = -1) -> Outcome:
        """Follow the migration to its end.

        Args:
            look: Called with the figures, every `INTERVAL_S`.
            interrupt: A descriptor that becomes readable when the migration is to be cancelled.

        Raises:
            QmpctlError: A server refuses, or does not end in time.
            ServerError: The source has gone, or makes no sense.
        """
        try:
            status, info = self._until_source_ends(look, interrupt)
        except ServerError as error:
            if self.source.gone is None:
                raise
            self._under_way = False
            raise ServerError(f"{error}; {self._without_source()}") from None
        self._under_way = False
        if status == "completed":
            return self._completed(info)
        there = self._until_destination_ends(LAST_WORDS_S)
        why = self._why(info, there) if status == "failed" else ""
        self._useless = self._told and there.get("status") != "completed"
        if there.get("status") == "completed":
            status, why = "failed", f"{why or status}; the destination has the guest too"
        return Outcome(status, info, there, None, self.source.run_state(), why)

    def _until_source_ends(self, look: Look, interrupt: int) -> tuple[str, dict[str, Any]]:
        """Return the source's last status, and the answer with it."""
        deadline = float("inf")
        while True:
            info = self.source.info()
            limits = self.source.execute("query-vcpu-dirty-limit") if LIMITED in info else ()
            with sensible(self.source, "query-migrate"):
                figures = read_figures(info, limits)
            if figures.status in OVER:
                return figures.status, info
            look(figures)
            if time.monotonic() > deadline:
                raise QmpctlError(
                    f"{self.source}: migrate_cancel has no effect within {PATIENCE_S:.0f} s: the "
                    f"migration's status is '{figures.status}'"
                )
            if figures.status == PAUSED:
                self.source.execute("migrate-continue", {"state": PAUSED})
            if self._wait(self.source, interrupt):
                interrupt, deadline = -1, time.monotonic() + PATIENCE_S
                self.source.execute("migrate_cancel")

    def _until_destination_ends(self, patience: float) -> dict[str, Any]:
        """Return the destination's last answer; an empty one once it has gone."""
        deadline = time.monotonic() + patience
        while self.destination.gone is None:
            try:
                info = self.destination.info()
                if info.get("status") in OVER or time.monotonic() > deadline:
                    return info
                self._wait(self.destination)
            except ServerError:
                if self.destination.gone is None:
                    raise
        return {}

    def _wait(self, side: Side, interrupt: int = -1) -> bool:
        """Wait for the time of the next look, or that side's end; return whether interrupted."""
        until = time.monotonic() + INTERVAL_S
        while side.gone is None and not side.ended and (left := until - time.monotonic()) > 0:
            sides = {
                one.client.socket.fileno(): one
                for one in (self.source, self.destination)
                if one.gone is None
            }
            poll = select.poll()
            for fd in (*sides, *([interrupt] if interrupt >= 0 else [])):
                poll.register(fd, select.POLLIN)
            for fd, _ in poll.poll(left * 1000):
                if fd == interrupt:
                    return True
                sides[fd].read_events()
        side.ended = False
        if side.gone is not None:
            raise side.gone
        return False

    def _completed(self, info: dict[str, Any]) -> Outcome:
        """Return the outcome of a migration that the source has completed."""
        there = self._until_destination_ends(PATIENCE_S)
        with sensible(self.destination, "query-migrate"):
            status = there.get("status", "none")
        if self.destination.gone is not None or status == "failed":
            why = self._why(info, there)
            self._useless = self._told and status == "failed"  # one that hangs may have the guest
            return Outcome("failed", info, there, None, self.source.run_state(), why)
        if status not in OVER:
            raise QmpctlError(
                f"{self.destination}: its migration has not ended {PATIENCE_S:.0f} s after the "
                f"source's, its status is '{status}'"
            )
        if not info.get("total-time"):  # QEMU has completed a moment before it has the times
            info = self.source.info()
        guest = self.destination.run_state()
        pause = None
        if self.source.stopped is not None and self.destination.resumed is not None:
            pause = round((self.destination.resumed - self.source.stopped) * 1e3, 3)
        return Outcome(status, info, there, pause, guest, "")

    def _why(self, here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
        """Return why the migration failed, in the words of both sides."""
        words = [
            f"{side.role}: {' '.join(str(info['error-desc']).split())}"
            for side, info in ((self.source, here), (self.destination, there))
            if "error-desc" in info
        ]
        if self.destination.gone is not None:
            words.append(f"destination: {self.destination.gone}")
        return "; ".join(words) or "neither side tells why"

    def _without_source(self) -> str:
        """Return the state of the destination once the source has gone."""
        there = self._until_destination_ends(LAST_WORDS_S)
        if self.destination.gone is not None:
            return str(self.destination.gone)
        return (
            f"{self.destination}: its migration is '{there.get('status', 'none')}', its status "
            f"'{self.destination.run_state()}'"
        )


def _user(client: Client) -> int:
    """Return the user ID of the process that listens on a UNIX socket."""
    if sys.platform != "linux":  # the file's owner: each system asks for the peer in its own way
        return os.stat(str(client.address.where)).st_uid
    credentials = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", credentials)[1])


def _on(capabilities: Sequence[str]) -> dict[str, object]:
    """Return the arguments of `migrate-set-capabilities` that switch some on."""
    return {"capabilities": [{"capability": name, "state": True} for name in capabilities]}
