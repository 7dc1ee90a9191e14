"""The parser of schema files: tokens, expressions, documentation comments, include and pragma.

The result is the definitions in the order of the text, each a Python value with its location and
its documentation. `check` checks their keys and values.
"""

import os
import re
from typing import NoReturn

from qmpserver.files import read_text
from qmpserver.qapi.doc import Doc
from qmpserver.qapi.model import Definition
from qmpserver.qapi.source import Location, Pragmas, SchemaError

_COMMENT = r"(?:\s|\#(?!\#)[^\n]*)*"  # space and plain comments
_ANY_COMMENT = r"(?:\s|\#[^\n]*)*"
_TOKEN = r"""
    (?: ([][{}:,])
      | '([ !\#-&(-[\]-~"]*)'    # a string of printable ASCII without an escape
      | (true|false)\b
      | (\#\#)
      | (\Z)
      | (?=(.)) )"""
_DOC_LINE = re.compile(r"\s*\#([^\n]*)")
# Beyond any real definition, and below the interpreter's recursion limit.
_DEPTH = 50
_PLAIN = " " + "".join(map(chr, range(33, 127)))


class Parsed:
    """The contents of a root file and the files that it includes."""

    def __init__(self, *, documented: bool = True) -> None:
        comment = _COMMENT if documented else _ANY_COMMENT
        self.token = re.compile(comment + _TOKEN, re.VERBOSE | re.DOTALL)
        self.documented = documented
        self.pragmas = Pragmas()
        self.definitions: list[Definition] = []
        # Definitions and free-form comments in the order of the text, for a reference.
        self.sequence: list[Doc | Definition] = []
        self.files: list[str] = []


def parse(path: str, *, documented: bool = True) -> Parsed:
    """Parse the schema whose root file is `path`; skip its documentation unless `documented`.

    Raises:
        SchemaError: A file cannot be read, or is not well-formed.
    """
    parsed = Parsed(documented=documented)
    try:
        text = _read(path)
    except OSError as error:
        raise SchemaError(path, None, f"cannot read the schema: {error.strerror}") from None
    parsed.files.append(os.path.abspath(path))
    _File(path, text, parsed, (os.path.abspath(path),)).parse()
    return parsed


def _read(path: str) -> str:
    try:
        return read_text(path)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SchemaError(path, line, "text is not UTF-8") from None


