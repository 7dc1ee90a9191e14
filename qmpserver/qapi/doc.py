"""Documentation comments: the text between two `##` lines, split into its sections.

This module is the grammar of a comment; `resolve` checks that the documented names exist. The
indentation of continuation lines may follow the style of QEMU up to 8.0 (under the text's first
character) or the later one (any indentation, the same throughout the section).
"""

import re

from qmpserver.qapi.source import Location

_MEMBER = re.compile(r"@(\S*):(?:\s+|$)")
_TAG = re.compile(r"(Returns|Since|Errors|Notes?|Examples?|TODO):(?: +|$)")
_MISPLACED = re.compile(r"@\S+:")
_ONCE = frozenset({"Returns", "Since", "Errors"})


class Section:
    """A section of a documentation comment.

    Attributes:
        tag: Its heading, or the name of the member that it describes, or None.
        text: Its text, once it is closed.
        after_blank: Whether its last line so far is empty.
    """

    def __init__(
        self, tag: str | None, location: Location, first: str = "", open_end: bool = False
    ) -> None:
        self.tag = tag
        self.location = location
        self.text = ""
        self.after_blank = False
        self._open_end = open_end
        self._lines = [first] if first else []
        # If the heading's line has text, the next line sets the indentation; otherwise there is
        # none.
        self._indent = -1 if first else 0

    def ends_before(self, line: str) -> bool:
        """Return whether this line, which is not indented, starts another section."""
        return bool(line) and self.after_blank and not self._open_end

    def append(self, line: str, location: Location) -> None:
        """Append one line of the comment."""
        self.after_blank = not line
        if line and self._indent:
            indent = len(line) - len(line.lstrip())
            if self._indent < 0:
                self._indent = indent
            if indent < self._indent or not indent:
                raise location.error("line is indented less than the text that it continues")
        self._lines.append(line[self._indent :] if self._indent > 0 else line)

    def close(self) -> None:
        """End the section and set its `text`."""
        self.text = "\n".join(self._lines).strip()


class Doc:
    """One documentation comment: of the definition `symbol`, or free-form if that is None."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.symbol: str | None = None
        self.body = Section(None, location, open_end=True)
        self.members: dict[str, Section] = {}
        self.features: dict[str, Section] = {}
        self.sections: list[Section] = []
        self._current = self.body
        # The dict for the next descriptions; None where descriptions are not allowed.
        self._described: dict[str, Section] | None = None

    def has(self, tag: str) -> bool:
        """Return whether there is a section with this heading."""
        return any(section.tag == tag for section in self.sections)

    def first_line(self, line: str, location: Location) -> None:
        """Parse the line after the opening `##`, which may name a definition."""
        if not line.startswith("@"):
            self.line(line, location)
            return
        if not line.endswith(":"):
            raise location.error("the line that names the documented definition must end with ':'")
        self.symbol = line[1:-1]
        if not self.symbol:
            raise location.error("a definition's name must follow '@'")
        self._described = self.members

    def line(self, line: str, location: Location) -> None:
        """Parse another line, without its `# `."""
        if self.symbol is not None and line and line[0] != " ":
            if match := _MEMBER.match(line):
                self._open_member(match[1], line[match.end() :].rstrip(), location)
                return
            if match := _TAG.match(line):
                self._open_section(match[1], line[match.end() :].rstrip(), location)
                return
            if line == "Features:" and (self._current is self.body or self._current.after_blank):
                self._described = self.features
                return
            if self._current.ends_before(line):
                self._open_section(None, "", location)
        if match := _MISPLACED.match(line):
            raise location.error(f"'{match[0]}' describes a member, which is not possible here")
        self._current.append(line.rstrip(), location)

    def close(self) -> None:
        """End the comment."""
        section = self._current
        section.close()
        if section is not self.body and not section.text:
            raise section.location.error(f"section '{section.tag}' has no text")

    def _open_member(self, name: str, text: str, location: Location) -> None:
        if self._described is None:
            raise location.error(f"'@{name}:' must come before the tagged and closing sections")
        if not name:
            raise location.error("a name must stand between '@' and ':'")
        if name in self._described:
            raise location.error(f"'@{name}:' is described twice")
        section = self._described[name] = Section(name, location, text)
        self._open(section)

    def _open_section(self, tag: str | None, text: str, location: Location) -> None:
        if tag in _ONCE and self.has(tag):
            raise location.error(f"section '{tag}' appears twice")
        # Text that begins on the line after its heading may have several paragraphs.
        section = Section(tag, location, text, open_end=not text)
        self.sections.append(section)
        self._described = None
        self._open(section)

    def _open(self, section: Section) -> None:
        self.close()
        self._current = section
