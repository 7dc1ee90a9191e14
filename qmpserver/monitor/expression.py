"""The human monitor's integer expressions, as QEMU evaluates them: 64 bits, signed, wrapping.

Its precedence is its own: `* / %` bind closest, then `& | ^`, then `+ -`.
"""

import re
from collections.abc import Callable

__all__ = ["SPACE", "ExpressionError", "evaluate", "skip_space"]

SPACE = " \t\n\v\f\r"
_PRECEDENCE = {"*": 3, "/": 3, "%": 3, "&": 2, "|": 2, "^": 2, "+": 1, "-": 1}
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")


class ExpressionError(Exception):
    """An invalid expression; the message is QEMU's."""


def evaluate(text: str, start: int) -> tuple[int, int]:
    """Evaluate the expression at `start`, as far as it extends.

    The function does not recurse: a line can hold more parentheses than Python's stack.

    Returns:
        Its value and the position of its end.

    Raises:
        ExpressionError: The expression is invalid.
    """
    values: list[int] = []
    pending: list[tuple[str, int]] = []  # operators; precedence 4 for a prefix, 0 for a parenthesis
    depth = 0
    position = skip_space(text, start)
    while True:
        head = text[position : position + 1]
        if head and head in "+-~(":
            pending.append((head, 0 if head == "(" else 4))
            depth += head == "("
            position = skip_space(text, position + 1)
            continue
        value, position = _operand(text, position)
        values.append(value)
        _reduce(values, pending, 3)
        while depth and text[position : position + 1] == ")":
            _reduce(values, pending, 1)
            pending.pop()
            depth -= 1
            position = skip_space(text, position + 1)
            _reduce(values, pending, 3)
        head = text[position : position + 1]
        if head not in _PRECEDENCE:
            break
        _reduce(values, pending, _PRECEDENCE[head])
        pending.append((head, _PRECEDENCE[head]))
        position = skip_space(text, position + 1)
    if depth:
        raise ExpressionError("')' expected")
    _reduce(values, pending, 1)
    return values[0], position


def skip_space(text: str, position: int) -> int:
    """Return the position of the first character from `position` on that is not white space."""
    while position < len(text) and text[position] in SPACE:
        position += 1
    return position


def _operand(text: str, position: int) -> tuple[int, int]:
    head = text[position : position + 1]
    if not head:
        raise ExpressionError("unexpected end of expression")
    if head == "'":
        if position + 1 == len(text):
            raise ExpressionError("character constant expected")
        if text[position + 2 : position + 3] != "'":
            raise ExpressionError("missing terminating ' character")
        return ord(text[position + 1]), skip_space(text, position + 3)
    if head == "$":
        # No command of this server shows a vCPU's registers.
        raise ExpressionError("unknown register")
    number = _NUMBER.match(text, position)
    if number is None:
        raise ExpressionError(f"invalid char '{head}' in expression")
    digits = number[0]
    octal = digits.startswith("0") and digits.isdigit()
    # Python refuses to convert such a long decimal number; it is too large anyway.
    huge = len(digits) > 4000 and not digits.startswith("0")
    value = 1 << 64 if huge else int(digits, 8 if octal else 0)
    if value >= 1 << 64:
        raise ExpressionError("number too large")
    return _wrap(value), skip_space(text, number.end())


def _reduce(values: list[int], pending: list[tuple[str, int]], precedence: int) -> None:
    """Apply the pending operators of at least this precedence."""
    while pending and pending[-1][1] >= precedence:
        operator, binds = pending.pop()
        right = values.pop()
        if binds == 4:
            values.append(_wrap(_PREFIX[operator](right)))
        else:
            values.append(_wrap(_BINARY[operator](values.pop(), right)))


def _wrap(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _divide(left: int, right: int) -> int:
    if right == 0:
        raise ExpressionError("division by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


_PREFIX: dict[str, Callable[[int], int]] = {
    "+": lambda value: value,
    "-": lambda value: -value,
    "~": lambda value: ~value,
}
_BINARY: dict[str, Callable[[int, int], int]] = {
    "*": lambda left, right: left * right,
    "/": _divide,
    "%": lambda left, right: left - right * _divide(left, right),
    "&": lambda left, right: left & right,
    "|": lambda left, right: left | right,
    "^": lambda left, right: left ^ right,
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
}
