"""The JSON dialect: accepted and refused input, error messages, recovery.

Words and places of errors were taken from QEMU 7.2's answers.
"""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import qmpserver.qmp.lexer
import qmpserver.qmp.parser
from qmpserver.qmp import ParseError, Parser
from qmpserver.qmp.plain import loads


def parse(data: bytes, *, fast: bool = True) -> list[Any]:
    return outcome(Parser(fast=fast).feed(data))


def outcome(messages: list[Any]) -> list[Any]:
    """Make errors comparable."""
    return [("error", m.desc) if isinstance(m, ParseError) else m for m in messages]


def error(words: str) -> tuple[str, str]:
    return "error", f"JSON parse error, {words}"


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (b'{"a": [1, true, null]}', [{"a": [1, True, None]}]),
        (b'{"a":1}{"b":2}\n{"c":3}', [{"a": 1}, {"b": 2}, {"c": 3}]),
        (b'{"a":\n1\r\n}', [{"a": 1}]),
        (b"{'it': '\\'s \"so\"'}", [{"it": '\'s "so"'}]),
        (b'{"a": "\xc3\xa9\xf0\x9d\x84\x9e"}', [{"a": "\u00e9\U0001d11e"}]),
        (b'{"a": "\\u00e9\\ud834\\udd1e\\/\\b"}', [{"a": "\u00e9\U0001d11e/\b"}]),
        (b'{"a": "\\u0000"}', [{"a": "\0"}]),
        (b'{"a": "\xc0\x80"}', [{"a": "\0"}]),
        (b"true 1 ", [True, 1]),
        (b"{} [] ", [{}, []]),
    ],
)
def test_accepted(data: bytes, messages: list[Any]) -> None:
    assert parse(data) == messages


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", float(2**64)),
        (b"-9223372036854775809", -float(2**63)),
        (b"1" + b"0" * 30, 1e30),
        (b"1" + b"0" * 400, float("inf")),
        (b"-0", 0),
        (b"1.0", 1.0),
        (b"1E2", 100.0),
        (b"2.5e-1", 0.25),
    ],
)
@pytest.mark.parametrize("fast", [True, False])
def test_numbers(text: bytes, value: float, fast: bool) -> None:
    [message] = parse(b'{"n": %b}' % text, fast=fast)
    assert message["n"] == value
    assert type(message["n"]) is type(value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "duplicate key"),
        (b"{1: 2}", "key is not a string in object"),
        (b"{{}: 2}", "key is not a string in object"),
        (b'{"a" 1}', "missing : in object pair"),
        (b'{"a"}', "missing : in object pair"),
        (b'{"a":}', "expecting value"),
        (b'{"a": 1,}', "expecting value"),
        (b'{"a": 1 "b": 2}', "expected separator in dict"),
        (b'{"a": 1]', "expected separator in dict"),
        (b"[1 2]", "expected separator in list"),
        (b"[1}", "expected separator in list"),
        (b"[,]", "expecting value"),
        (b"}", "expecting value"),
        (b": ", "expecting value"),
        (b"[nul]", "invalid keyword 'nul'"),
        (b'["\\x"]', "invalid escape sequence in string"),
        (b'["\\ud800"]', "\\ud800 is not a valid Unicode character"),
        (b'["\\uDC00"]', "\\uDC00 is not a valid Unicode character"),
        (b'["\\uD800\\u0041"]', "\\uD800 is not a valid Unicode character"),
        (b'["\\uffff"]', "\\uffff is not a valid Unicode character"),
        (b'["\\u12"]', '\\u12" is not a valid Unicode character'),
        (b'["\xed\xa0\x80"]', "invalid UTF-8 sequence in string"),
        (b'["\xc1\x81"]', "invalid UTF-8 sequence in string"),
        (b'["\xef\xbf\xbf"]', "invalid UTF-8 sequence in string"),
        (b'["\xc3"]', "invalid UTF-8 sequence in string"),
    ],
)
def test_refused_where_brackets_balance(data: bytes, words: str) -> None:
    assert parse(data + b'{"next": 1}') == [error(words), {"next": 1}]


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (
            b'{"a\n": 1}\n',
            [error("stray '\"a\n'"), error("expecting value"), 1, error("expecting value")],
        ),
        (b"{@\n{}", [error("stray '@'"), {}]),
        (b"[01]\n", [error("stray '01'"), error("expecting value")]),
        (b"[1.]{}", [error("stray '1.]'"), {}]),
        (b"[-x foo]", [error("stray '-x'"), error("expecting value")]),
        (b"\xff{}", [error("stray '\ufffd'"), {}]),
        (b'"\xfe', [error("stray '\"\ufffd'")]),
        (b"%s\x01", [error("stray '%'"), error("stray '\x01'")]),
        (b"@ skipped \t skipped ' \" 12 , ", [error("stray '@'"), error("expecting value")]),
        (b"\x00{}", [error("stray ''"), {}]),
        # After a zero, a number ends before all but a digit or a point.
        (b"[0e5]", [error("expected separator in list")]),
    ],
)
def test_lexical_errors_and_where_the_lexer_is_back(data: bytes, messages: list[Any]) -> None:
    assert parse(data) == messages


