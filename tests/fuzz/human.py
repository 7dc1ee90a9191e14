"""The human monitor: keys, however they come, and the lines that they make.

Keys that come in pieces make the same lines and the same output. A line is parsed as a command of
the table, or refused with one line; an expression has the value that Python gives it.
"""

import contextlib
import random
from collections.abc import Iterator

from qmpserver.human import commands
from qmpserver.monitor.expression import ExpressionError, evaluate
from qmpserver.monitor.hmp import LineError, complete, help_text, parse
from qmpserver.monitor.readline import LineEditor
from qmpserver.releases import NEWEST
from tests.fuzz.explore import Case
from tests.fuzz.messages import TEXTS, pieces

LINES = 200  # in a case
COMMANDS = commands(NEWEST)
NAMES = [name for command in COMMANDS for name in command.name.split("|")]
BELOW = [name for command in COMMANDS for one in command.sub_table for name in one.name.split("|")]
WORDS = [*NAMES, *BELOW, *TEXTS, "on", "off", "0", "0x1f", "017", "-d", "-", "/x", '"a b"', '"a\\',
         "'", "'a'", "$rip", "18446744073709551615", "(", "))", "\\n"]  # fmt: skip
KEYS = [*(bytes([byte]) for byte in b"\x00\x01\x04\x05\x08\x09\x0c\x17\x1b\x7f\x9b \n\r~A9;"),
        b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\x1b[3~", b"\x1bOH", b"\x1b[999999~",
        b"\xc3\xa9", b"\xff"]  # fmt: skip
OPERATORS = ["+", "-", "*", "/", "%", "&", "|", "^"]


def check_keys(rng: random.Random) -> None:
    """Give keys at once, and in pieces."""
    words = rng.choices([*map(_encode, WORDS), b"in", b"info st"], k=rng.randint(1, 8))
    said = b"".join(word + rng.choice(KEYS) * rng.choice([*[1] * 60, 300]) for word in words)
    whole, torn = _shown([said]), _shown(pieces(rng, said))
    assert whole == torn, said


def _encode(text: str) -> bytes:
    return text.encode()


def _shown(packets: list[bytes]) -> tuple[list[str], bytes, list[str]]:
    """Return the lines that keys enter, the output, and the history."""
    editor = LineEditor("(qemu) ", lambda line: complete(COMMANDS, line))
    lines, output = [], b""
    for packet in packets:
        rest = packet
        while rest:
            line, rest = editor.feed(rest)
            if line is not None:
                lines.append(line)
            output += editor.take_output()
    return lines, output, editor.history


def check_line(rng: random.Random) -> None:
    """Parse a line, and ask for help about it."""
    line = rng.choice(["", " "]) + rng.choice(NAMES) + " " * rng.randrange(2)
    line += " ".join(rng.choices(WORDS, k=rng.randrange(4)))
    try:
        parsed = parse(COMMANDS, line)
    except LineError as error:
        assert str(error).endswith("\n"), line  # noqa: PT017 -- either is right
    else:
        if parsed is not None:
            keys = {one.split(":")[0] for one in parsed[0].args_type.split(",")}
            assert parsed[1].keys() <= keys, line
    word, choices = complete(COMMANDS, line)
    assert all(one.startswith(word) for one in choices), line
    assert not help_text(COMMANDS, line).endswith("\n\n")


def check_expression(rng: random.Random) -> None:
    """Evaluate an expression with parentheses, whose value Python knows."""
    text, value = expression(rng, rng.randrange(5))
    try:
        got, end = evaluate(text, 0)
    except ExpressionError as error:
        assert value is None, (text, value)
        assert str(error) == "division by zero"  # noqa: PT017
    else:
        assert (got, end) == (value, len(text)), text


def expression(rng: random.Random, depth: int) -> tuple[str, int | None]:
    """Make up an expression, and return its value; None if it divides by zero."""
    if not depth:
        number = rng.choice([0, 1, 7, 255, 1 << 31, (1 << 63) - 1, rng.randrange(1 << 63)])
        return rng.choice([str(number), hex(number), f"0{number:o}"]), number
    if rng.random() < 0.3:
        sign = rng.choice("+-~")
        text, value = expression(rng, depth - 1)
        made = None if value is None else {"+": value, "-": -value, "~": ~value}[sign]
        return f"{sign}({text})", made if made is None else _wrapped(made)
    operator = rng.choice(OPERATORS)
    (one, left), (two, right) = expression(rng, depth - 1), expression(rng, depth - 1)
    text = f"({one}){rng.choice(['', ' '])}{operator} ({two})"
    if left is None or right is None or (operator in "/%" and right == 0):
        return text, None
    quotient = abs(left) // abs(right) if operator in "/%" else 0
    quotient = quotient if (left < 0) == (right < 0) else -quotient
    values = {
        "+": left + right,
        "-": left - right,
        "*": left * right,
        "/": quotient,
        "%": left - quotient * right,
        "&": left & right,
        "|": left | right,
        "^": left ^ right,
    }
    return text, _wrapped(values[operator])


def _wrapped(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Each case has some lines."""

    def case(rng: random.Random) -> int:
        for _ in range(LINES):
            rng.choice([check_keys, check_line, check_line, check_expression])(rng)
        return LINES

    yield case
