"""Documentation comments: the text between two ``##`` lines, taken apart into its sections.

Here lives the grammar of the comment alone; whether what it describes exists is for `schema` to
say.  The indentation of continuation lines may follow the style of QEMU up to 8.0 (under the
text's first character) or the later one (any indentation, kept through the section).
"""

import re
from typing import NoReturn

from qmpserver.qapi.source import Location

_MEMBER = re.compile(r"@(\S*):(?:\s+|$)")
_TAG = re.compile(r"(Returns|Since|Errors|Notes?|Examples?|TODO):(?: +|$)")
_ONCE = frozenset({"Returns", "Since", "Errors"})


class Section:
    """A stretch of documentation text; ``tag`` is None where the text has no heading."""

    __slots__ = ("_blank", "_indent", "_lines", "_open", "location", "tag", "text")

    def __init__(
        self, tag: str | None, location: Location, first: str = "", open_end: bool = False
    ) -> None:
        self.tag = tag
        self.location = location
        self.text = ""
        self._open = open_end
        self._lines = [first] if first else []
        # With text on the heading's own line, the first line that follows sets the indentation;
        # else the text is not indented.
        self._indent = -1 if first else 0
        self._blank = False

    @property
    def after_blank(self) -> bool:
        """Whether the last line was empty."""
        return self._blank

    def ends_before(self, line: str) -> bool:
        """Say whether this line, which has no indentation, starts something new."""
        return bool(line) and self._blank and not self._open

    def append(self, line: str, location: Location) -> None:
        """Add one line, as it stands in the comment."""
        self._blank = not line
        if line and self._indent:
            indent = len(line) - len(line.lstrip())
            if self._indent < 0:
                self._indent = indent
            if indent < self._indent or not indent:
                raise location.error("line is indented less than the text that it continues")
        self._lines.append(line[self._indent :] if self._indent > 0 else line)

    def close(self) -> None:
        """End the section: now it has its `text`."""
        self.text = "\n".join(self._lines).strip()


class Doc:
    """One documentation comment: of a definition when `symbol` is set, free-form otherwise."""

    __slots__ = ("_current", "_state", "body", "features", "location", "members", "sections",
                 "symbol")  # fmt: skip

    def __init__(self, location: Location) -> None:
        self.location = location
        self.symbol: str | None = None
        self.body = Section(None, location, open_end=True)
        self.members: dict[str, Section] = {}
        self.features: dict[str, Section] = {}
        self.sections: list[Section] = []
        self._current = self.body
        self._state: dict[str, Section] | None = None

    def has(self, tag: str) -> bool:
        """Say whether there is a section under this heading."""
        return any(section.tag == tag for section in self.sections)

    def first_line(self, line: str, location: Location) -> None:
        """Take the line right after the opening ``##``, which may name a definition."""
        if not line.startswith("@"):
            self.line(line, location)
            return
        if not line.endswith(":"):
            raise location.error("the line that names the documented definition must end with ':'")
        self.symbol = line[1:-1]
        if not self.symbol:
            raise location.error("a definition's name must follow '@'")
        self._state = self.members

    def line(self, line: str, location: Location) -> None:
        """Take one more line, already without its ``# ``."""
        if self.symbol is None or not line or line[0] == " ":
            self._text(line, location)
            return
        if match := _MEMBER.match(line):
            self._open_member(match.group(1), line[match.end() :].rstrip(), location)
        elif match := _TAG.match(line):
            self._open_section(match.group(1), line[match.end() :].rstrip(), location)
        elif line == "Features:" and self._may_start_features():
            self._state = self.features
        elif self._current.ends_before(line):
            self._open_section(None, "", location)
            self._text(line, location)
        else:
            self._text(line, location)

    def close(self) -> "Doc":
        """End the comment."""
        self._close_current()
        return self

    def _may_start_features(self) -> bool:
        if self._state is not self.members:
            return False
        return self._current is self.body or self._current.after_blank

    def _text(self, line: str, location: Location) -> None:
        if line.startswith("@") and re.match(r"@\S+:", line):
            _misplaced(line, location)
        self._current.append(line.rstrip(), location)

    def _open_member(self, name: str, text: str, location: Location) -> None:
        if self._state is None:
            raise location.error(f"'@{name}:' must come before the tagged and closing sections")
        if not name:
            raise location.error("a name must stand between '@' and ':'")
        if name in self._state:
            raise location.error(f"'@{name}:' is described twice")
        self._state[name] = self._switch(Section(name, location, text))

    def _open_section(self, tag: str | None, text: str, location: Location) -> None:
        if tag in _ONCE and self.has(tag):
            raise location.error(f"section '{tag}' appears twice")
        self._state = None
        # Text that begins on the line after its heading may have several paragraphs.
        section = Section(tag, location, text, open_end=not text)
        self.sections.append(self._switch(section))

    def _switch(self, section: Section) -> Section:
        self._close_current()
        self._current = section
        return section

    def _close_current(self) -> None:
        section = self._current
        section.close()
        if section is not self.body and not section.text:
            raise section.location.error(f"section '{section.tag}' has no text")


def _misplaced(line: str, location: Location) -> NoReturn:
    name = line.split(":", 1)[0]
    raise location.error(f"'{name}:' describes a member, which has no place here")