def test_an_unfinished_message_can_be_abandoned_with_a_control_character() -> None:
    parser = Parser()
    assert parser.feed(b'{"execute": "x", "arguments": {"a": [') == []
    assert outcome(parser.feed(b"\x1b")) == [error("stray '\x1b'")]
    assert parser.feed(b'{"execute": "y"}') == [{"execute": "y"}]


@pytest.mark.parametrize("fast", [True, False])
def test_nesting_limit(fast: bool) -> None:
    assert len(parse(b"[" * 1024 + b"]" * 1024, fast=fast)) == 1
    deep = parse(b"[" * 1025 + b"]", fast=fast)
    assert deep == [("error", "JSON nesting depth limit exceeded"), error("expecting value")]


def test_token_count_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert qmpserver.qmp.parser.MAX_TOKEN_COUNT == 2 << 20
    monkeypatch.setattr(qmpserver.qmp.parser, "MAX_TOKEN_COUNT", 6)
    assert parse(b"[1,2,3]", fast=False) == [("error", "JSON token count limit exceeded")]
    assert parse(b"[1,12]", fast=False) == [[1, 12]]


@pytest.mark.slow
def test_token_size_limit() -> None:
    parser = Parser()
    chunk = b"a" * (1 << 20)
    assert parser.feed(b'"') == []
    for _ in range(63):
        assert parser.feed(chunk) == []
    assert parser.feed(chunk[:-1]) == []
    # One byte more than the limit; what follows is taken as a fresh start.
    assert outcome(parser.feed(b'a{"b": 1}')) == [
        ("error", "JSON token size limit exceeded"),
        {"b": 1},
    ]


@pytest.mark.slow
def test_message_size_limit_counts_all_tokens() -> None:
    parser = Parser()
    chunk = b'"' + b"a" * (8 << 20) + b'",'
    assert parser.feed(b"[") == []
    for _ in range(7):
        assert parser.feed(chunk) == []
    assert outcome(parser.feed(chunk[:-1] + b" ")) == [("error", "JSON token size limit exceeded")]


def test_long_words_are_cut_as_qemu_cuts_them() -> None:
    [(_, desc)] = parse(b"a" * 3000 + b" ")
    assert desc == "JSON parse error, " + ("invalid keyword '" + "a" * 3000)[:1023]


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.sampled_from("ab :,{}[]'\\\"\n\u00e9\uffff\ud7ff0")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet="ab:\"'\\ \u00e9", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
_encoders = st.sampled_from(
    [
        lambda v: json.dumps(v).encode(),
        lambda v: json.dumps(v, ensure_ascii=False, separators=(",", ":")).encode(),
        lambda v: json.dumps(v, indent=1).replace('"', "'").encode(),
    ]
)
_fragments = st.sampled_from(
    [b"{", b"}", b"[", b"]", b",", b":", b'"', b"'", b"\\", b"\n", b"\t", b" ", b"0", b"-", b"1.",
     b"e5", b"E+", b"\x01", b"\xff", b"\x00", b"\xc3\xa9", b"\xc0\x80", b"\\u0041", b"\\ud834",
     b"true", b"null", b"nul", b'"a":1', b'"a"', b"-0", b"0e5", b"1e400", b"9" * 25, b"\x7f"]
)  # fmt: skip
_documents = st.lists(
    st.builds(lambda encode, value: encode(value), _encoders, _json) | _fragments, max_size=12
).map(b"".join) | st.lists(
    st.dictionaries(st.text(alphabet="ab", max_size=1), _json, max_size=3).map(
        lambda value: json.dumps(value).encode()
    )
    | st.sampled_from([b'{"a":1,"a":2}', b'{"a" :1,"a":2}', b'{"a":":","a":1}', b'{"a":0e5}']),
    max_size=4,
).map(b"\n".join)


def same(left: list[Any], right: list[Any]) -> bool:
    # repr() tells 1 from 1.0 from True, and -0.0 from 0.
    return repr(outcome(left)) == repr(outcome(right))


