"""The value of `-fake`: `FILE[,schema=NAME][,version=X.Y.Z][,fault=NAME]...[,log=FILE]`."""

from __future__ import annotations

from typing import NamedTuple

from qmpserver.keyval import split_options
from qmpserver.standin.parts import ScenarioError
from qmpserver.standin.table import unknown


class Option(NamedTuple):
    """The option's parts; None for a part that is not given."""

    file: str | None
    schema: str | None
    version: str | None
    faults: list[str]
    log: str | None


def parse(text: str) -> Option:
    """Parse the option's value; of a key given twice, other than `fault`, the last value counts.

    Raises:
        ScenarioError: The option has an unknown key.
    """
    values: dict[str, list[str]] = {key: [] for key in (*_SINGLE, "fault")}
    for key, value, _ in split_options(text, "file"):
        if key not in values:
            raise ScenarioError(unknown("option", key, values))
        values[key].append(value)
    file, schema, version, log = (values[key][-1] if values[key] else None for key in _SINGLE)
    return Option(file, schema, version, values["fault"], log)


_SINGLE = ("file", "schema", "version", "log")
