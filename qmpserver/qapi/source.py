"""Where a thing stands in the schema's text, and the error that says so.  Knows no other module."""


class SchemaError(ValueError):
    """The schema breaks a rule of its language.

    ``str()`` of it is ``file:line: message``, or ``file: message`` where no line can be named
    (a root file that can't be read).
    """

    def __init__(self, file: str, line: int | None, message: str) -> None:
        self.file = file
        self.line = line
        self.message = message
        super().__init__(f"{file}: {message}" if line is None else f"{file}:{line}: {message}")


class Pragmas:
    """What the schema's ``pragma`` directives say; one object serves all files of a schema."""

    __slots__ = ("command_names", "command_returns", "doc_required", "member_names")

    def __init__(self) -> None:
        self.doc_required = False
        self.command_names: frozenset[str] = frozenset()
        self.command_returns: frozenset[str] = frozenset()
        self.member_names: frozenset[str] = frozenset()


class Location:
    """A line of a schema file, with the pragmas that rule there."""

    __slots__ = ("file", "line", "pragmas")

    def __init__(self, file: str, line: int, pragmas: Pragmas) -> None:
        self.file = file
        self.line = line
        self.pragmas = pragmas

    def error(self, message: str) -> SchemaError:
        """Return, for the caller to raise, an error that points here."""
        return SchemaError(self.file, self.line, message)
