"""The QAPI schema language: read a schema, check it, and hold values against it.

A library on its own: it imports nothing else of this package.

    schema = Schema.load("my-schema.json")  # SchemaError: "my-schema.json:12: ..."
    schema.commands["my-command"].validate({"size": 5})  # ParameterError, in QEMU's words
    schema.introspect()  # what query-qmp-schema returns

``python -m qmpserver.qapi`` checks a schema, and makes a reference or Python types from it.
"""

from qmpserver.qapi.interface import Command, Event
from qmpserver.qapi.schema import Schema
from qmpserver.qapi.source import SchemaError
from qmpserver.qapi.validate import ParameterError, ResultError

__all__ = ["Command", "Event", "ParameterError", "ResultError", "Schema", "SchemaError"]
