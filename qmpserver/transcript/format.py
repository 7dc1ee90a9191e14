r"""Conversations with a QMP server as text: read, written, and compared with what a server says.

The format is the one that QEMU's documents use. ``->`` is what the client sends, ``<-`` what the
server does; a message may go on in the following lines. Other lines, from ``#`` on, are comments,
and the ones that begin with ``#!`` say what may vary in the whole transcript:

    #! ignore id thread-id         members of these names may have any value,
                                   or be missing
    #! tolerance current-rate 20%  a number of this name may be so far off
    #! events ignore               events may come or not; else each that is
                                   written has to come, and no other, in any
                                   order and between any replies

    -> {"execute": "set-vcpu-dirty-limit", "arguments": {"dirty-rate": 100}}
    <- {"return": {}}
    -> {"execute": "query-vcpu-dirty-limit"}
    <- {"return": [{"cpu-index": 0, "limit-rate": 100,
                    "current-rate": "<100 +-20%>"}, "..."]}

Timestamps, thread ids and the server's version are never compared, unless a rule wants all of it:

    #! exact    answers and events come in this order, with their members in
                this order, and are spelt so; only what is ignored or matched
                may vary

Where one place in an answer may vary, a string says how:

    "<any>"  "<int>"  "<number>"  "<string>"  "<bool>"  "<list>"  "<object>"
                             a value of a kind
    "<1..8>"  "<1..>"        a number in a range
    "<100 +-20%>"  "<100 +-5>"   a number near another
    "</^q35-/>"              a string in which a regular expression is found
    "<a|b>"                  one of some strings
    "..."                    as last element of a list, or "...": "..." in an
                             object: anything more

What the client sends needs not be JSON; it is sent as written. There is more for what lines can't
say:

    => BYTES     bytes with Python's escapes (\xff), and no end of line
    +> BYTES     the same, of a message that the next line goes on with
    2-> TEXT     what client 2 sends; each client has a connection of its own;
                 1 is the default
    2<- TEXT     what client 2 is answered
    <- (end)     the server hangs up
    $ OPTIONS    from here on it is another conversation, with a server that
                 was started so

Nothing here knows of sockets.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Who = Literal["client", "server"]

ARROWS: dict[str, Who] = {"->": "client", "=>": "client", "+>": "client", "<-": "server"}
END = "(end)"
MORE = "..."
ALWAYS_IGNORED = frozenset({"timestamp", "thread-id"})
_NOT_JSON = object()


class TranscriptError(Exception):
    """A text is no transcript; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Message:
    """What one side said: as text, and as a value where it is JSON.

    Attributes:
        line: where it is written, counted from 1.
        client: whose connection it is on.
        raw: the client's bytes, where they are no line.
        unfinished: the client's next bytes belong to it.
    """

    who: Who
    text: str
    value: Any = _NOT_JSON
    line: int = 0
    client: int = 1
    raw: bytes | None = None
    unfinished: bool = False

    @property
    def is_event(self) -> bool:
        """Whether it is an event."""
        return self.who == "server" and isinstance(self.value, dict) and "event" in self.value

    @property
    def is_greeting(self) -> bool:
        """Whether it is a server's greeting."""
        return self.who == "server" and isinstance(self.value, dict) and "QMP" in self.value

    @property
    def is_end(self) -> bool:
        """Whether it says that the server hangs up."""
        return self.who == "server" and self.text == END

    @property
    def data(self) -> bytes:
        """The bytes that the client sends."""
        return self.text.encode() + b"\n" if self.raw is None else self.raw

    @property
    def command(self) -> str | None:
        """The command, if it is one."""
        if self.who != "client" or not isinstance(self.value, dict):
            return None
        name = self.value.get("execute", self.value.get("exec-oob"))
        return name if isinstance(name, str) else None

    def __str__(self) -> str:
        arrow = "->" if self.who == "client" else "<-"
        return f"{self.client if self.client > 1 else ''}{arrow} {self.text}"


def message(who: Who, text: str, line: int = 0, client: int = 1) -> Message:
    """Return a message of this text."""
    try:
        return Message(who, text, json.loads(text), line, client)
    except (ValueError, RecursionError):
        return Message(who, text, line=line, client=client)


