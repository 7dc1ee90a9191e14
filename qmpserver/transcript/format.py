r"""The transcript format: a conversation with a QMP server as text, to be replayed and compared.

The format is the one of QEMU's documentation. `->` begins a message that the client sends, `<-`
one that the server sends; a message may continue on the following lines. Lines that begin with `#`
are comments. Lines that begin with `#!` are rules for the whole transcript:

    #! ignore id thread-id         members of these names may have any value,
                                   or be missing
    #! tolerance current-rate 20%  numbers of this name may deviate that much
    #! events ignore               events are not compared; without this rule
                                   exactly the written events must come, in any
                                   order and between any replies

    -> {"execute": "set-vcpu-dirty-limit", "arguments": {"dirty-rate": 100}}
    <- {"return": {}}
    -> {"execute": "query-vcpu-dirty-limit"}
    <- {"return": [{"cpu-index": 0, "limit-rate": 100,
                    "current-rate": "<100 +-20%>"}, "..."]}

Timestamps, thread ids and the server's version are not compared, except with this rule:

    #! exact    replies and events must come in the written order, and their
                members too, with the written spelling; only ignored members
                and patterns may vary

Within a reply, these strings are patterns:

    "<any>"  "<int>"  "<number>"  "<string>"  "<bool>"  "<list>"  "<object>"
                             any value of this type
    "<1..8>"  "<1..>"        a number in this range
    "<100 +-20%>"  "<100 +-5>"   a number near another
    "</^q35-/>"              a string in which the regular expression is found
    "<a|b>"                  one of these strings
    "..."                    as last element of a list, or "...": "..." in an
                             object: any further elements or members

The client's messages need not be JSON; they are sent as written. For everything that a line of text
cannot express:

    => BYTES     bytes with Python's escapes (\xff), without a newline
    +> BYTES     the same, for a message that continues in the next line
    2-> TEXT     a message of client 2; each client has its own connection;
                 the default is client 1
    2<- TEXT     a message to client 2
    <- (end)     the server hangs up
    $ OPTIONS    begins another conversation, with a server that was started
                 with these options
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, cast

from qmpserver.transcript.captured import read_captured
from qmpserver.transcript.compare import ALWAYS_IGNORED, PatternError, Rules, check_patterns
from qmpserver.transcript.errors import TranscriptError
from qmpserver.transcript.message import Message, Who

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ARROWS: dict[str, Who] = {"->": "client", "=>": "client", "+>": "client", "<-": "server"}
_ARROW = re.compile(r"^([1-9]?)(->|<-|=>|\+>)(?: |$)(.*)", re.MULTILINE)


class Transcript(NamedTuple):
    """A conversation.

    Attributes:
        messages: The messages of all clients and the server, in order.
        rules: What may vary.
        options: Options that the server was started with; None if the text does not have them.
        line: Line at which the conversation begins, counted from 1.
    """

    messages: Sequence[Message]
    rules: Rules = Rules()
    options: str | None = None
    line: int = 1

    @property
    def clients(self) -> int:
        """Number of clients."""
        return max((one.client for one in self.messages), default=1)


def read(text: str) -> Transcript:
    """Return the conversation in a text: a transcript, or one that another program captured.

    The latter is libvirt's `.replies`, the output of `socat -v`, or any text that contains the
    messages of both sides, one after the other.

    Raises:
        TranscriptError: There is no conversation in it, or several.
    """
    first, *more = read_all(text)
    if more:
        raise TranscriptError(f"line {more[0].line}: it has another conversation")
    return first


def read_all(text: str) -> list[Transcript]:
    """Return all conversations in a text that `read` would take.

    Raises:
        TranscriptError: There is no conversation in it.
    """
    if not _ARROW.search(text):
        return [Transcript(read_captured(text))]
    transcripts = _read_arrows(text)
    for one in (message for transcript in transcripts for message in transcript.messages):
        if one.who == "server":
            try:
                check_patterns(one.value)
            except PatternError as error:
                raise TranscriptError(f"line {one.line}: {error}") from None
    return transcripts


def write(messages: Iterable[Message], *rules: str) -> str:
    """Return messages as a transcript with these rules, each the text after `#!`."""
    lines = [*(f"#! {rule}" for rule in rules), *map(str, messages)]
    return "".join(f"{line}\n" for line in lines)


def _read_arrows(text: str) -> list[Transcript]:
    transcripts: list[Transcript] = []
    messages: list[Message] = []
    rules = Rules()
    options: str | None = None
    begin = 1
    lines: list[str] = []  # of a message that may continue
    start, client, who = 0, 1, cast("Who", "")

    def finish() -> None:
        if lines:
            said = Message(who, "\n".join(lines).rstrip(), start, client)
            if who == "server" and not (said.is_json or said.is_end or rules.exact):
                raise TranscriptError(f"line {start}: a server's message is not JSON")
            messages.append(said)
            lines.clear()

    # str.splitlines would also split at U+2028, which JSON allows in a string.
    for number, line in enumerate(text.split("\n"), 1):
        if arrow := _ARROW.fullmatch(line):
            finish()
            start, client, who = number, int(arrow[1] or 1), _ARROWS[arrow[2]]
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
    return Message("client", text, line, client, raw, unfinished)


def _with_rule(rules: Rules, words: list[str], line: int) -> Rules:
    match words:
        case ["ignore", _, *_]:
            return rules._replace(ignore=rules.ignore | set(words[1:]))
        case ["tolerance", name, part] if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?%", part):
            return rules._replace(tolerance={**rules.tolerance, name: float(part[:-1]) / 100})
        case ["events", "ignore"]:
            return rules._replace(events=False)
        case ["exact"]:
            return rules._replace(ignore=rules.ignore - ALWAYS_IGNORED, exact=True)
    raise TranscriptError(
        f"line {line}: '#! {' '.join(words)}' is not one of: ignore NAME..., tolerance NAME N%, "
        "events ignore, exact"
    )
