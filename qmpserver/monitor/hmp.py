"""The human monitor's language, as in QEMU: tables of commands, arguments, help, completion.

All of it is a function of a table and a line.  To add a command, add it to a table; the
tables are in `qmpserver.human`, this module knows none.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from qmpserver.monitor.expression import SPACE, ExpressionError, evaluate, skip_space

__all__ = [
    "HumanCommand",
    "LineError",
    "UnknownCommandError",
    "complete",
    "help_text",
    "parse",
    "table",
]

_MAX_WORDS = 16
_TEXTS = {"s": "string", "F": "filename", "B": "block device name"}
_NAME_ENDS = SPACE + "/"
_ESCAPED = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}

Value = int | bool | str


class HumanCommand(NamedTuple):
    """One command of a table.

    Attributes:
        name: Its name and aliases: `stop|s`.
        args_type: Its arguments, in QEMU's notation: `KEY:TYPE`, separated by commas.  TYPE is
            `s` for a word or quoted string, `F` for a file's name, `B` for a block device's,
            `S` for the rest of the line, `O` for a word of options that may be missing,
            `l` for an integer expression, `i` for one of 32 bits,
            `b` for on or off, `-X` for a flag, and `-XV` for one that a word follows; after all but
            flags and `b`, `?` for an optional one.
        params: Its arguments, as help shows them.
        help: Its purpose, in a few words.
        run: Executes it; called by the caller of `parse`, with the arguments as keywords.
            Returns its output, or None if no prompt is to follow.
        sub_table: The commands that may follow its name.
    """

    name: str
    args_type: str
    params: str
    help: str
    run: Callable[..., Awaitable[str | None]]
    sub_table: tuple["HumanCommand", ...] = ()


class LineError(Exception):
    """A line cannot be executed; the message is the output."""


class UnknownCommandError(LineError):
    """A line has the name of no command."""


def table(*commands: HumanCommand) -> tuple[HumanCommand, ...]:
    """Return the commands in the order of QEMU's help."""
    return tuple(sorted(commands, key=lambda command: command.name))


def parse(
    commands: tuple[HumanCommand, ...], line: str
) -> tuple[HumanCommand, dict[str, Value]] | None:
    """Return the command of a line and its arguments, or None for an empty line.

    Raises:
        LineError: There is no such command, or its arguments do not fit.
    """
    start = 0
    while True:
        start = skip_space(line, start)
        if start == len(line):
            return None
        end = start
        while end < len(line) and line[end] not in _NAME_ENDS:
            end += 1
        command = _find(commands, line[start:end])
        if command is None:
            raise UnknownCommandError(f"unknown command: '{line[:end]}'\n")
        start = skip_space(line, end)
        if not command.sub_table or start == len(line):
            break
        commands = command.sub_table
    try:
        return command, _Arguments(command, line, start).parse()
    except LineError as error:
        words = line[:start].rstrip(SPACE)
        raise LineError(f'{error}Try "help {words}" for more information\n') from None


def help_text(commands: tuple[HumanCommand, ...], words: str) -> str:
    """Return the help on the command that `words` name, or on the whole table if they are empty."""
    wanted = _split(words)
    if wanted is None:
        return ""
    prefix = ""
    for number, word in enumerate(wanted, 1):
        command = _find(commands, word)
        if command is None:
            return f"unknown command: '{' '.join(wanted[:number])}'\n"
        if not command.sub_table:
            commands = (command,)
            break
        commands = command.sub_table
        prefix += f"{word} "
    return "".join(f"{prefix}{one.name} {one.params} -- {one.help}\n" for one in commands)


def complete(commands: tuple[HumanCommand, ...], line: str) -> tuple[str, list[str]]:
    """Return the last word of `line` and its completions."""
    words = _split(line)
    if words is None:
        return "", []
    if line[-1:] and line[-1] in SPACE:
        words.append("")
    top = commands
    while len(words) > 1:
        command = _find(commands, words.pop(0))
        if command is None:
            return "", []
        if command.sub_table:
            commands = command.sub_table
        elif command.name == "help|?":
            commands = top
        else:
            return "", []
    word = words[0] if words else ""
    names = [name for command in commands for name in command.name.split("|")]
    return word, [name for name in names if name.startswith(word)]