@dataclass(frozen=True, slots=True)
class Rules:
    """What may vary in a whole transcript."""

    ignore: frozenset[str] = ALWAYS_IGNORED
    tolerance: dict[str, float] = field(default_factory=dict)  # as a part of the number
    events: bool = True
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation, what may vary in it, and how its server was started, if that is told."""

    messages: Sequence[Message]
    rules: Rules = field(default_factory=Rules)
    options: str | None = None
    line: int = 1


def read(text: str) -> Transcript:
    """Read a transcript, or a conversation that something else has captured.

    That is libvirt's ``.replies``, what ``socat -v`` printed, or any text with both sides' messages
    in it, one after the other: commands are the client's, all else is the server's.

    Raises:
        TranscriptError: It is none of these, or has several conversations.
    """
    first, *more = read_all(text)
    if more:
        raise TranscriptError(f"line {more[0].line}: it has another conversation")
    return first


def read_all(text: str) -> list[Transcript]:
    """Read a text as `read` does, with all conversations that it has.

    Raises:
        TranscriptError: There is none.
    """
    if _ARROW.search(text):
        return _read_arrows(text)
    captured = _read_socat(text) if _SOCAT.search(text) else _read_mixed(text)
    if not captured:
        raise TranscriptError("there is no message in it")
    if all(said.who == "server" for said in captured):
        raise TranscriptError("there are only a server's messages in it: nothing to replay")
    return [Transcript(captured)]


_ARROW = re.compile(r"^([1-9]?)(->|<-|=>|\+>)(?: |$)(.*)", re.MULTILINE)


def _read_arrows(text: str) -> list[Transcript]:
    transcripts: list[Transcript] = []
    messages: list[Message] = []
    rules = Rules()
    options: str | None = None
    begin = 1
    lines: list[str] = []  # of a message that may go on
    start, client, who = 0, 1, cast("Who", "")

    def finish() -> None:
        if lines:
            said = message(who, "\n".join(lines).rstrip(), start, client)
            if who == "server" and said.value is _NOT_JSON and not (said.is_end or rules.exact):
                raise TranscriptError(f"line {start}: what a server says is JSON")
            messages.append(said)
            lines.clear()

    for number, line in enumerate(text.split("\n"), 1):  # in JSON, U+2028 ends no line
        if arrow := _ARROW.fullmatch(line):
            finish()
            start, client, who = number, int(arrow[1] or 1), ARROWS[arrow[2]]
            if arrow[2] in ("->", "<-"):
                lines.append(arrow[3].strip())
            else:
                messages.append(_raw(arrow[3], number, client, arrow[2] == "+>"))
        elif line.startswith(("#", "$ ")):
            finish()
            if line.startswith("#!"):
                rules = _with_rule(rules, line[2:].split(), number)
            elif line[0] == "$":
                if messages:
                    transcripts.append(Transcript(messages, rules, options, begin))
                messages, options, begin = [], line[2:], number
        elif lines:
            lines.append(line)
        elif line.strip():
            raise TranscriptError(f"line {number}: neither ->, <- nor #: {line.strip()[:40]}")
    finish()
    return [*transcripts, Transcript(messages, rules, options, begin)]


def _raw(text: str, line: int, client: int, unfinished: bool) -> Message:
    try:
        raw = text.encode().decode("unicode_escape").encode("latin-1")
    except UnicodeError as error:
        raise TranscriptError(f"line {line}: {error}") from None
    return Message("client", text, line=line, client=client, raw=raw, unfinished=unfinished)


def _with_rule(rules: Rules, words: list[str], line: int) -> Rules:
    match words:
        case ["ignore", _, *_]:
            return replace(rules, ignore=rules.ignore | set(words[1:]))
        case ["tolerance", name, part] if re.fullmatch(r"[0-9.]+%", part):
            return replace(rules, tolerance={**rules.tolerance, name: float(part[:-1]) / 100})
        case ["events", "ignore"]:
            return replace(rules, events=False)
        case ["exact"]:
            return replace(rules, ignore=rules.ignore - ALWAYS_IGNORED, exact=True)
    raise TranscriptError(
        f"line {line}: '#! {' '.join(words)}' is none of: ignore NAME..., tolerance NAME N%, "
        "events ignore, exact"
    )


_SOCAT = re.compile(r"([<>]) \d{4}/\d\d/\d\d [\d:.]+ +length=\d+( from=\d+ to=\d+)? *\n")
_SOCAT_ESCAPES = {"\\\\": "\\", "\\r": "\r", "\\t": "\t", '\\"': '"'}


def _read_socat(text: str) -> list[Message]:
    """Join what each side sent, which socat cuts where it likes."""
    heads = list(_SOCAT.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    splitters = {"<": Splitter(), ">": Splitter()}
    said: list[tuple[str, str, int]] = []
    line, counted = 1, 0
    for head, end in zip(heads, ends, strict=True):
        line, counted = line + text.count("\n", counted, head.end()), head.end()
        data = re.sub(r'\\[\\rt"]', lambda m: _SOCAT_ESCAPES[m[0]], text[head.end() : end])
        said += [(head[1], one, line) for one in splitters[head[1]].feed(data)]
    # The server is the one that greets; without a greeting, the one that is connected to.
    server = next((arrow for arrow, one, _ in said if '"QMP"' in one), "<")
    messages = [message("server" if a == server else "client", one, n) for a, one, n in said]
    for one in messages:
        if one.who == "server" and one.value is _NOT_JSON:
            raise TranscriptError(
                f"line {one.line}: what a server says is JSON; use socat -v alone"
            )
    return messages


def _read_mixed(text: str) -> list[Message]:
    messages = []
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        line = text.count("\n", 0, at) + 1
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            commands = isinstance(value, dict) and not value.keys().isdisjoint(
                {"execute", "exec-oob"}
            )
            who: Who = "client" if commands else "server"
            messages.append(Message(who, json.dumps(value), value, line))
        at = text.find("{", end)
    return messages


class Splitter:
    """Cuts what one side says into messages, as it comes, without caring for newlines.

    What is no JSON object or array is cut at the end of its line.
    """

    _MARK = re.compile(r'[\n{}\[\]]|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|["\']')

    def __init__(self) -> None:
        self._text = ""
        self._at = 0  # up to where it was looked at
        self._depth = 0
        self._open = False  # whether a string is, so that only its end is of interest

    @property
    def held(self) -> int:
        """How much of a message is here that is not complete."""
        return len(self._text)

    def feed(self, text: str) -> Iterator[str]:
        """Take more text; gives the messages that it completes."""
        self._text += text
        if self._open and '"' not in text and "'" not in text and "\n" not in text:
            return
        self._open = False
        while mark := self._MARK.search(self._text, self._at):
            what = mark[0]
            if what in ('"', "'") and self._depth:
                end = self._text.find("\n", mark.end())
                if end < 0:
                    self._open = True  # it may go on
                    return
                self._at = end + 1
                yield from self.rest()  # it can't: this is no JSON
                continue
            self._at = mark.end()
            if what in "{[":
                self._depth += 1
            elif what in "}]":
                self._depth = max(self._depth - 1, 0)
            if (what in "}]" or what == "\n") and not self._depth:
                yield from self.rest()
        self._at = len(self._text)

    def rest(self) -> Iterator[str]:
        """Give what there is as a message."""
        at = self._at if self._at else len(self._text)
        said, self._text = self._text[:at].strip(), self._text[at:]
        self._at = self._depth = 0
        self._open = False
        if said:
            yield said


def compare(expected: Any, got: Any, rules: Rules | None = None) -> list[str]:
    """Return where an answer differs from the expected one, a line for each place."""
    return list(_compare(expected, got, rules or Rules(), "", None))


def compare_exactly(expected: Message, got: Message, rules: Rules) -> list[str]:
    """Return where a message differs, also in its members' order, or else in its spelling."""
    if expected.text == got.text:
        return []
    said = f"it is {got.text[:200]}"
    if expected.value is _NOT_JSON or got.value is _NOT_JSON:
        return [said]
    if different := compare(expected.value, got.value, rules):
        return different
    kept = _without(got.value, rules.ignore)
    if json.dumps(_ordered(_without(expected.value, rules.ignore), kept)) != json.dumps(kept):
        return [f"the members' order: {said}"]
    return [f"the spelling: {said}"] if expected.value == got.value else []


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_without(item, names) for item in value]
    if isinstance(value, dict):
        return {name: _without(item, names) for name, item in value.items() if name not in names}
    return value


