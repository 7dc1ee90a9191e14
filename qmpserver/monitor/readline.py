"""Line editing of the human monitor, as a pure state machine.

Bytes from a terminal go in; output and entered lines come out. Keys, history and
escape sequences are those of QEMU.
"""

import enum
from collections.abc import Callable

__all__ = ["LineEditor"]

_MAX_LINE = 4095
_MAX_KEYS = 256  # per `feed`
_MAX_OUTPUT = 16384  # bytes per `feed`; a key may redraw a line of 4095
_MAX_HISTORY = 64
_MAX_PARAMETER = 999
_SCREEN_WIDTH = 80
_LEFT, _RIGHT, _ERASE_TO_END = b"\x1b[D", b"\x1b[C", b"\x1b[K"
_CLEAR_SCREEN = b"\x1b[2J\x1b[1;1H"

Complete = Callable[[str], tuple[str, list[str]]]


class _Escape(enum.Enum):
    """The part of an escape sequence that has been received."""

    NONE = enum.auto()
    ESCAPE = enum.auto()
    CSI = enum.auto()
    SS3 = enum.auto()


class LineEditor:
    """Edits one line at a time.

    Not thread-safe.

    Args:
        prompt: The prompt.
        complete: Returns, for the line up to the cursor, its last word and its completions.
    """

    def __init__(self, prompt: str, complete: Complete | None = None) -> None:
        self._prompt = prompt.encode()
        self._complete = complete
        self._output = bytearray()
        self._line = bytearray()
        self._cursor = 0
        self._shown = b""
        self._shown_cursor = 0
        self._escape = _Escape.NONE
        self._parameter = 0
        self._history: list[bytes] = []
        self._recalled: int | None = None

    def show_prompt(self) -> None:
        """Show the prompt for a new line."""
        self._output += self._prompt
        self._shown = b""
        self._shown_cursor = 0
        self._escape = _Escape.NONE

    @property
    def history(self) -> list[str]:
        """The entered lines without duplicates, the newest last."""
        return [line.decode(errors="surrogateescape") for line in self._history]

    def take_output(self) -> bytes:
        """Return the output since the last call."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def feed(self, data: bytes) -> tuple[str | None, bytes]:
        """Take bytes up to the end of a line, or until they were many or made much output.

        Returns:
            The entered line, or None if it has not ended, and the remaining bytes, to be
            fed later.
        """
        for index, byte in enumerate(data[:_MAX_KEYS]):
            if self._escape is _Escape.NONE and byte in b"\r\n":
                return self._enter(), data[index + 1 :]
            self._key(byte)
            self._update()
            if len(self._output) > _MAX_OUTPUT:
                return None, data[index + 1 :]
        return None, data[_MAX_KEYS:]

    def _enter(self) -> str:
        line = bytes(self._line)
        if line:
            self._remember(line)
        self._recalled = None
        self._output += b"\r\n"
        self._line.clear()
        self._cursor = 0
        self._shown = b""
        self._shown_cursor = 0
        return line.decode(errors="surrogateescape")

    def _key(self, byte: int) -> None:
        match self._escape:
            case _Escape.NONE:
                self._plain_key(byte)
            case _Escape.ESCAPE:
                self._parameter = 0
                self._escape = {0x5B: _Escape.CSI, 0x4F: _Escape.SS3}.get(byte, _Escape.NONE)
            case _Escape.CSI if chr(byte) in "0123456789":
                self._parameter = min(self._parameter * 10 + byte - 0x30, _MAX_PARAMETER)
            case _Escape.CSI:
                self._escape = _Escape.NONE
                self._csi_key(chr(byte))
            case _Escape.SS3:
                self._escape = _Escape.NONE
                if byte == ord("F"):
                    self._cursor = len(self._line)
                elif byte == ord("H"):
                    self._cursor = 0

    def _plain_key(self, byte: int) -> None:
        match byte:
            case 0x01:
                self._cursor = 0
            case 0x04:
                del self._line[self._cursor : self._cursor + 1]
            case 0x05:
                self._cursor = len(self._line)
            case 0x08 | 0x7F:
                if self._cursor:
                    self._cursor -= 1
                    del self._line[self._cursor]
            case 0x09:
                self._fill_in()
            case 0x0C:
                self._output += _CLEAR_SCREEN
                self.show_prompt()
            case 0x17:
                self._delete_word()
            case 0x1B:
                self._escape = _Escape.ESCAPE
            case 0x9B:
                self._escape = _Escape.CSI
                self._parameter = 0
            case _ if byte >= 0x20:
                self._insert(bytes((byte,)))

    def _csi_key(self, key: str) -> None:
        if key == "~":
            key = {1: "home", 3: "delete", 4: "end"}.get(self._parameter, "")
        match key:
            case "A" | "F":
                self._recall(-1)
            case "B" | "E":
                self._recall(1)
            case "C":
                self._cursor = min(self._cursor + 1, len(self._line))
            case "D":
                self._cursor = max(self._cursor - 1, 0)
            case "home":
                self._cursor = 0
            case "delete":
                del self._line[self._cursor : self._cursor + 1]
            case "end":
                self._cursor = len(self._line)

    def _insert(self, text: bytes) -> None:
        if len(self._line) + len(text) <= _MAX_LINE:
            self._line[self._cursor : self._cursor] = text
            self._cursor += len(text)

    def _delete_word(self) -> None:
        before = bytes(self._line[: self._cursor]).rstrip()
        start = before.rfind(b" ") + 1
        del self._line[start : self._cursor]
        self._cursor = start

    def _remember(self, line: bytes) -> None:
        """Move `line` to the end of the history."""
        if line in self._history:
            self._history.remove(line)
        self._history.append(line)
        del self._history[:-_MAX_HISTORY]

    def _recall(self, step: int) -> None:
        if self._recalled is None:
            if step > 0 or not self._history:
                return
            self._recalled = len(self._history)
        if self._recalled + step < 0:
            return
        self._recalled += step
        if self._recalled < len(self._history):
            self._line[:] = self._history[self._recalled]
        else:
            self._line.clear()
            self._recalled = None
        self._cursor = len(self._line)

    def _fill_in(self) -> None:
        if self._complete is None:
            return
        before = self._line[: self._cursor].decode(errors="surrogateescape")
        word, choices = self._complete(before)
        choices = sorted(set(choices))
        if not choices:
            return
        first, last = choices[0], choices[-1]
        pairs = enumerate(zip(first, last, strict=False))
        common = next((first[:index] for index, (a, b) in pairs if a != b), first)
        if len(choices) == 1:
            self._insert(f"{common[len(word) :]} ".encode(errors="replace"))
            return
        self._insert(common[len(word) :].encode(errors="replace"))
        width = min(max(10, *(len(choice) + 2 for choice in choices)), _SCREEN_WIDTH)
        columns = _SCREEN_WIDTH // width
        self._output += b"\r\n"
        for start in range(0, len(choices), columns):
            row = "".join(choice.ljust(width) for choice in choices[start : start + columns])
            self._output += row.encode(errors="replace") + b"\r\n"
        self.show_prompt()

    def _update(self) -> None:
        """Show the current line and cursor."""
        line = bytes(self._line)
        if line != self._shown:
            self._output += _LEFT * self._shown_cursor + line + _ERASE_TO_END
            self._shown = line
            self._shown_cursor = len(line)
        steps = self._cursor - self._shown_cursor
        self._output += _RIGHT * steps if steps > 0 else _LEFT * -steps
        self._shown_cursor = self._cursor
