"""Which commands there are, and whose words: the schemas that a scenario can name."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import NamedTuple

from qmpserver.qapi import Schema, SchemaError

HERE = Path(__file__).parent
DEFAULT = "qemu-7.2"
GUEST_AGENT = "guest-agent"
OWN = "qmpserver"
NAMED = (DEFAULT, OWN, GUEST_AGENT)


class Vocabulary(NamedTuple):
    """A schema, and the version that the greeting tells; None where nobody is greeted."""

    schema: Schema
    version: str | None


def load(name: str, directory: Path) -> Vocabulary:
    """Return the schema that a scenario in `directory` means.

    Args:
        name: One of `NAMED`, or a file: what a QEMU's ``query-qmp-schema`` returned, as JSON,
            gzipped or not, or a QAPI schema.
        directory: Where the file is, if its name is relative.

    Raises:
        SchemaError: The file is neither.
        OSError: It can't be read.
    """
    if name in NAMED:
        return _shipped(name)
    return Vocabulary(_introspected(directory / name), "0.0.0")


@functools.cache
def _shipped(name: str) -> Vocabulary:
    """Read it once: schemas are not changed, so all stand-ins of a process share it."""
    if name == DEFAULT:
        return Vocabulary(_introspected(HERE / "qemu-7.2.json.gz"), "7.2.22")
    if name == OWN:
        return Vocabulary(Schema.load(HERE.parent / "schema" / "qapi-schema.json"), "11.0.0")
    return Vocabulary(Schema.load(HERE / "guest-agent.json"), None)


def _introspected(path: Path) -> Schema:
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError) as error:
            raise SchemaError(str(path), None, f"can't be decompressed: {error}") from None
    try:
        infos = json.loads(raw)
    except ValueError:
        return Schema.load(path)
    if isinstance(infos, dict):
        infos = infos.get("return")
    if not isinstance(infos, list):
        raise SchemaError(str(path), None, "neither a query-qmp-schema's reply nor a QAPI schema")
    try:
        return Schema.from_introspection(infos)
    except SchemaError as error:
        raise SchemaError(str(path), None, error.message) from None
