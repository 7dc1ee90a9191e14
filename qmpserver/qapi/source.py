"""Locations in the schema's text, and the error that names one. Imports no other module."""


class SchemaError(ValueError):
    """The schema breaks a rule of the language.

    Its text is `file:line: message`, or `file: message` for a root file that cannot be read.
    """

    def __init__(self, file: str, line: int | None, message: str) -> None:
        self.file = file
        self.line = line
        self.message = message
        super().__init__(f"{file}: {message}" if line is None else f"{file}:{line}: {message}")


class Pragmas:
    """The settings of the schema's `pragma` directives, shared by all its files."""

    __slots__ = ("command_names", "command_returns", "doc_required", "member_names")

    def __init__(self) -> None:
        self.doc_required = False
        self.command_names: frozenset[str] = frozenset()
        self.command_returns: frozenset[str] = frozenset()
        self.member_names: frozenset[str] = frozenset()


class Location:
    """A line of a schema file, with the pragmas that apply to it."""

    __slots__ = ("file", "line", "pragmas")

    def __init__(self, file: str, line: int, pragmas: Pragmas) -> None:
        self.file = file
        self.line = line
        self.pragmas = pragmas

    def error(self, message: str) -> SchemaError:
        """Return an error at this location, for the caller to raise."""
        return SchemaError(self.file, self.line, message)