# What the library takes and the dialect does not, or takes otherwise; each in a plain line.
@example(b'{"a":"\xef\xbf\xbf"}')
@example(b'{"a":"\xc3\xa9\xef\xb7\x90"}')
@example(b'{"a":"\\uffff"}')
@example(b'{"a":"\\ud83f\\udfff"}')
@example(b'{"a":1,"\\u0061":2}')
@example(b'{"a":[{"b":":","b":1}]}')
@example(b'{"a":18446744073709551616}')
@example(b'{"a":-9223372036854775809}')
@example(b'{"a":NaN}')
@example(b'{"a":-Infinity}')
@example(b'{"a":"\x7f"}')
@example(b'{"a":\x0c1}')
@example(b'{"a":0e5}')
@example(b'{"a":1} \t\r\n')
@example(b'{"a":1}\x0b')
@example(b'{"a":1}{"b":2}')
@example(b'{"a":-0}')
@given(_documents)
def test_fast_path_gives_what_the_dialect_gives(data: bytes) -> None:
    assert same(Parser().feed(data), Parser(fast=False).feed(data))


def test_the_fast_path_leaves_deep_nesting_to_the_other() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        loads(b"[" * 100_000)
    assert parse(b'{"a":' + b"[" * 1024)[0] == ("error", "JSON nesting depth limit exceeded")


@pytest.mark.slow
@given(_documents, st.lists(st.integers(min_value=1, max_value=9), min_size=1))
def test_packets_make_no_difference(data: bytes, sizes: list[int]) -> None:
    parser = Parser()
    messages: list[Any] = []
    position = 0
    while position < len(data):
        for size in sizes:
            messages += parser.feed(data[position : position + size])
            position += size
    assert same(messages, Parser(fast=False).feed(data))


@pytest.mark.slow
@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**64 - 1)))
def test_strict_json_is_read_as_such(value: dict[str, Any]) -> None:
    encoded = json.dumps(value).encode()
    [message] = Parser().feed(encoded)
    if not isinstance(message, ParseError):  # noncharacters
        assert message == json.loads(encoded)


@pytest.mark.parametrize("space", [b"\n", b"\r\n", b" \n", b" \t\r\n"])
def test_space_takes_no_time(monkeypatch: pytest.MonkeyPatch, space: bytes) -> None:
    """Neither a line nor a byte of it is looked at alone."""
    looked_at: list[bytes] = []

    def look(line: bytes) -> Any:
        looked_at.append(line)
        return loads(line)

    monkeypatch.setattr(qmpserver.qmp.parser, "loads", look)
    monkeypatch.setattr(qmpserver.qmp.lexer, "_TABLE", {})
    assert Parser().feed(space * 1000) == []
    assert len(looked_at) <= 1


# As QEMU 11.1 answers: what is sent, and the errors that come at once; None is a message.
PLACES: list[tuple[bytes, list[str | None]]] = [
    (b"{,}", ["1:2: expecting key"]),
    (b'{"a",}', ["1:8: expecting ':'"]),
    (b'{"a":1,}', ["1:17: expecting key"]),
    (b"{[1]:2}", ["1:19: expecting key"]),
    (b"{tru:1}\n", ["1:26: expecting key"]),
    (b'{"a":1 x ', ["2:8: expected ',' or '}'"]),
    (b"{} [}", []),
    (b"} ]", ["2:17: expecting value"]),
    (b'\n{"a":[1 2 ', ["3:9: expected ',' or ']'"]),
    (b"]}x \n", ["3:13: invalid keyword 'x'"]),
    # A byte that ends a number, a keyword or a recovery counts twice.
    (b"12,", [None, "4:4: expecting value"]),
    (b"true]", [None, "4:9: expecting value"]),
    (b'@"abc"}', ["4:9: stray '@'", "4:16: expecting value"]),
    (b'{"a":1 x @ }\n', ["4:23: expected ',' or '}'", "4:28: expecting value"]),
    (b'"\\q" {"\\q": 1}', [
        "5:1: invalid escape sequence in string", "5:7: invalid escape sequence in string",
    ]),
    (b'{"a":1,"a":2}', ["5:26: duplicate key"]),
    (b'{"a":' + b"[" * 1025, ["JSON nesting depth limit exceeded"]),
    (b"]" * 1025 + b"}{}", [None]),
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize("fast", [True, False])
def test_errors_have_places_and_come_at_once(fast: bool, size: int) -> None:
    parser = Parser(fast=fast, error_places=True)
    for data, expected in PLACES:
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        messages = [message for piece in pieces for message in parser.feed(piece)]
        assert [
            one.desc.replace("JSON parse error, ", "") if isinstance(one, ParseError) else None
            for one in messages
        ] == expected, data
