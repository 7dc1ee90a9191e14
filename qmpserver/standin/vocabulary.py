"""The vocabularies that a scenario can name: the commands and events of a QEMU release or a daemon.

The files are in `vocabularies/`. A release's file is the reply of that QEMU to `query-qmp-schema`:

    qemu-system-x86_64 -machine none -display none -qmp unix:q.sock,server=on,wait=off &
    qmpctl --qmp unix:q.sock exec query-qmp-schema | gzip -9n > vocabularies/qemu-7.2.json.gz

To add a release, put its file there and a line in `RELEASES`.
"""

from __future__ import annotations

import functools
import json
import os
import zlib
from typing import NamedTuple

from qmpserver.files import LARGEST, read_bytes
from qmpserver.qapi import Schema, SchemaError
from qmpserver.qapi.model import EMPTY
from qmpserver.standin.values import smallest

FILES = os.path.join(os.path.dirname(__file__), "vocabularies")
# Each release, and the version that a stand-in of it greets with.
RELEASES = {"qemu-7.2": "7.2.22"}
DEFAULT = "qemu-7.2"
OWN = "qmpserver"
GUEST_AGENT = "guest-agent"
NAMED = (*RELEASES, OWN, GUEST_AGENT)

_GZIP = b"\x1f\x8b"
_GZIP_WBITS = 31
_OWN_SCHEMA = os.path.join(os.path.dirname(os.path.dirname(__file__)), "schema", "qapi-schema.json")


class Vocabulary(NamedTuple):
    """Commands and events, and the version in the greeting; None if no greeting is sent."""

    schema: Schema
    version: str | None


def load(name: str, directory: str | os.PathLike[str] = "") -> Vocabulary:
    """Return a vocabulary by its name, or from a file.

    Args:
        name: One of `NAMED`; or a file, gzipped or not, with a QEMU's reply to `query-qmp-schema`;
            or a file with a QAPI schema.
        directory: Directory that the file is relative to.

    Raises:
        SchemaError: The file is neither.
        OSError: The file cannot be read.
    """
    if name in NAMED:
        return _shipped(name)
    return Vocabulary(_read(os.path.join(directory, name)), "0.0.0")


@functools.cache
def _shipped(name: str) -> Vocabulary:
    """Read a vocabulary once: nothing changes it, so all stand-ins of a process share it."""
    if name in RELEASES:
        file = os.path.join(FILES, f"{name}.json.gz")
        return Vocabulary(_schema(file), RELEASES[name])
    if name == OWN:
        return Vocabulary(Schema.load(_OWN_SCHEMA), "11.0.0")
    return Vocabulary(Schema.load(os.path.join(FILES, f"{name}.json")), None)


def _schema(path: str) -> Schema:
    raw = read_bytes(path)
    if raw.startswith(_GZIP):
        raw = _unpacked(path, raw)
    return _parsed(path, raw)


def _read(path: str) -> Schema:
    """Return the schema of a user's file, in which each command and event has a smallest value."""
    schema = _schema(path)
    returned = {f"command '{one.name}'": one.returns for one in schema.commands.values()}
    sent = {f"event '{one.name}'": one.data for one in schema.events.values()}
    for sender, type_ in {**returned, **sent}.items():
        try:  # the answer, if nothing else answers
            smallest(type_ or EMPTY)
        except ValueError as error:
            raise SchemaError(path, None, f"{sender}: {error}") from None
    return schema


def _unpacked(path: str, raw: bytes) -> bytes:
    unpacking = zlib.decompressobj(wbits=_GZIP_WBITS)
    try:
        data = unpacking.decompress(raw, LARGEST)
    except zlib.error as error:
        raise SchemaError(path, None, f"cannot be decompressed: {error}") from None
    if not unpacking.eof:
        whole = f"it has more than {LARGEST} bytes" if unpacking.unconsumed_tail else "it is cut"
        raise SchemaError(path, None, f"cannot be decompressed: {whole}")
    return data


def _parsed(path: str, raw: bytes) -> Schema:
    try:
        infos = json.loads(raw)
    except RecursionError:
        raise SchemaError(path, None, "values are nested too deeply") from None
    except ValueError:
        return Schema.load(path)
    if isinstance(infos, dict):
        infos = infos.get("return")
    if not isinstance(infos, list):
        message = "neither a reply to query-qmp-schema nor a QAPI schema"
        raise SchemaError(path, None, message)
    try:
        return Schema.from_introspection(infos)
    except SchemaError as error:
        raise SchemaError(path, None, error.message) from None