def _find(commands: tuple[HumanCommand, ...], name: str) -> HumanCommand | None:
    return next((command for command in commands if name in command.name.split("|")), None)


def _string(text: str, position: int) -> tuple[str | None, int]:
    """Read a word or a quoted string; None if it is missing or has no end."""
    position = skip_space(text, position)
    if text[position : position + 1] != '"':
        end = position
        while end < len(text) and text[end] not in SPACE:
            end += 1
        return text[position:end] or None, end
    read: list[str] = []
    characters: Iterator[str] = iter(text[position + 1 :])
    for character in characters:
        position += 1
        if character == '"':
            return "".join(read), position + 1
        if character == "\\":
            position += 1
            character = _ESCAPED.get(next(characters, ""), "")
            if not character:
                break
        read.append(character)
    return None, position


def _split(text: str) -> list[str] | None:
    """Return the words; None if one has no end or there are more than QEMU takes."""
    words: list[str] = []
    position = skip_space(text, 0)
    while position < len(text):
        word, position = _string(text, position)
        if word is None or len(words) == _MAX_WORDS:
            return None
        words.append(word)
        position = skip_space(text, position)
    return words


class _Arguments:
    """Reads the arguments of a command."""

    def __init__(self, command: HumanCommand, line: str, start: int) -> None:
        self._name = command.name
        self._wanted = [one.split(":") for one in command.args_type.split(",") if one]
        self._line = line
        self._position = start

    def parse(self) -> dict[str, Value]:
        """Return the given arguments by key."""
        arguments: dict[str, Value] = {}
        for index, (key, kind) in enumerate(self._wanted):
            self._position = skip_space(self._line, self._position)
            ended = self._position == len(self._line)
            if kind[0] == "-":
                later = [one[:2] for _, one in self._wanted[index + 1 :]]
                if self._flag(kind[1], later):
                    arguments[key] = self._value("s") if kind.endswith("V") else True
            elif not (ended and kind.endswith("?")):
                arguments[key] = self._value(kind[0])
        if skip_space(self._line, self._position) < len(self._line):
            raise LineError(f"{self._name}: extraneous characters at the end of line\n")
        return arguments

    def _flag(self, letter: str, later: list[str]) -> bool:
        line, position = self._line, self._position
        if line[position : position + 1] != "-":
            return False
        given = line[position + 1 : position + 2]
        if given == letter:
            self._position = skip_space(line, position + 2)
            return True
        if f"-{given}" not in later:
            raise LineError(f"{self._name}: unsupported option -{given}\n")
        return False

    def _value(self, kind: str) -> Value:
        match kind:
            case "s" | "F" | "B":
                text, self._position = _string(self._line, self._position)
                if text is None:
                    raise LineError(f"{self._name}: {_TEXTS[kind]} expected\n")
                return text
            case "O":
                if self._position == len(self._line):
                    return ""
                text, self._position = _string(self._line, self._position)
                if text is None:
                    raise LineError("")
                return text
            case "S":
                text, self._position = self._line[self._position :], len(self._line)
                if not text:
                    raise LineError(f"{self._name}: string expected\n")
                return text
            case "b":
                return self._on_or_off()
            case _:
                return self._integer(kind)

    def _integer(self, kind: str) -> int:
        try:
            value, self._position = evaluate(self._line, self._position)
        except ExpressionError as error:
            raise LineError(f"{error}\n") from None
        if kind == "i" and not 0 <= value < 1 << 32:
            raise LineError(f"'{self._name}' has failed: integer is for 32-bit values\n")
        return value

    def _on_or_off(self) -> bool:
        end = self._position
        while end < len(self._line) and "!" <= self._line[end] <= "~":
            end += 1
        word, self._position = self._line[self._position : end], end
        if word not in ("on", "off"):
            raise LineError("Expected 'on' or 'off'\n")
        return word == "on"