def _ordered(model: Any, value: Any) -> Any:
    """Return the value with its members in the model's order."""
    if isinstance(model, dict) and isinstance(value, dict):
        known = {name: _ordered(model[name], value[name]) for name in model if name in value}
        return known | {name: item for name, item in value.items() if name not in known}
    if isinstance(model, list) and isinstance(value, list):
        return [_ordered(*pair) for pair in zip(model, value, strict=False)] + value[len(model) :]
    return value


def _compare(expected: Any, got: Any, rules: Rules, path: str, name: str | None) -> Iterator[str]:
    if isinstance(expected, str) and (matches := _matcher(expected)) is not None:
        if not matches(got):
            yield f"{path or 'answer'}: {_show(got)} is not {expected}"
    elif isinstance(expected, dict) and isinstance(got, dict):
        names = dict.fromkeys([*expected, *(() if MORE in expected else got)])
        for key in names:
            if key == MORE or key in rules.ignore:
                continue
            below = f"{path}.{key}" if path else key
            if key not in got:
                yield f"{below}: missing, {_show(expected[key])} was expected"
            elif key not in expected:
                yield f"{below}: {_show(got[key])} was not expected"
            else:
                yield from _compare(expected[key], got[key], rules, below, key)
    elif isinstance(expected, list) and isinstance(got, list):
        more = bool(expected) and expected[-1] == MORE
        wanted = expected[:-1] if more else expected
        if len(got) < len(wanted) or (len(got) > len(wanted) and not more):
            yield f"{path}: {len(got)} elements instead of {len(wanted)}: {_show(got)}"
            return
        for index, one in enumerate(wanted):
            yield from _compare(one, got[index], rules, f"{path}[{index}]", name)
    elif not _same(expected, got, rules.tolerance.get(name or "", 0.0)):
        yield f"{path or 'answer'}: {_show(got)} instead of {_show(expected)}"