class _File:
    """Parses one file; `includers` are the absolute paths of the including files and its own."""

    def __init__(self, path: str, text: str, parsed: Parsed, includers: tuple[str, ...]) -> None:
        self._path = path
        self._text = text
        self._parsed = parsed
        self._includers = includers
        self._pos = 0
        self._start = 0
        self._kind = ""
        self._value: str | bool = ""
        self._counted = (0, 1)
        self._doc: Doc | None = None

    def parse(self) -> None:
        self._next()
        while self._kind != "end":
            location = self._location(self._start)
            if self._kind == "##":
                self._expect_no_doc()
                self._comment()
                continue
            value = self._expression()
            if not isinstance(value, dict):
                raise location.error("top-level expression must be an object")
            if "include" in value:
                self._expect_no_doc()
                self._include(value, location)
            elif "pragma" in value:
                self._expect_no_doc()
                self._pragma(value, location)
            else:
                self._define(value, location)
            self._doc = None
        self._expect_no_doc()

    # Tokens

    def _next(self) -> None:
        match = self._parsed.token.match(self._text, self._pos)
        assert match is not None  # the last alternative matches anything
        self._pos = match.end()
        index = match.lastindex
        assert index is not None
        self._start = match.start(index)
        if index == 1:
            self._kind = match[1]
        elif index == 2:
            self._kind, self._value = "string", match[2]
        elif index == 3:
            self._kind, self._value = "bool", match[3] == "true"
        elif index == 4:
            self._kind = "##"
        elif index == 5:
            self._kind = "end"
        elif match[6] == "'":
            self._kind, self._value = "string", self._odd_string()
        else:
            word = re.compile(r"[^][{}:,\s'\"]+|.").match(self._text, self._start)
            assert word is not None
            self._fail(f"stray '{word[0]}'")

    def _odd_string(self) -> str:
        # A string with an escape or an error.
        chars: list[str] = []
        pos = self._start + 1
        while True:
            char = self._text[pos : pos + 1]
            if char in ("", "\n"):
                self._fail("string has no closing quote on its line")
            pos += 1
            if char == "'":
                self._pos = pos
                return "".join(chars)
            if char == "\\":
                char = self._text[pos : pos + 1]
                pos += 1
                if char != "\\":
                    self._fail(f"'\\{char}' is not an escape: only '\\\\' is")
            elif char not in _PLAIN:
                self._fail("a string must be printable ASCII")
            chars.append(char)

    def _location(self, pos: int) -> Location:
        counted, line = self._counted
        if pos < counted:
            counted, line = 0, 1
        line += self._text.count("\n", counted, pos)
        self._counted = (pos, line)
        return Location(self._path, line, self._parsed.pragmas)

    def _fail(self, message: str) -> NoReturn:
        raise self._location(self._start).error(message)

    # Expressions

    def _expression(self, depth: int = 0) -> object:
        kind = self._kind
        if depth > _DEPTH:
            self._fail("nested too deeply")
        if kind in ("string", "bool"):
            value = self._value
            self._next()
            return value
        if kind == "{":
            self._next()
            return self._object(depth + 1)
        if kind != "[":
            self._fail("expected '{', '[', a string, true or false")
        self._next()
        return self._array(depth + 1)

    def _object(self, depth: int) -> dict[str, object]:
        members: dict[str, object] = {}
        if self._kind == "}":
            self._next()
            return members
        while True:
            if self._kind != "string":
                self._fail("expected a string, the name of a member")
            key = str(self._value)
            if key in members:
                self._fail(f"key '{key}' appears twice")
            self._next()
            if self._kind != ":":
                self._fail("expected ':'")
            self._next()
            members[key] = self._expression(depth)
            if self._kind == "}":
                self._next()
                return members
            if self._kind != ",":
                self._fail("expected ',' or '}'")
            self._next()

    def _array(self, depth: int) -> list[object]:
        elements: list[object] = []
        if self._kind == "]":
            self._next()
            return elements
        while True:
            elements.append(self._expression(depth))
            if self._kind == "]":
                self._next()
                return elements
            if self._kind != ",":
                self._fail("expected ',' or ']'")
            self._next()

    # Documentation comments

    def _comment(self) -> None:
        doc = Doc(self._location(self._start))
        first = True
        pos = self._start
        opened = False
        while match := _DOC_LINE.match(self._text, pos):
            pos = match.end()
            location = self._location(match.start(1) - 1)
            line = match[1]
            if line.startswith("#"):
                if line != "#":
                    raise location.error("nothing may follow '##' on its line")
                if opened:
                    self._finish(doc)
                    self._doc = doc
                    self._pos = pos
                    self._next()
                    return
                opened = True
                continue
            if line and line[0] != " ":
                raise location.error("a space must follow '#'")
            line = line[1:]
            if line.startswith("="):
                if doc.symbol:
                    raise location.error("a definition's documentation cannot have a heading")
                if not first:
                    self._finish(doc)
                    doc = Doc(location)
                    first = True
            if first:
                doc.first_line(line, location)
                first = False
            else:
                doc.line(line, location)
        self._pos = pos
        self._next()
        self._fail("documentation comment must end with '##'")

    def _finish(self, doc: Doc) -> None:
        doc.close()
        if doc.symbol is None:
            self._parsed.sequence.append(doc)

    def _expect_no_doc(self) -> None:
        if self._doc is not None and self._doc.symbol is not None:
            raise self._doc.location.error(
                f"documentation of '{self._doc.symbol}' is not followed by its definition"
            )
        self._doc = None

    # Top-level expressions

    def _define(self, value: dict[str, object], location: Location) -> None:
        if self._doc is not None and self._doc.symbol is None:
            raise self._doc.location.error(
                "documentation right before a definition must name it: '# @NAME:'"
            )
        definition = Definition(value, location, self._doc)
        self._parsed.definitions.append(definition)
        self._parsed.sequence.append(definition)

    def _include(self, value: dict[str, object], location: Location) -> None:
        name = value["include"]
        if len(value) != 1:
            raise location.error("'include' must be the only key of its expression")
        if not isinstance(name, str):
            raise location.error("value of 'include' must be a string")
        path = os.path.join(os.path.dirname(self._path), name)
        absolute = os.path.abspath(path)
        if absolute in self._includers:
            raise location.error(f"'{name}' includes itself")
        if absolute in self._parsed.files:
            return
        try:
            text = _read(path)
        except OSError as error:
            raise location.error(f"cannot read '{path}': {error.strerror}") from None
        self._parsed.files.append(absolute)
        _File(path, text, self._parsed, (*self._includers, absolute)).parse()

    def _pragma(self, value: dict[str, object], location: Location) -> None:
        settings = value["pragma"]
        if len(value) != 1:
            raise location.error("'pragma' must be the only key of its expression")
        if not isinstance(settings, dict):
            raise location.error("value of 'pragma' must be an object")
        pragmas = self._parsed.pragmas
        for name, setting in settings.items():
            if name == "doc-required":
                if not isinstance(setting, bool):
                    raise location.error(f"pragma '{name}' must be true or false")
                pragmas.doc_required = setting and self._parsed.documented
            elif name == "command-name-exceptions":
                pragmas.command_names = _names(name, setting, location)
            elif name == "command-returns-exceptions":
                pragmas.command_returns = _names(name, setting, location)
            elif name == "member-name-exceptions":
                pragmas.member_names = _names(name, setting, location)
            elif name == "documentation-exceptions":
                # Later releases of QEMU list undocumented definitions here; this parser does not
                # require descriptions of members.
                _names(name, setting, location)
            else:
                raise location.error(f"'{name}' is not a pragma")


def _names(pragma: str, value: object, location: Location) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise location.error(f"pragma '{pragma}' must be an array of strings")
    return frozenset(value)
