"""A table of a scenario's TOML file: values by key, each with its type checked.

Errors name the file, the key, the value, and what would be right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import dumps
from qmpserver.standin.parts import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN = 200  # letters
_LISTED = 24  # more names than this make an error message too long to read


class Table:
    """A table whose keys are read one by one; `done` then refuses the keys that were not read.

    Args:
        file: Name of the file, for error messages.
        where: Path of the table in the file, such as `on[2]`; empty for the file itself.
        values: The table.

    Raises:
        ScenarioError: The value is not a table.
    """

    def __init__(self, file: str, where: str, values: object) -> None:
        self._file = file
        self._where = where
        self._known: list[str] = []
        if not isinstance(values, dict):
            raise ScenarioError(f"{file}: {where}: {shown(values)} is not a table")
        self._values = values

    def place(self, key: str) -> str:
        """Return file and full path of a key, for error messages."""
        return f"{self._file}: {f'{self._where}.{key}'.removeprefix('.')}"

    def error(self, key: str, message: str) -> ScenarioError:
        """Return an error about the value of a key, for the caller to raise."""
        return ScenarioError(f"{self.place(key)}: {message}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Any:
        """Return the value of a key, of any type; None if it is missing."""
        self._known.append(key)
        return self._values.get(key)

    def string(self, key: str) -> str | None:
        """Return a string; None if the key is missing.

        Raises:
            ScenarioError: The value is not a string.
        """
        value: str | None = self._typed(key, "a string", str)
        return value

    def required(self, key: str) -> str:
        """Return a string.

        Raises:
            ScenarioError: The key is missing, or the value is not a string.
        """
        value = self.string(key)
        if value is None:
            import difflib  # only for errors

            unread = [name for name in self._values if name not in self._known]
            for near in difflib.get_close_matches(key, unread, 1):
                raise self.error(near, unknown("key", near, [key]))
            raise self.error(key, "missing; it must be a string")
        return value

    def boolean(self, key: str, *, standard: bool = False) -> bool:
        """Return a boolean; `standard` if the key is missing.

        Raises:
            ScenarioError: The value is not a boolean.
        """
        value: bool | None = self._typed(key, "true or false", bool)
        return standard if value is None else value

    def integer(self, key: str, least: int = 0, most: int | None = None) -> int | None:
        """Return an integer from `least` to `most`; None if the key is missing.

        Raises:
            ScenarioError: The value is not such an integer.
        """
        value: int | None = self._typed(key, "an integer", int)
        if value is not None and value < least:
            raise self.error(key, f"{value} is too small; it must be {least} or more")
        if value is not None and most is not None and value > most:
            raise self.error(key, f"{value} is too large; it must be {most} or less")
        return value

    def seconds(self, key: str) -> float | None:
        """Return a time in seconds, 0 or more; None if the key is missing.

        Raises:
            ScenarioError: The value is not such a number.
        """
        value: float | None = self._typed(key, "a number of seconds", int, float)
        if value is not None and not 0 <= value < float("inf"):
            raise self.error(key, f"{value} is not a number of seconds; it must be 0 or more")
        return value

    def object(self, key: str) -> dict[str, Any] | None:
        """Return a table as a dictionary; None if the key is missing.

        Raises:
            ScenarioError: The value is not a table, or not JSON.
        """
        value: dict[str, Any] | None = self._typed(key, "a table", dict)
        self._check_json(key, value)
        return value

    def json(self, key: str) -> Any:
        """Return a value of any JSON type; None if the key is missing.

        Raises:
            ScenarioError: The value is not JSON.
        """
        value = self.get(key)
        self._check_json(key, value)
        return value

    def strings(self, key: str) -> list[str]:
        """Return a list of strings; a single string stands for a list of one.

        Raises:
            ScenarioError: The value is neither.
        """
        value = self._typed(key, "a string or a list of strings", str, list)
        if value is None:
            return []
        if isinstance(value, str):
            return [value]
        for number, one in enumerate(value, 1):
            if not isinstance(one, str):
                raise self.error(f"{key}[{number}]", f"{shown(one)} is not a string")
        return list(value)

    def table(self, key: str) -> Table:
        """Return a table of its own; an empty one if the key is missing.

        Raises:
            ScenarioError: The value is not a table.
        """
        values = self.get(key)
        return Table(self._file, self._below(key), {} if values is None else values)

    def tables(self, key: str, shorthand: str | None = None) -> list[Table]:
        """Return a list of tables; an empty one if the key is missing.

        Args:
            key: The list's key.
            shorthand: Key of the table that a plain string in the list stands for.

        Raises:
            ScenarioError: The value is not a list of tables.
        """
        values = self._typed(key, "a list", list) or []
        return [
            Table(
                self._file,
                f"{self._below(key)}[{number}]",
                {shorthand: value} if shorthand and isinstance(value, str) else value,
            )
            for number, value in enumerate(values, 1)
        ]

    def done(self) -> None:
        """Refuse keys that have not been read.

        Raises:
            ScenarioError: There is such a key.
        """
        for key in self._values:
            if key not in self._known:
                raise self.error(key, unknown("key", key, self._known))

    def _below(self, key: str) -> str:
        return f"{self._where}.{key}".removeprefix(".")

    def _check_json(self, key: str, value: Any) -> None:
        """Refuse values that TOML or Python has and JSON has not, such as dates."""
        try:
            dumps(value, finite=True)
        except TypeError as error:
            raise self.error(key, f"it cannot be written as JSON: {error}") from None

    def _typed(self, key: str, description: str, *types: type) -> Any:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise self.error(key, f"{shown(value)} is not {description}")
        return value


def shown(value: object) -> str:
    """Return a value as error messages show it, shortened: booleans as TOML writes them."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return an error message about an unknown name, with the nearest known one or all of them."""
    import difflib  # only for errors

    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"unknown {kind} '{name}'; did you mean '{near[0]}'?"
    if not names:
        return f"unknown {kind} '{name}'; there is none"
    listed = f"; it must be one of {', '.join(names)}" if len(names) <= _LISTED else ""
    return f"unknown {kind} '{name}'{listed}"