def _same(expected: Any, got: Any, tolerance: float) -> bool:
    if _is_number(expected) and _is_number(got):
        return bool(abs(got - expected) <= abs(expected) * tolerance)
    return type(expected) is type(got) and bool(expected == got)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


_KINDS: dict[str, Any] = {
    "any": lambda _: True,
    "int": lambda got: isinstance(got, int) and not isinstance(got, bool),
    "number": _is_number,
    "string": lambda got: isinstance(got, str),
    "bool": lambda got: isinstance(got, bool),
    "list": lambda got: isinstance(got, list),
    "object": lambda got: isinstance(got, dict),
}
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER})?\.\.({_NUMBER})?")
_NEAR = re.compile(rf"({_NUMBER}) \+-({_NUMBER})(%?)")


def _matcher(text: str) -> Any:
    """Return the function for a string such as "<int>"; None where it means itself."""
    if text == MORE:
        return _KINDS["any"]
    if len(text) < 3 or text[0] != "<" or text[-1] != ">":
        return None
    inner = text[1:-1]
    if inner in _KINDS:
        return _KINDS[inner]
    if (found := _RANGE.fullmatch(inner)) and inner != "..":
        least, most = float(found[1] or "-inf"), float(found[2] or "inf")
        return lambda got: _is_number(got) and least <= got <= most
    if found := _NEAR.fullmatch(inner):
        middle, off = float(found[1]), float(found[2])
        off *= abs(middle) / 100 if found[3] else 1
        return lambda got: _is_number(got) and abs(got - middle) <= off
    if len(inner) > 2 and inner[0] == inner[-1] == "/":
        pattern = re.compile(inner[1:-1])
        return lambda got: isinstance(got, str) and pattern.search(got) is not None
    if "|" in inner:
        return lambda got: got in inner.split("|")
    return None
