"""The schema of a server, as `query-qmp-schema` returns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.qapi import Schema, SchemaError
from qmpserver.tools.errors import ServerError

if TYPE_CHECKING:
    from qmpserver.tools.client import Client


def fetch_schema(client: Client, *, patience: float | None = None) -> Schema:
    """Ask a server for its schema.

    Raises:
        RefusedError: The server has none.
        ServerError: No schema was received within `patience` seconds, or it makes no sense.
    """
    infos = client.execute("query-qmp-schema", patience=patience)
    try:
        return Schema.from_introspection(infos)
    except SchemaError as error:
        why = f"its answer to query-qmp-schema makes no sense: {error.message}"
        raise ServerError(f"{client.address}: {why}") from error
