"""Transcripts: written and read again, spoilt, compared, and replayed by a stand-in's scenario.

Messages that are written are read again as the same. Any text is a conversation, or refused with
one line. A message fits itself, whatever is ignored, unless it has patterns. Text is cut into the
same messages however it is torn.
"""

import contextlib
import json
import random
from collections.abc import Iterator

from qmpserver.standin import ScenarioError, recorded
from qmpserver.transcript.compare import check_patterns, compare, compare_exactly
from qmpserver.transcript.compare_conversation import differences
from qmpserver.transcript.errors import TranscriptError
from qmpserver.transcript.format import Transcript, read_all, write
from qmpserver.transcript.message import Message
from qmpserver.transcript.splitter import ByteSplitter
from tests.fuzz.explore import Case
from tests.fuzz.messages import json_value, pieces

CONVERSATIONS = 20
COMMANDS = ["query-status", "query-name", "stop", "cont", "query-version", "quit", "x-unknown"]
RULES = ["ignore id", "ignore a b", "tolerance rate 20%", "events ignore", "exact"]
PIECES = ["->", "<-", "=>", "+>", "2<- ", "$ -S", "#! exact", "#! tolerance x 5", "{", "}", "\n",
          '{"return": ', '"</[/>"', "(end)", "\\x", "\\u12", "\u2028", "\r", "<any>", "[" * 50,
          "> 2026/01/01 00:00:00.1 length=2 from=0 to=1\n", "< 2026/01/01 00:00:00.2 length=1\n",
          '{"execute": "stop"}', '{"QMP": {}}', "<1..2>", "<5 +-2%>"]  # fmt: skip


def conversation(rng: random.Random) -> list[Message]:
    """Make up the messages of a few clients and the server."""
    said = []
    for number in range(rng.randint(1, 12)):
        client = rng.choice([1, 1, 1, 2, 9])
        asked: dict[str, object] = {"execute": rng.choice(COMMANDS)}
        if rng.random() < 0.5:
            asked["id"] = rng.choice([number, json_value(rng, 1)])
        if rng.random() < 0.3:
            asked["arguments"] = {"a": json_value(rng, 1)}
        said.append(Message("client", _text(rng, asked), client=client))
        if rng.random() < 0.2:
            event = {"event": "STOP", "timestamp": {"seconds": number, "microseconds": 1}}
            said.append(Message("server", _text(rng, event), client=client))
        reply: dict[str, object] = {"return": json_value(rng, 2)}
        if rng.random() < 0.3:
            reply = {"error": {"class": "GenericError", "desc": rng.choice(["no", "\u00fc"])}}
        if "id" in asked:
            reply["id"] = asked["id"]
        said.append(Message("server", _text(rng, reply), client=client))
    return said


def _text(rng: random.Random, value: object) -> str:
    indent = rng.choice([None, None, 1])
    return json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=indent)


def spoil_text(rng: random.Random, text: str) -> str:
    """Change a few places of a text."""
    for _ in range(rng.randint(1, 5)):
        start = rng.randint(0, len(text))
        match rng.randrange(3):
            case 0:
                text = text[:start] + rng.choice(PIECES) + text[start:]
            case 1:
                text = text[:start] + text[start + rng.randint(1, 20) :]
            case _:
                end = rng.randint(start, min(len(text), start + 40))
                text = text[:start] + text[start:end] * 2 + text[end:]
    return text


def check_written(rng: random.Random) -> int:
    """Write, read, and compare."""
    said = conversation(rng)
    rules = rng.sample(RULES, rng.randrange(3))
    text = write(said, *rules)
    (transcript,) = read_all(text)
    assert [(one.who, one.value, one.client) for one in transcript.messages] == [
        (one.who, one.value, one.client) for one in said
    ]
    assert write(transcript.messages, *rules) == text
    for one in said:
        # Not a pattern: it fits itself.
        assert "<" in one.text or "..." in one.text or not compare(one.value, one.value), one.text
        assert not compare_exactly(one, one, transcript.rules)
    if "exact" not in rules:
        assert not differences(text, said), text
    check_recorded(text)
    return len(said)


def check_any(rng: random.Random) -> int:
    """Read a text that may be none."""
    text = spoil_text(rng, write(conversation(rng), *rng.sample(RULES, rng.randrange(3))))
    if rng.random() < 0.2:
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 20)))
    try:
        transcripts = read_all(text)
    except TranscriptError as error:
        assert "\n" not in str(error), str(error)  # noqa: PT017 -- either is right
    else:
        check_transcripts(transcripts)
    check_recorded(text)
    return 1


def check_transcripts(transcripts: list[Transcript]) -> None:
    """Check that what was read can be used."""
    for transcript in transcripts:
        assert 1 <= transcript.clients <= 9
        for one in transcript.messages:
            assert isinstance(one.data, bytes)
            if one.who == "server":
                check_patterns(one.value)
                compare(one.value, one.value, transcript.rules)
            str(one)


def check_recorded(text: str) -> None:
    """Read a text as the scenario that replays it."""
    try:
        vocabulary, _, replies = recorded.read("file", text, None)
    except ScenarioError as error:
        assert "\n" not in str(error), str(error)  # noqa: PT017 -- either is right
    else:
        assert all(reply.command in vocabulary.schema.commands for reply in replies)


def check_torn(rng: random.Random) -> int:
    """Cut bytes into messages in two ways."""
    said = conversation(rng)
    text = rng.choice(["", "\n"]).join(one.text for one in said)
    whole, torn = ByteSplitter(), ByteSplitter()
    if spoilt := rng.random() < 0.5:
        text = spoil_text(rng, text)
    data = text.encode()
    expected = [*whole.feed(data), *whole.rest()]
    assert spoilt or [json.loads(one) for one in expected] == [one.value for one in said], text
    got = [one for piece in pieces(rng, data) for one in torn.feed(piece)]
    assert [*got, *torn.rest()] == expected, text
    return 1


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Each case has some conversations."""
    checks = [check_written, check_any, check_torn]
    yield lambda rng: sum(rng.choice(checks)(rng) for _ in range(CONVERSATIONS))
