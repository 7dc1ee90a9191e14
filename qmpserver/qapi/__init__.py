"""The QAPI schema language: read a schema, check it, and hold values against it.

A library on its own: it imports nothing else of this package.
"""

from qmpserver.qapi.interface import Command, Event
from qmpserver.qapi.schema import Schema
from qmpserver.qapi.source import SchemaError
from qmpserver.qapi.validate import ParameterError, ResultError

__all__ = ["Command", "Event", "ParameterError", "ResultError", "Schema", "SchemaError"]
