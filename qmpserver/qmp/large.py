"""Large values: strings in pieces, and JSON values kept flat, to be handled in steps.

A single operation on a large `str`, `list` or `dict` may take longer than others may have to
wait: to join, to hash, to sort, to grow and even to free one. Nothing here does so at once. Where
a generator yields None, its caller may do something else before it goes on.

Nested values are kept in one flat list, without containers that the garbage collector would have
to walk. `parser` builds them, `writer` writes them.
"""

import re
from array import array
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from qmpserver.qmp.errors import CommandError
from qmpserver.qmp.order import BucketSum, bucket
from qmpserver.qmp.text import decode

__all__ = [
    "PIECE",
    "Large",
    "LongError",
    "LongString",
    "Name",
    "Steps",
    "Tape",
    "bucket_in_steps",
    "refusal",
]

PIECE = 1024
"""Bytes or characters of a string that are handled in one step, if each may need a look."""

_VALUES = 256  # that are visited in one step
_FREED = 2048  # values that are freed in one step
_SMALL_VALUES = 64
_SMALL_TEXT = 4096  # characters
_FOUR_BYTES = re.compile(rb"[\xf0-\xff]")
_SHOWN = 100  # characters of a long string in logs

Steps = Generator[None, None, None]


class LongString:
    """A string in pieces, which is compared by a digest of its contents.

    Attributes:
        pieces: Its parts in modified UTF-8, each of at most a few KiB.
        memory: The bytes that a `str` of it takes; 0 for one that has no digest.
    """

    __slots__ = ("_digest", "memory", "pieces")

    def __init__(self, pieces: list[bytes], digest: bytes = b"", memory: int = 0) -> None:
        self.pieces = pieces
        self.memory = memory
        self._digest = digest

    @classmethod
    def of(cls, parts: "Iterable[Name]") -> "LongString":
        """Return the concatenation of short and long strings, for output only."""
        pieces: list[bytes] = []
        for part in parts:
            pieces += part.pieces if isinstance(part, LongString) else [encode(part)]
        return cls(pieces)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LongString) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __str__(self) -> str:
        """Return the beginning, for logs."""
        return f"{self.beginning}..."

    def __repr__(self) -> str:
        return f"{self.beginning!r}..."

    def whole(self) -> str:
        """Return the string itself, which takes as long as it is long."""
        return "".join(map(decode, self.pieces))

    @property
    def beginning(self) -> str:
        """The first characters."""
        text = ""
        for piece in self.pieces:
            text += decode(piece)
            if len(text) >= _SHOWN:
                break
        return text[:_SHOWN]


Name = str | LongString


def bucket_in_steps(name: Name) -> Generator[None, None, int]:
    """Return the bucket in which QEMU's dictionary keeps `name`; a short one takes no step."""
    if isinstance(name, str):
        return bucket(name)
    total = BucketSum()
    for piece in name.pieces:
        total.add(piece)
        yield
    return total.bucket


class Collector:
    """Collects the pieces of a long string, in order."""

    __slots__ = ("_digest", "_length", "_width", "pieces")

    def __init__(self) -> None:
        import hashlib  # for long strings alone; the program imports it before

        self.pieces: list[bytes] = []
        self._digest = hashlib.blake2b()
        self._length = 0
        self._width = 1

    def add(self, text: str) -> None:
        """Add a piece."""
        if text:
            piece = encode(text)
            self.pieces.append(piece)
            self._digest.update(piece)
            self._length += len(text)
            if len(piece) != len(text):
                self._width = max(self._width, 4 if _FOUR_BYTES.search(piece) else 2)

    def string(self) -> LongString:
        """Return the string."""
        return LongString(self.pieces, self._digest.digest(), self._length * self._width)


def encode(text: str) -> bytes:
    """Return `text` in modified UTF-8."""
    raw = text.encode("utf-8", "surrogatepass")
    return raw.replace(b"\0", b"\xc0\x80")


class LongError(CommandError):
    """An error with a long text.

    Attributes:
        text: The text; `desc` is its beginning.
    """

    def __init__(self, text: LongString, error_class: object = "GenericError") -> None:
        super().__init__(text, error_class)
        self.text = text


def refusal(*parts: Name, error_class: str = "GenericError") -> CommandError:
    """Return the error whose text is the concatenation of `parts`."""
    if any(isinstance(part, LongString) for part in parts):
        return LongError(LongString.of(parts), error_class)
    return CommandError("".join(map(str, parts)), error_class)


