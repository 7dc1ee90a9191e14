"""The QAPI schema language: read a schema, check it, and validate values against it.

This package imports nothing else of `qmpserver`.

    schema = Schema.load("my-schema.json")  # SchemaError: "my-schema.json:12: ..."
    schema.commands["my-command"].validate({"size": 5})  # ParameterError, in QEMU's words
    schema.introspect()  # the result of query-qmp-schema

Loading: `parser` reads the files, `check` checks each definition, `resolve` connects them to a
`model` of types and to the commands and events of `interface`. Its users: `validate` checks values,
`introspect`, `markdown` and `typed` generate output.

`python -m qmpserver.qapi` checks a schema, and generates a reference or Python types from it.
"""

from qmpserver.qapi.interface import Command, Event
from qmpserver.qapi.schema import Schema
from qmpserver.qapi.source import SchemaError
from qmpserver.qapi.validate import ParameterError, ResultError

__all__ = ["Command", "Event", "ParameterError", "ResultError", "Schema", "SchemaError"]
