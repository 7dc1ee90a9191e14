"""Large messages: the same answers as for small ones, in short steps."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import qmpserver.qmp.large
import qmpserver.qmp.lexer
import qmpserver.qmp.literals
import qmpserver.qmp.parser
import qmpserver.qmp.writer
from qmpserver.qmp import CommandError, Large, LongString, Parser, Request, Session, dumps
from qmpserver.qmp.order import bucket
from tests.qmp.test_parser import _documents

VERSION = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
# Names of members and 64-bit numbers are never long.
EVERYTHING_IS_LARGE = {
    qmpserver.qmp.parser: {"_SMALL_TOKENS": 1, "_LONG_TOKEN": 20, "_FAST_LINE": 1, "_SETS": 2},
    qmpserver.qmp.lexer: {"PART_SIZE": 21},
    qmpserver.qmp.large: {"_SMALL_VALUES": 1, "_VALUES": 4, "_FREED": 2},
    qmpserver.qmp.literals: {"PIECE": 5, "_STRAY_PIECE": 3},
    qmpserver.qmp.writer: {"PIECE": 3, "LONG_TEXT": 4, "_STEP_TOKENS": 2},
}


@contextlib.contextmanager
def everything_is_large(**others: int) -> Iterator[None]:
    """Lower the limits from which on messages are large; `others` are those of the parser."""
    with pytest.MonkeyPatch.context() as patch:
        for module, values in EVERYTHING_IS_LARGE.items():
            for name, value in values.items():
                patch.setattr(module, name, value)
        for name, value in others.items():
            patch.setattr(qmpserver.qmp.parser, name, value)
        yield


def told(request: Request) -> tuple[Any, ...]:
    """Return what a request says, in the form of small ones."""
    name, arguments = request.name, request.arguments
    return (
        name.whole() if isinstance(name, LongString) else name,
        arguments.built() if isinstance(arguments, Large) else arguments,
        request.oob,
        request.has_id,
    )


def answers(data: bytes, packet: int, pretty: bool, oob: bool) -> tuple[list[Any], bytes]:
    """Return the commands in `data`, and the bytes that the client receives."""
    session = Session(VERSION, pretty=pretty)
    enable = b'{"enable": ["oob"]}' if oob else b"{}"
    session.receive(b'{"execute": "qmp_capabilities", "arguments": %b}\n' % enable)
    requests: list[Any] = []
    output = b""
    for start in range(0, len(data), packet):
        session.receive(data[start : start + packet])
        while not session.idle:
            command = session.next_command(3)
            if command is not None:
                requests.append(told(command))
                if len(requests) % 2:
                    session.reply(command, {"a": ["\u00e9", 1.5]})
                else:
                    session.fail(command, CommandError("\u00e9" * 10, "CommandNotFound"))
                session.event("STOP", None, 1, 2)  # never within a reply
            output += session.take_output()
    for _ in session.release():
        pass
    return requests, output


def same_answers(data: bytes, packet: int = 16384, pretty: bool = False, oob: bool = True) -> bytes:
    """Return the output, after asserting that it is the same if everything is large."""
    small = answers(data, packet, pretty, oob)
    with everything_is_large():
        large = answers(data, packet, pretty, oob)
    assert repr(large) == repr(small)
    return small[1]


_names = st.sampled_from(["execute", "exec-oob", "arguments", "id", "qmp_capabilities", "enable"])
_strings = st.text(alphabet='ab"\\\n\0\x7f\u00e9\u1234\U0001d11e', max_size=30)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**65)
    | st.floats()
    | _strings
    | st.sampled_from(["oob", "query-status"]),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(_names | _strings, inner, max_size=6)
    ),
    max_leaves=12,
)
_arguments = st.dictionaries(
    st.just("enable") | _strings, st.lists(st.just("oob") | _values) | _values, max_size=3
)
_messages = st.fixed_dictionaries(
    {},
    optional={
        "execute": st.sampled_from(["x", "qmp_capabilities"]) | _strings | _values,
        "exec-oob": st.just("x") | _values,
        "arguments": _arguments | _values,
        "id": _values,
        "other": _values,
        "\u00e9more": _values,
    },
)
_sent = st.lists(
    _messages.map(lambda one: json.dumps(one).encode())
    | _messages.map(lambda one: json.dumps(one, ensure_ascii=False).encode())
    | _documents,
    max_size=3,
).map(b"\n".join)


@pytest.mark.slow
@example(
    b'{"execute":"x","id":"\\ud834\\udd1e\\ud834\\udd1e\\ud834\\udd1e\\ud834\\udd1e"}',
    16384,
    False,
    False,
)
@example(b'{"execute":"x","id":"aaaa\\ud834\\udd1e\\ud834"}', 7, False, False)
@example(b'{"id":"\xc3\xa9\xf0\x9d\x84\x9e\xf0\x9d\x84"}{"execute":"x","id":[]}', 5, True, False)
@example(b'{"id":[0.' + b"0" * 400 + b"1e399,-12345678.5e-7,1" + b"0" * 400 + b"]}", 9, True, True)
@example(b'{"a":1,"b":2,"a":3}', 16384, False, False)
@example(b'{"execute":"x","id":"abc\xc3\xc3\xa9\x01}\n', 4, False, False)
@given(_sent, st.integers(1, 40), st.booleans(), st.booleans())
def test_the_same_answers_on_both_paths(data: bytes, packet: int, pretty: bool, oob: bool) -> None:
    same_answers(data + b'\xff\n{"execute": "end"}\n', packet, pretty, oob)


@pytest.mark.parametrize("digits", ["7", "0", "49", "10000000000000000000000000000001"])
@pytest.mark.parametrize("length", [5, 799, 800, 801, 3000])
def test_long_numbers(digits: str, length: int) -> None:
    run = (digits * length)[:length]
    for text in (
        f"1{run}",
        f"-1{run}",
        f"1.{run}",
        f"0.{run}e{length}",
        f"1{run}.5e-{length + 3}",
        f"-0.{'0' * length}{run}E+{2 * length}",
        f"1e{run}",
        f"1e-{'0' * length}3",
        f"9007199254740993.{'0' * length}1",
    ):
        same_answers(f'{{"execute":"x","id":[{text}]}}'.encode(), 100)


@pytest.mark.slow
def test_the_first_unexpected_member_of_many() -> None:
    """It is that of the first bucket, and within one bucket the one that came last."""
    many = ",".join(f'"k{number}":{number}' for number in range(2000))
    written = same_answers(f'{{"id":{{{many}}},{many},"execute":"x"}}'.encode())
    first = min(reversed(range(2000)), key=lambda number: bucket(f"k{number}"))
    assert f"QMP input member 'k{first}' is unexpected".encode() in written
    assert len(json.loads(written.splitlines()[-1])["id"]) == 2000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x" * 3000, "\u00e9" * 3000, "\0" * 3000, "a\U0001d11e" * 900])
def test_long_names(name: str) -> None:
    quoted = json.dumps(name)
    for text in (
        f'{{"execute":{quoted},"id":1}}',
        f'{{"execute":"x",{quoted}:1}}',
        f"{{{quoted}:1,{quoted}:2}}",
        f'{{"execute":"x","id":{{{quoted}:{quoted},"a":[{quoted}]}}}}',
        f'{{"execute":"qmp_capabilities","arguments":{{"enable":[{quoted}]}}}}',
        f'{{"execute":"qmp_capabilities","arguments":{{{quoted}:1}}}}',
        f'{{"execute":"x","id":{quoted}\x01',
        f"[{name}",
    ):
        same_answers(text.encode() + b"\xff\n")


def test_a_large_value_is_written_as_a_small_one_is() -> None:
    value = {"b": [1.5, {"a": None, "\u1234": "\x7f" * 5000}], "a": {f"{n}": n for n in range(900)}}
    [large] = Parser().feed(json.dumps(value).encode())
    assert isinstance(large, Large)
    assert large.built() == value
    session = Session(None)
    session.receive(json.dumps({"execute": "x", "id": value}).encode())
    while (command := session.next_command(1)) is None:
        assert not session.idle
    session.reply(command, 1)
    while not session.idle:
        assert session.next_command(1) is None
    assert session.take_output() == b'{"return": 1, "id": %b}\r\n' % dumps(value)


def test_a_part_of_a_reply_does_not_end_a_line() -> None:
    for pretty in (False, True):
        session = Session(None, pretty=pretty)
        session.receive(b'{"id": [%b1]}' % (b'"\\n",' * 2000))
        parts = []
        while not session.idle:
            assert session.next_command(1) is None
            parts.append(session.take_output())
        assert sum(part.endswith(b"\n") for part in parts) == 1


def test_only_one_large_message_waits() -> None:
    session = Session(None)
    session.receive(b'{"execute":"x"}')
    command = session.next_command()
    assert command is not None
    large = b'{"execute":"x","id":"%b"}' % (b"a" * 10_000)
    for _ in range(10):
        session.receive(large)
        assert session.next_command() is None
    assert not session.wants_input
    for _ in range(10):
        session.finish(command)
        while (command := session.next_command()) is None:
            assert not session.idle
    assert command.id.value.whole() == "a" * 10_000
