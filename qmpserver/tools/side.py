"""One of the two servers of a migration: its answers, and the facts that its events have told."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from qmpserver.migration.extensions import LATE
from qmpserver.migration.status import OVER
from qmpserver.qmp.client import not_qmp
from qmpserver.tools.errors import QmpctlError, RefusedError, ServerError, sensible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.tools.client import Client


class Side:
    """One server of a migration, by its connection.

    Attributes:
        role: "source" or "destination".
        client: Its connection.
        gone: The error that ended the connection; None as long as it lasts.
        ended: Whether an event has told the end of the migration; `Migration` clears it again.
        stopped: When its guest was stopped last, in seconds of its clock.
        resumed: When its guest was resumed last, in seconds of its clock.
        late: The seconds that its migration is expected to take, once this server has told that it
            breaks its promise; infinite if no end is in sight.
    """

    def __init__(self, role: str, client: Client) -> None:
        self.role = role
        self.client = client
        self.gone: ServerError | None = None
        self.ended = False
        self.stopped: float | None = None
        self.resumed: float | None = None
        self.late: float | None = None
        client.on_event = self._event

    def __str__(self) -> str:
        return str(self.client.address)

    def _event(self, event: Mapping[str, Any]) -> None:
        try:
            if event["event"] == "MIGRATION":
                self.ended |= event["data"]["status"] in OVER
            elif event["event"] == LATE:
                self.late = float(event["data"].get("expected", math.inf)) / 1e3
            elif event["event"] in ("STOP", "RESUME"):
                stamp = event["timestamp"]
                seconds = int(stamp["seconds"]) + int(stamp["microseconds"]) / 1e6
                if event["event"] == "STOP":
                    self.stopped = seconds
                else:
                    self.resumed = seconds
        except (LookupError, TypeError, ValueError):
            raise ServerError(f"{self}: {not_qmp(json.dumps(event))}") from None

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Execute a command and return its result.

        Raises:
            QmpctlError: The server refuses; the text names the server and the command.
            ServerError: The server has gone, or does not answer.
        """
        try:
            return self.client.execute(command, arguments)
        except RefusedError as error:
            raise self.refusal(command, error) from None
        except ServerError as error:
            self.gone = error
            raise

    def refusal(self, command: str, error: RefusedError) -> QmpctlError:
        """Return the error that names the server, the command and its refusal."""
        return QmpctlError(f"{self}: {command} is refused: {error.desc}")

    def read_events(self) -> None:
        """Read the events that have arrived, or note that the server has gone."""
        try:
            self.client.read_events()
        except ServerError as error:
            self.gone = error

    def info(self) -> dict[str, Any]:
        """Return the answer to `query-migrate`; raise as `execute`."""
        with sensible(self, "query-migrate"):
            return dict(self.execute("query-migrate"))

    def run_state(self) -> str:
        """Return the run state; raise as `execute`."""
        with sensible(self, "query-status"):
            return str(self.execute("query-status")["status"])
