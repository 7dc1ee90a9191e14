"""The transcript format: read, matched and compared."""

from typing import Any

import pytest

from qmpserver.transcript.compare import Rules, compare, compare_exactly
from qmpserver.transcript.compare_conversation import differences
from qmpserver.transcript.errors import TranscriptError
from qmpserver.transcript.format import read, read_all, write
from qmpserver.transcript.message import Message
from qmpserver.transcript.splitter import Splitter

WRITTEN = """\
# by hand
#! ignore package
#! tolerance current-rate 20%
<- {"QMP": {"version": {}, "capabilities": []}}
-> {"execute": "qmp_capabilities"}
<- {"return": {}}

-> { "execute": "query-vcpu-dirty-limit",
     "id": 7 }
<- { "return": [ ],
     "id": 7 }
-> {]
<- {"error": {"class": "GenericError", "desc": "<string>"}}
"""


def test_arrows() -> None:
    transcript = read(WRITTEN)
    assert [(m.who, m.line) for m in transcript.messages[:4]] == [
        ("server", 4),
        ("client", 5),
        ("server", 6),
        ("client", 8),
    ]
    assert transcript.messages[3].value == {"execute": "query-vcpu-dirty-limit", "id": 7}
    assert transcript.messages[5].text == "{]"
    assert transcript.messages[5].command is None
    assert "package" in transcript.rules.ignore
    assert transcript.rules.tolerance == {"current-rate": 0.2}


def test_a_separator_of_lines_in_a_string() -> None:
    (message,) = read('-> {"execute": "\u2028\x85"}\n').messages
    assert message.command == "\u2028\x85"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-> {}\n<- {\n", "line 2: a server's message is not JSON"),
        ("hello\n-> {}\n", "line 1: neither"),
        ("-> {}\n#! tolerance x\n", "line 2: '#! tolerance x' is not one of"),
        ("nothing here\n", "no message"),
        ('{"return": {}}\n\n{"return": []}\n', "only a server's messages"),
        ("< 2026/01/01 00:00:00.1 length=2 from=0 to=1\n 7b 7d  {}\n", "line 2: .* socat -v alone"),
    ],
)
def test_what_is_no_transcript(text: str, why: str) -> None:
    with pytest.raises(TranscriptError, match=why):
        read(text)


@pytest.mark.parametrize(
    ("expected", "good", "bad"),
    [
        ("<any>", None, ...),
        ("<int>", 5, True),
        ("<number>", 5.5, "5"),
        ("<string>", "", 1),
        ("<bool>", False, 0),
        ("<list>", [], {}),
        ("<object>", {}, []),
        ("<1..8>", 8, 9),
        ("<1..>", 10**9, 0),
        ("<100 +-20%>", 80, 79),
        ("<-5 +-1.5>", -6.5, -6.6),
        ("</^q35-/>", "q35-7", "pc-q35-7"),
        ("<a|b>", "b", "a|b"),
        ("<else>", "<else>", "else"),
        ([1, "..."], [1, 2, 3], []),
        ([1], [1], [1, 2]),
        ({"a": 1, "...": "..."}, {"a": 1, "b": 2}, {"b": 2}),
        ({"a": 1}, {"a": 1, "thread-id": 7}, {"a": 1, "b": 2}),
        (1, 1, True),
        ("x", "x", "y"),
        (None, None, 0),
    ],
)
def test_matchers(expected: Any, good: Any, bad: Any) -> None:
    assert compare(expected, good) == []
    assert bad is ... or compare(expected, bad) != []


def test_differences_say_where() -> None:
    expected = {"return": [{"a": 1, "b": {"c": "x"}}], "id": 1}
    got = {"return": [{"a": 2, "b": {"d": "x"}}], "id": 1}
    assert compare(expected, got) == [
        "return[0].a: 2 instead of 1",
        'return[0].b.c: missing, "x" was expected',
        'return[0].b.d: "x" was not expected',
    ]
    assert compare({"rate": [100]}, {"rate": [110]}, Rules(tolerance={"rate": 0.1})) == []
    assert compare({"rate": [100]}, {"rate": [111]}, Rules(tolerance={"rate": 0.1})) != []


def test_garbage_is_cut_at_its_line() -> None:
    splitter = Splitter()
    said = list(splitter.feed("don't\n{'a': 'x}y'}{]\n{\"open\n{}\n"))
    assert said == ["don't", "{'a': 'x}y'}", "{]", '{"open', "{}"]


EXACT = r"""#! exact
#! ignore sometimes
$ -S
-> {"execute": "a"}
<- {"error": {"class": "GenericError", "desc": "\u00FC <any>"}, "id": 1}
=> {"exe
+> \xff
2-> {"execute": "b"}
2<- {"return": inf}
2<- (end)
$ -name x
-> {"execute": "c"}
<- {"return": {"a": "<int>", "b": 2}}
"""


