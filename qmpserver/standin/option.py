"""The value of `-fake`: `FILE`, then `schema=`, `version=`, `fault=`, `log=`, `machines=`."""

from __future__ import annotations

from typing import NamedTuple

from qmpserver.keyval import split_options
from qmpserver.standin.parts import ScenarioError
from qmpserver.standin.table import unknown

MAX_MACHINES = 100_000
_DIGITS = 7  # enough to be too many; more would take long to read


class Option(NamedTuple):
    """The option's parts; None for a part that is not given."""

    file: str | None
    schema: str | None
    version: str | None
    faults: list[str]
    log: str | None
    machines: int | None


def parse(text: str) -> Option:
    """Parse the option's value; of a key given twice, other than `fault`, the last value counts.

    Raises:
        ScenarioError: The option has an unknown key, or no such number of machines is possible.
    """
    values: dict[str, list[str]] = {key: [] for key in (*_SINGLE, "machines", "fault")}
    for key, value, _ in split_options(text, "file"):
        if key not in values:
            raise ScenarioError(unknown("option", key, values))
        values[key].append(value)
    file, schema, version, log = (values[key][-1] if values[key] else None for key in _SINGLE)
    if file == "":
        raise ScenarioError("the scenario has no name; it must be a file, or default")
    machines = values["machines"]
    count = _count(machines[-1]) if machines else None
    return Option(file, schema, version, values["fault"], log, count)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:_DIGITS]) <= MAX_MACHINES):
        raise ScenarioError(f"machines: '{text}' is no number from 1 to {MAX_MACHINES}")
    return int(text)


_SINGLE = ("file", "schema", "version", "log")
