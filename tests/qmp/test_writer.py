"""Output, byte for byte as QEMU writes it."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmpserver.qmp import (
    CommandError,
    Large,
    Parser,
    dumps,
    error_message,
    event_message,
    return_message,
)
from qmpserver.qmp.order import bucket


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, b"{}"),
        ([], b"[]"),
        ([1, [2], {"a": None}], b'[1, [2], {"a": null}]'),
        ((True, False), b"[true, false]"),
        ("\u00e9\U0001d11e\x7f\x00\x1f", b'"\\u00E9\\uD834\\uDD1E\\u007F\\u0000\\u001F"'),
        ("\"\\/\b\f\n\r\t'", b'"\\"\\\\/\\b\\f\\n\\r\\t\'"'),
        ("\ud800\uffff", b'"\\uFFFD\\uFFFD"'),
        ("\x7f", b'"\\u007F"'),
        (2**64 - 1, b"18446744073709551615"),
        (1.0, b"1"),
        (0.1, b"0.10000000000000001"),
        (1e30, b"1e+30"),
        (1e23, b"9.9999999999999992e+22"),
        (-2.5, b"-2.5"),
        ({"x": 1.5}, b'{"x": 1.5}'),
    ],
)
def test_compact(value: object, text: bytes) -> None:
    assert dumps(value) == text


def test_pretty() -> None:
    value = {"return": {}, "list": [], "nested": [1, {"a": 2}]}
    assert dumps(value, pretty=True).decode().splitlines() == [
        "{",
        '    "list": [',
        "    ],",
        '    "nested": [',
        "        1,",
        "        {",
        '            "a": 2',
        "        }",
        "    ],",
        '    "return": {',
        "    }",
        "}",
    ]


@pytest.mark.parametrize("pretty", [False, True])
def test_members_are_in_the_order_of_qemus_hash_table(pretty: bool) -> None:
    # As QEMU 7.2 writes query-status, query-kvm and query-version.  Within one
    # bucket ("micro" and "minor") the member that was inserted last comes first.
    for given_order, order in [
        (["running", "singlestep", "status"], ["status", "singlestep", "running"]),
        (["present", "enabled"], ["enabled", "present"]),
        (["major", "minor", "micro"], ["micro", "minor", "major"]),
    ]:
        for value in (1, 1.5):
            written = dumps(dict.fromkeys(given_order, value), pretty)
            assert list(json.loads(written)) == order


@pytest.mark.slow
def test_names_of_any_length_have_a_bucket() -> None:
    """Each as QEMU 7.2 has it; long ones, which only a client makes up, are not kept."""
    for name in ("", "a", "\u00e9\0\U0001d11e", "execute", "x" * 64, "0123456789" * 50):
        raw = name.encode().replace(b"\0", b"\xc0\x80")
        key = 0x238F13AF * len(raw) + sum(b << (i * 5 % 24) for i, b in enumerate(raw))
        assert bucket(name) == (1103515243 * (key & 0xFFFFFFFF) + 12345 & 0xFFFFFFFF) % 512
    dumps({"x": 1})
    tracemalloc.start()
    try:
        for number in range(50):
            dumps({f"{number}{'x' * 100_000}": {str(key): 1 for key in range(2000)}})
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


def test_messages() -> None:
    assert return_message({}, False, None) == b'{"return": {}}\r\n'
    assert return_message({}, True, 1) == b'{"return": {}, "id": 1}\r\n'
    assert return_message({}, True, None) == b'{"return": {}, "id": null}\r\n'
    assert return_message([], True, {"b": 1.5}) == b'{"return": [], "id": {"b": 1.5}}\r\n'
    assert return_message(False, False, None) == b'{"return": false}\r\n'
    assert return_message(0, False, None) == b'{"return": 0}\r\n'
    assert return_message("", False, None) == b'{"return": ""}\r\n'
    error = CommandError("no \u00e9", "CommandNotFound")
    assert error_message(error, True, "x") == (
        b'{"id": "x", "error": {"class": "CommandNotFound", "desc": "no \\u00E9"}}\r\n'
    )
    assert event_message("STOP", None, 1, 2) == (
        b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}\r\n'
    )
    assert event_message("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"}, 1, 2) == (
        b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", '
        b'"data": {"guest": false, "reason": "host-qmp-quit"}}\r\n'
    )


def test_pretty_messages_end_all_lines_alike() -> None:
    message = return_message({"a": 1}, True, 2, pretty=True)
    assert message == b'{\r\n    "return": {\r\n        "a": 1\r\n    },\r\n    "id": 2\r\n}\r\n'


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        dumps({"a": object()})
    with pytest.raises(TypeError):
        dumps([1.5, {1, 2}])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have(number: float) -> None:
    """An `id` comes back as QEMU writes it; results and events must be JSON."""

    class Number(float):
        pass

    for value in (number, Number(number)):
        assert error_message(CommandError("no"), True, value).startswith(b'{"id": %g' % number)
        for pretty in (False, True):
            with pytest.raises(TypeError, match=f"{number} is not JSON serializable"):
                return_message({"a": [value]}, False, None, pretty)
            with pytest.raises(TypeError, match=f"{number} is not JSON serializable"):
                event_message("STOP", {"a": value}, 1, 2, pretty)
    expected = b'{\r\n    "return": 1,\r\n    "id": %g\r\n}\r\n' % number
    assert return_message(1, True, number, pretty=True) == expected


def test_subclasses_are_written_as_their_bases() -> None:
    class List(list[Any]):
        pass

    class Double(float):
        pass

    assert dumps({"a": List([{"b": Double(0.1), "a": 1}])}) == dumps({"a": [{"b": 0.1, "a": 1}]})


def test_what_contains_itself_is_refused() -> None:
    circular: list[Any] = []
    circular.append({"a": circular})
    for pretty in (False, True):
        with pytest.raises(TypeError, match="list contains itself"):
            dumps(circular, pretty)
    shared = [1.5]
    assert dumps([shared, {"a": shared}]) == b'[[1.5], {"a": [1.5]}]'


def test_nesting_beyond_pythons_own_limit() -> None:
    value: Any = 1
    for _ in range(1500):
        value = [value]
    assert dumps(value) == b"[" * 1500 + b"1" + b"]" * 1500
    assert dumps({"a": value, "b": 1.5}).endswith(b"]" * 1500 + b', "b": 1.5}')


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cn"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abcdefgh-"), inner),
    max_leaves=20,
)


@given(_values)
@pytest.mark.slow
def test_all_can_be_read_back(value: object) -> None:
    assert json.loads(dumps(value)) == value
    assert json.loads(dumps(value, pretty=True)) == value


@settings(max_examples=40)
@given(st.dictionaries(st.text("abcdefgh-"), _values))
@pytest.mark.slow
def test_the_parser_reads_what_the_writer_writes(value: dict[str, Any]) -> None:
    for pretty in (False, True):
        (read,) = Parser().feed(dumps(value, pretty))
        assert (read.built() if isinstance(read, Large) else read) == value


@given(st.lists(st.text("abcdefgh-", min_size=1), unique=True))
def test_both_paths_agree_on_the_order(names: list[str]) -> None:
    fast = dumps(dict.fromkeys(names, 1))
    slow = dumps(dict.fromkeys(names, 1.0))
    assert fast == slow