class Tape:
    """A JSON value in the order of its text, without nesting.

    A container is one entry, the type `dict` or `list`, before those of its contents; a member is
    two values, its name first.

    Attributes:
        values: The entries.
        ends: For each entry, the index after its value.
    """

    __slots__ = ("ends", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.ends = array("I")

    def release(self) -> Steps:
        """Free the contents in steps."""
        values = self.values
        while values:
            last = values[-_FREED:]
            del values[-_FREED:]
            for value in last:
                if isinstance(value, LongString):
                    while value.pieces:
                        del value.pieces[-_VALUES:]
                        yield
            del last, value
            yield


class Large:
    """A value on a tape."""

    __slots__ = ("start", "tape")

    def __init__(self, tape: Tape, start: int = 0) -> None:
        self.tape = tape
        self.start = start

    @property
    def value(self) -> Any:
        """A scalar or `LongString`; of a container its type, `dict` or `list`."""
        return self.tape.values[self.start]

    @property
    def shape(self) -> type:
        """The type of the value in Python."""
        value = self.value
        if isinstance(value, LongString):
            return str
        return value if value is dict or value is list else type(value)

    @property
    def size(self) -> int:
        """The number of values, nested ones and members' names included."""
        return self.tape.ends[self.start] - self.start

    def __repr__(self) -> str:
        return f"<{self.size} values>"

    def memory(self) -> Generator[None, None, int]:
        """Return the bytes that its strings take as `str`, in steps; a character may count as 4."""
        values = self.tape.values
        total = 0
        for number, index in enumerate(range(self.start, self.start + self.size)):
            value = values[index]
            if type(value) is str:
                total += len(value) * (1 if value.isascii() else 4)
            elif isinstance(value, LongString):
                total += value.memory
            if number % _VALUES == 0:
                yield
        return total

    def elements(self) -> "Iterator[Large | None]":
        """Yield the elements of a list, and None between steps."""
        tape = self.tape
        index, end = self.start + 1, tape.ends[self.start]
        number = 0
        while index < end:
            yield Large(tape, index)
            index = tape.ends[index]
            number += 1
            if number % _VALUES == 0:
                yield None

    def members(self) -> "Iterator[tuple[Name, Large] | None]":
        """Yield the members of an object, in order of insertion, and None between steps."""
        tape = self.tape
        index, end = self.start + 1, tape.ends[self.start]
        number = 0
        while index < end:
            yield tape.values[index], Large(tape, index + 1)
            index = tape.ends[index + 1]
            number += 1
            if number % _VALUES == 0:
                yield None

    def ordered_members(self) -> "Iterator[tuple[Name, Large] | None]":
        """Yield the members of an object, in QEMU's order, and None between steps."""
        buckets: dict[int, array[int]] = {}
        tape = self.tape
        number = 0
        for member in self.members():
            if member is None:
                continue
            name, value = member
            chosen = yield from bucket_in_steps(name)
            if chosen not in buckets:
                buckets[chosen] = array("I")
            buckets[chosen].append(value.start)
            number += 1
            if number % (_VALUES // 4) == 0:
                yield None
        for chosen in sorted(buckets):
            for index in reversed(buckets[chosen]):
                yield tape.values[index - 1], Large(tape, index)

    def small(self) -> Any:
        """Return the value as Python's own if it is small, else this object."""
        tape = self.tape
        if self.size > _SMALL_VALUES:
            return self
        entries = tape.values[self.start : self.start + self.size]
        length = 0
        for one in entries:
            if isinstance(one, LongString):
                return self
            if type(one) is str:
                length += len(one)
        return self.built() if length <= _SMALL_TEXT else self

    def built(self) -> Any:
        """Return the value as Python's own, at once."""
        tape = self.tape
        root: list[Any] = []
        open_: list[tuple[Any, int]] = [(root, self.start + self.size)]
        index = self.start
        while open_:
            container, end = open_[-1]
            if index >= end:
                open_.pop()
                continue
            name = None
            if type(container) is dict:
                name = tape.values[index]
                if isinstance(name, LongString):
                    name = name.whole()
                index += 1
            value = tape.values[index]
            if value is dict or value is list:
                value = value()
                open_.append((value, tape.ends[index]))
            elif isinstance(value, LongString):
                value = value.whole()
            if name is None:
                container.append(value)
            else:
                container[name] = value
            index += 1
        return root[0]
