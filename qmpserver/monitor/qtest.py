"""QEMU's qtest: a test reads and writes the machine's memory, ports and clock, a line each.

Tests of QEMU's own start a machine with `-qtest` and talk to this beside QMP. What a machine lacks
answers as in QEMU what nothing is behind: memory reads as zero, ports as ones, and writes go
nowhere.

Source of the protocol: QEMU, system/qtest.c, the comment at its beginning.
"""

import base64
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, TextIO

from qmpserver.monitor.channel import Channel

__all__ = ["Memory", "Qtest"]

_WIDTHS = {"b": 1, "w": 2, "l": 4, "q": 8}
_MAX_LINE = 8 << 20
_MAX_SIZE = 2 << 20  # its hexadecimal digits fit a line
_MAX_ADDRESS = (1 << 64) - 1


class Memory(Protocol):
    """Guest-physical memory."""

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes; where there is no memory they are zero."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write bytes where there is memory; the guest may run meanwhile."""


class NoMemory:
    """The memory of a machine without any."""

    def read(self, address: int, size: int) -> bytes:
        """Return zeros."""
        return bytes(size)

    def write(self, address: int, data: bytes) -> None:
        """Do nothing."""


class _RefusedError(Exception):
    """A line cannot be executed; the text is what follows FAIL."""


class _Command(NamedTuple):
    """What a line's first word calls, and the least and the most arguments that it takes."""

    function: Callable[..., str]
    least: int = 0
    most: int = 0


class Qtest:
    """The commands, for one device at a time. Use it from the event loop's thread only.

    Args:
        memory: The machine's.
        log: Where the lines are noted, both ways; None for nowhere.
    """

    def __init__(self, memory: Memory | None = None, log: TextIO | None = None) -> None:
        self._memory = memory or NoMemory()
        self._log = log
        self._began = time.monotonic()
        self._clock = 0
        self._commands = {
            "endianness": _Command(lambda: "little"),
            "clock_step": _Command(self._step, 0, 1),
            "clock_set": _Command(self._set_clock, 1),
            "read": _Command(self._read, 2),
            "b64read": _Command(self._read_base64, 2),
            "write": _Command(self._write, 3),
            "b64write": _Command(self._write_base64, 3),
            "memset": _Command(self._fill, 3),
            "irq_intercept_in": _Command(self._find_device, 1),
            "irq_intercept_out": _Command(self._find_device, 1, 2),
        }
        for letter, width in _WIDTHS.items():
            self._commands[f"read{letter}"] = _Command(partial(self._load, width), 1)
            self._commands[f"write{letter}"] = _Command(partial(self._store, width), 2)
            if width < 8:  # ports have no more
                self._commands[f"in{letter}"] = _Command(partial(self._input, width), 1)
                self._commands[f"out{letter}"] = _Command(self._output, 2)

    def attach(self, channel: Channel) -> None:
        """Serve a client."""
        channel.start(_Client(channel, self))

    def execute(self, line: str) -> str:
        """Execute a line and return the answer."""
        self._note("R", line)
        answer = self._answer(line.split())
        self._note("S", answer)
        return answer

    def _answer(self, words: list[str]) -> str:
        name, *arguments = words or [""]
        command = self._commands.get(name)
        if command is None:
            return f"FAIL Unknown command '{name}'"
        if not command.least <= len(arguments) <= max(command.least, command.most):
            return f"FAIL Expected {command.least} arguments to '{name}', not {len(arguments)}"
        try:
            return f"OK {command.function(*arguments)}".rstrip()
        except _RefusedError as error:
            return f"FAIL {error}"

    def _note(self, direction: str, line: str) -> None:
        if self._log is not None:
            self._log.write(f"[{direction} +{time.monotonic() - self._began:.6f}] {line}\n")
            self._log.flush()

    def _step(self, nanoseconds: str = "0") -> str:
        # Without a number QEMU steps to the next timer: there is none.
        self._clock += _number(nanoseconds)
        return str(self._clock)

    def _set_clock(self, nanoseconds: str) -> str:
        self._clock = max(self._clock, _number(nanoseconds))
        return str(self._clock)

    def _load(self, width: int, address: str) -> str:
        value = int.from_bytes(self._memory.read(_number(address), width), "little")
        return f"0x{value:016x}"

    def _store(self, width: int, address: str, value: str) -> str:
        data = _number(value) & (1 << 8 * width) - 1
        self._memory.write(_number(address), data.to_bytes(width, "little"))
        return ""

    def _input(self, width: int, port: str) -> str:
        _number(port)
        return f"0x{(1 << 8 * width) - 1:04x}"

    def _output(self, port: str, value: str) -> str:
        _number(port)
        _number(value)
        return ""

    def _read(self, address: str, size: str) -> str:
        return "0x" + self._memory.read(_number(address), _size(size)).hex()

    def _read_base64(self, address: str, size: str) -> str:
        return base64.b64encode(self._memory.read(_number(address), _size(size))).decode()

    def _write(self, address: str, size: str, data: str) -> str:
        try:
            given = bytes.fromhex(data.removeprefix("0x"))
        except ValueError:
            raise _RefusedError("Expected hexadecimal digits, two a byte") from None
        length = _size(size)
        self._memory.write(_number(address), given[:length].ljust(length, b"\0"))
        return ""

    def _write_base64(self, address: str, size: str, data: str) -> str:
        try:
            given = base64.b64decode(data, validate=True)
        except ValueError:
            raise _RefusedError("Expected base64") from None
        self._memory.write(_number(address), given[: _size(size)])
        return ""

    def _fill(self, address: str, size: str, value: str) -> str:
        self._memory.write(_number(address), bytes([_number(value) & 0xFF]) * _size(size))
        return ""

    def _find_device(self, path: str, *_names: str) -> str:
        raise _RefusedError("Unknown device")


class _Client:
    """One client; the `Owner` of its channel."""

    def __init__(self, channel: Channel, qtest: Qtest) -> None:
        self._channel = channel
        self._qtest = qtest
        self._waiting = bytearray()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the channel."""
        self._waiting += data
        self._run()

    def eof_received(self) -> None:
        """Disconnect."""
        self._channel.close()

    def drained(self) -> None:
        """Go on after a pause: the answers have been taken."""
        self._channel.resume()
        self._run()

    def channel_closed(self) -> None:
        """Forget what was received."""
        self._waiting.clear()

    def _run(self) -> None:
        while not self._channel.unsent and b"\n" in self._waiting:
            line, _, self._waiting = self._waiting.partition(b"\n")
            answer = self._qtest.execute(line.decode(errors="replace").rstrip("\r"))
            self._channel.write(answer.encode() + b"\n")
        if self._channel.unsent:
            self._channel.pause()
        elif len(self._waiting) > _MAX_LINE:
            self._channel.close()


def _number(text: str) -> int:
    """Return a number, in C's notations."""
    digits = text.removeprefix("-")
    try:
        octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
        value = int(text, 8 if octal else 0)
    except ValueError:
        raise _RefusedError(f"Expected a number, not '{text}'") from None
    if not -(1 << 63) <= value <= _MAX_ADDRESS:
        raise _RefusedError(f"Expected 64 bits, not '{text}'")
    return value & _MAX_ADDRESS


def _size(text: str) -> int:
    size = _number(text)
    if not 0 < size <= _MAX_SIZE:
        raise _RefusedError(f"Expected 1 to {_MAX_SIZE} bytes, not '{text}'")
    return size
