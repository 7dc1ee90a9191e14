"""Bytes are cut into messages as text is, wherever they are torn."""

import pytest

from qmpserver.transcript.splitter import ByteSplitter, Splitter

TORN = '{"a": "ü"}\nno {"b": ["\u20ac}"]}'


def test_bytes_are_cut_within_characters() -> None:
    splitter = ByteSplitter()
    cut = [one for byte in TORN.encode() for one in splitter.feed(bytes([byte]))]
    assert cut == ['{"a": "ü"}', 'no {"b": ["\u20ac}"]}']
    assert splitter.held == 0
    assert list(splitter.rest()) == []


def test_the_rest_is_told() -> None:
    splitter = ByteSplitter()
    assert list(splitter.feed(b'{"a": 1} {"b\xe2\x82')) == ['{"a": 1}']
    assert splitter.held == 4
    assert list(splitter.rest()) == ['{"b\ufffd']
    assert splitter.held == 0
    with pytest.raises(UnicodeDecodeError):
        list(ByteSplitter("strict").feed(b"\xff"))


@pytest.mark.slow
def test_a_long_string_is_not_looked_at_for_each_piece() -> None:
    splitter = Splitter()
    assert list(splitter.feed('{"a": "')) == []
    for _ in range(20_000):
        assert list(splitter.feed("x" * 1000)) == []
    assert splitter.held == 20_000_007
    (whole,) = splitter.feed('"}{')
    assert len(whole) == 20_000_009
    assert splitter.held == 1


def test_a_string_that_is_not_closed_ends_with_its_line() -> None:
    splitter = Splitter()
    assert list(splitter.feed('{"open')) == []
    assert list(splitter.feed(" still")) == []
    assert list(splitter.feed('\n{"b": 1}')) == ['{"open still', '{"b": 1}']


def test_a_brace_too_many_does_not_disturb_the_next_message() -> None:
    assert list(Splitter().feed('} {"a": {"b": 1}}')) == ["}", '{"a": {"b": 1}}']


def test_a_bracket_in_a_string_that_is_torn() -> None:
    splitter = Splitter()
    assert list(splitter.feed('"')) == []
    assert list(splitter.feed('}" {"a": 1}')) == ['"}" {"a": 1}']