def test_exact() -> None:
    first, second = read_all(EXACT)
    assert (first.options, second.options, second.line) == ("-S", "-name x", 11)
    assert [one.data for one in first.messages if one.who == "client"] == [
        b'{"execute": "a"}\n',
        b'{"exe',
        b"\xff",
        b'{"execute": "b"}\n',
    ]
    assert [one.client for one in first.messages] == [1, 1, 1, 1, 2, 2, 2]
    assert [one.unfinished for one in first.messages] == [False] * 3 + [True] + [False] * 3
    assert first.messages[-1].is_end
    with pytest.raises(TranscriptError, match="line 11: it has another conversation"):
        read(EXACT)


@pytest.mark.parametrize(
    ("number", "said", "what"),
    [
        (0, r'{"error": {"class": "GenericError", "desc": "\u00FC <any>"}, "id": 1}', None),
        (0, r'{"error": {"class": "GenericError", "desc": "\u00fc <any>"}, "id": 1}', "spelling"),
        (0, r'{"error":{"class": "GenericError", "desc": "\u00FC <any>"}, "id": 1}', "spelling"),
        (0, r'{"id": 1, "error": {"class": "GenericError", "desc": "\u00FC <any>"}}', "order"),
        (0, r'{"error": {"class": "GenericError", "desc": "<any>"}, "id": 1}', "error.desc"),
        (1, '{"return": inf}', None),
        (1, '{"return": 1e400}', "it is"),
        (3, '{"return": {"a": 7, "b": 2}}', None),
        (3, '{"return": {"sometimes": 1, "a": 7, "b": 2}}', None),
        (3, '{"return": {"b": 2, "a": 7}}', "order"),
        (3, '{"return": {"a": 7}}', "missing"),
        (3, '{"return": {"a": 7, "b": 2, "timestamp": 1}}', "not expected"),
    ],
)
def test_exactly(number: int, said: str, what: str | None) -> None:
    answers = [(t, one) for t in read_all(EXACT) for one in t.messages if one.who == "server"]
    transcript, expected = answers[number]
    different = compare_exactly(expected, Message("server", said), transcript.rules)
    assert (what in different[0]) if what else not different


def test_a_pattern_that_is_not_valid_is_told_with_its_line() -> None:
    with pytest.raises(TranscriptError, match=r"line 2: /\[/ is not a regular expression: "):
        read('-> {}\n<- {"return": ["</[/>"]}\n')
    assert read('-> {"execute": "</[/>"}\n').messages[0].command == "</[/>"


def test_a_tolerance_that_is_not_a_number() -> None:
    with pytest.raises(TranscriptError, match=r"line 1: '#! tolerance x \.\.%' is not one of"):
        read("#! tolerance x ..%\n-> {}\n")


def test_written_and_read() -> None:
    said = [
        Message("client", '{"execute":\r\n "stop"}', client=2),
        Message("server", '{"return": {}}', client=2),
    ]
    text = write(said, "ignore id", "events ignore")
    assert text.splitlines() == [
        "#! ignore id",
        "#! events ignore",
        '2-> {"execute":  "stop"}',
        '2<- {"return": {}}',
    ]
    transcript = read(text)
    assert [one.value for one in transcript.messages] == [one.value for one in said]
    assert transcript.clients == 2
    assert not transcript.rules.events


def test_conversations_that_are_not_json_are_compared_as_text() -> None:
    transcript = "-> hello\n-> {}\n"
    said = [Message("client", "hello"), Message("client", "{}")]
    assert differences(transcript, said) == []
    said[0] = Message("client", "good bye")
    assert differences(transcript, said) == ["line 1: command it is good bye"]
    assert differences(transcript, said[:1])[1:] == ["line 2: no command {}"]


def test_negotiations_are_left_out_with_their_replies() -> None:
    said = [
        Message("server", '{"QMP": {}}'),
        Message("client", '{"execute": "qmp_capabilities"}'),
        Message("server", '{"event": "STOP"}'),
        Message("server", '{"return": {}}'),
        Message("client", '{"execute": "cont"}'),
        Message("server", '{"return": {"a": 1}}'),
    ]
    fits = '-> {"execute": "cont"}\n<- {"return": {"a": 1}}\n<- {"event": "STOP"}\n'
    assert differences(fits, said) == []
    assert differences(fits, [said[1], said[0], *said[2:]]) == []  # it did not wait
    assert differences(fits.replace("STOP", "X"), said) == [
        'line 3: no event {"event": "X"}',
        'unexpected event {"event": "STOP"}',
    ]
    assert differences(f"#! events ignore\n{fits.replace('STOP', 'X')}", said) == []
