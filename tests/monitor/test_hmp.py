"""The human monitor's language: expressions, arguments, help, completion."""

from typing import Any

import pytest

from qmpserver.monitor.expression import ExpressionError, evaluate
from qmpserver.monitor.hmp import HumanCommand, LineError, complete, help_text, parse, table


async def nothing(_monitor: object, **_arguments: object) -> str:
    return ""


def command(name: str, args_type: str, *sub_table: HumanCommand) -> HumanCommand:
    return HumanCommand(name, args_type, "PARAMS", f"does {name}", nothing, sub_table)


TABLE = table(
    command("stop|s", ""),
    command("help|?", "name:S?"),
    command("trace", "name:s,option:b,vcpu:i?"),
    command("log", "file:F,items:s?"),
    command("say", "loud:-l,quick:-q,times:l,what:S?"),
    command("info", "item:s?", *table(command("kvm", ""), command("name|n", "which:l"))),
)


def arguments(line: str) -> dict[str, Any]:
    parsed = parse(TABLE, line)
    assert parsed is not None
    return parsed[1]


@pytest.mark.parametrize(
    ("text", "value", "rest"),
    [
        ("10", 10, ""),
        ("0x1fG", 31, "G"),
        ("010", 8, ""),
        ("08", 0, "8"),
        ("0x", 0, "x"),
        (" 1 + 2 * 3 - 4 ", 3, ""),
        # Logic binds more closely than sums.
        ("1 | 2 + 4", 7, ""),
        ("1 + 2 | 4", 7, ""),
        ("1 + 6 & 3", 3, ""),
        ("2 * 3 & 4 ^ 1", 5, ""),
        ("(1 + 2) * 3 4", 9, "4"),
        ("-~+-5", -4, ""),
        ("-2 * -3", 6, ""),
        ("-7 / 2", -3, ""),
        ("-7 % 2", -1, ""),
        ("7 % -2", 1, ""),
        ("100 / 5 / 2", 10, ""),
        ("10 - 5 - 2", 3, ""),
        ("'a' + 1", 98, ""),
        ("' '", 32, ""),
        ("18446744073709551615", -1, ""),
        ("9223372036854775807 + 1", -(1 << 63), ""),
        ("-9223372036854775808 / -1", -(1 << 63), ""),
        ("5)", 5, ")"),
        ("(" * 9999 + "1" + ")" * 9999, 1, ""),
        ("-" * 9999 + "1", -1, ""),
        ("0" * 9999, 0, ""),
    ],
)
def test_expressions(text: str, value: int, rest: str) -> None:
    got, end = evaluate(text, 0)
    assert (got, text[end:]) == (value, rest)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "unexpected end of expression"),
        ("1 +", "unexpected end of expression"),
        ("(", "unexpected end of expression"),
        ("x", "invalid char 'x' in expression"),
        ("1 + * 2", "invalid char '*' in expression"),
        ("(1 2)", "')' expected"),
        ("((1)", "')' expected"),
        ("1 / 0", "division by zero"),
        ("1 % (2 - 2) + x", "division by zero"),
        ("18446744073709551616", "number too large"),
        ("9" * 9999, "number too large"),
        ("0x" + "f" * 9999, "number too large"),
        ("'", "character constant expected"),
        ("'ab'", "missing terminating ' character"),
        ("$rip", "unknown register"),
    ],
)
def test_wrong_expressions(text: str, fault: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        evaluate(text, 0)
    assert str(raised.value) == fault


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("s", {}),
        (" stop ", {}),
        ("help", {}),
        ("?  a  b ", {"name": "a  b "}),
        ("trace x on", {"name": "x", "option": True}),
        ('trace "a b\\n\\"" off 1+1', {"name": 'a b\n"', "option": False, "vcpu": 2}),
        ("log f", {"file": "f"}),
        ('log "a"b', {"file": "a", "items": "b"}),
        ("say 1", {"times": 1}),
        ("say -l -q 1", {"loud": True, "quick": True, "times": 1}),
        ("say -q 1 a b", {"quick": True, "times": 1, "what": "a b"}),
        ("say -l (1)x", {"loud": True, "times": 1, "what": "x"}),
        ("info", {}),
        ("info n 3", {"which": 3}),
    ],
)
def test_arguments(line: str, expected: dict[str, Any]) -> None:
    assert arguments(line) == expected


@pytest.mark.parametrize("line", ["", " ", "\t\n"])
def test_nothing_entered(line: str) -> None:
    assert parse(TABLE, line) is None


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("st", "unknown command: 'st'\n"),
        (" what is", "unknown command: ' what'\n"),
        ("info what is", "unknown command: 'info what'\n"),
        ("/", "unknown command: ''\n"),
        ("trace", 'trace: string expected\nTry "help trace" for more information\n'),
        ("trace x", "Expected 'on' or 'off'\nTry \"help trace\" for more information\n"),
        ("trace x onn", "Expected 'on' or 'off'\nTry \"help trace\" for more information\n"),
        (
            "trace x on -1",
            "'trace' has failed: integer is for 32-bit values\n"
            'Try "help trace" for more information\n',
        ),
        ("log", 'log: filename expected\nTry "help log" for more information\n'),
        ('log "f', 'log: filename expected\nTry "help log" for more information\n'),
        ('log f "\\q"', 'log: string expected\nTry "help log" for more information\n'),
        ("say -x 1", 'say: unsupported option -x\nTry "help say" for more information\n'),
        ("say -q -l 1", "invalid char 'l' in expression\nTry \"help say\" for more information\n"),
        (
            "s x",
            'stop|s: extraneous characters at the end of line\nTry "help s" for more information\n',
        ),
        (
            "info  n 1 2",
            "name|n: extraneous characters at the end of line\n"
            'Try "help info  n" for more information\n',
        ),
    ],
)
def test_wrong_lines(line: str, shown: str) -> None:
    with pytest.raises(LineError) as raised:
        parse(TABLE, line)
    assert str(raised.value) == shown


def test_help() -> None:
    assert help_text(TABLE, "").splitlines() == [
        f"{name} PARAMS -- does {name}"
        for name in ("help|?", "info", "log", "say", "stop|s", "trace")
    ]
    assert help_text(TABLE, "s x") == "stop|s PARAMS -- does stop|s\n"
    assert help_text(TABLE, "info") == (
        "info kvm PARAMS -- does kvm\ninfo name|n PARAMS -- does name|n\n"
    )
    assert help_text(TABLE, "info n") == "info name|n PARAMS -- does name|n\n"
    assert help_text(TABLE, "info x y") == "unknown command: 'info x'\n"
    assert help_text(TABLE, '"info') == ""


@pytest.mark.parametrize(
    ("line", "word", "choices"),
    [
        ("", "", ["help", "?", "info", "log", "say", "stop", "s", "trace"]),
        ("s", "s", ["say", "stop", "s"]),
        ("x", "x", []),
        ("info ", "", ["kvm", "name", "n"]),
        ("help in", "in", ["info"]),
        ("? info k", "k", ["kvm"]),
        ("stop ", "", []),
        ("x ", "", []),
        ('"in', "", []),
        ("a " * 20, "", []),
    ],
)
def test_completion(line: str, word: str, choices: list[str]) -> None:
    assert complete(TABLE, line) == (word, choices)
