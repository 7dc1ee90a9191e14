"""A recorded conversation as a scenario: the same commands get the same replies again."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.qapi import Schema, SchemaError
from qmpserver.standin.parts import Reply, ScenarioError, ScriptedEvent
from qmpserver.standin.table import shown, unknown
from qmpserver.standin.vocabulary import DEFAULT, Vocabulary, load
from qmpserver.transcript.compare import PatternError, check_patterns
from qmpserver.transcript.errors import TranscriptError
from qmpserver.transcript.format import read as read_transcript

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.transcript.message import Message

_NEGOTIATION = "qmp_capabilities"
_QUIT = "quit"  # ends the stand-in, with an event of its own
# Beginnings of the refusals that the session has itself: of a second negotiation, say.
_OF_THE_SESSION = ("Capabilities negotiation", "The command qmp_capabilities")
# Start of the first line that is not a comment: an arrow, a JSON object, or a line of socat's.
_TRANSCRIPT = re.compile(r"\A(?:#[^\n]*\n|\s)*(?:[1-9]?(?:->|<-|=>|\+>)|\{|\$ |[<>] \d)")

_REFUSAL = re.compile(r"(\d+:\d+: )?JSON parse error|QMP input")


class _RecordedReply(NamedTuple):
    """A reply, and the line of the command that it answers."""

    line: int
    reply: Reply


def is_transcript(text: str) -> bool:
    """Return whether the text of a scenario's file is a transcript, and not TOML."""
    return _TRANSCRIPT.search(text) is not None


def read(
    file: str, text: str, given: Vocabulary | None
) -> tuple[Vocabulary, list[ScriptedEvent], list[Reply]]:
    """Return the vocabulary of a recorded conversation, early events, and its replies in order.

    Early events are those before the first greeting.

    The last reply to each command answers without bound, for clients that repeat the command. A
    negotiation is replayed once, for its refusal or the events around it, whatever its arguments.

    Args:
        file: Name of the file, for error messages.
        text: Contents of the file.
        given: The vocabulary to use in place of a recorded `query-qmp-schema` or the default.

    Raises:
        ScenarioError: The text is not a transcript, or has a command that the schema lacks.
    """
    try:
        messages = read_transcript(text).messages
    except TranscriptError as error:
        raise ScenarioError(f"{file}: {error}") from None
    greeting = next((one for one in messages if one.is_greeting), None)
    first = 0 if greeting is None else messages.index(greeting)
    early = [_event(file, one) for one in messages[:first] if one.is_event]
    others = [one for at, one in enumerate(messages) if at >= first or not one.is_event]
    recorded = list(_replies(file, others))
    found = given or _vocabulary(file, recorded)
    commands = found.schema.commands
    for line, reply in recorded:
        if reply.error is None and reply.command not in commands:
            message = unknown("command", reply.command, commands)
            raise ScenarioError(f"{file}:{line}: {message}; give the recorded server's schema")
    if greeting is not None and found.version is not None:
        found = found._replace(version=_version(file, greeting))
    replayed = [reply for _, reply in recorded if reply.command in commands and _is_replayed(reply)]
    return found, early, _lasting(replayed)


def _is_replayed(reply: Reply) -> bool:
    if reply.command != _NEGOTIATION:
        return reply.command != _QUIT
    return reply.error is None or not reply.error[0].startswith(_OF_THE_SESSION)


def _version(file: str, greeting: Message) -> str:
    """Return the version in a recorded greeting; a part that is not given is 0."""
    numbers = greeting.value
    for name in ("QMP", "version", "qemu"):
        numbers = numbers.get(name, {}) if isinstance(numbers, dict) else None
    if not isinstance(numbers, dict):
        raise ScenarioError(f"{file}:{greeting.line}: the greeting has no version of QEMU")
    triple = [numbers.get(part, 0) for part in ("major", "minor", "micro")]
    if any(type(one) is not int or not 0 <= one < 10**9 for one in triple):
        raise ScenarioError(f"{file}:{greeting.line}: {shown(numbers)} is not a version of QEMU")
    return ".".join(map(str, triple))


def _vocabulary(file: str, recorded: Sequence[_RecordedReply]) -> Vocabulary:
    for line, reply in recorded:
        if reply.command == "query-qmp-schema" and reply.result:
            try:
                schema = Schema.from_introspection(reply.result)
            except SchemaError as error:
                raise ScenarioError(f"{file}:{line}: {error}") from None
            return Vocabulary(schema, "0.0.0")
    return load(DEFAULT)


def _replies(file: str, messages: Sequence[Message]) -> Iterator[_RecordedReply]:
    """Yield the replies in the order in which the server sent them, each with its events.

    Events belong to the reply that follows them while a command is unanswered, and otherwise to
    the reply before them.
    """
    unanswered: list[Message] = []
    before: list[ScriptedEvent] = []
    last: _RecordedReply | None = None
    for one in messages:
        if one.command is not None:
            unanswered.append(one)
        if one.who == "client" or one.is_greeting or not isinstance(one.value, dict):
            continue
        if one.is_event:
            event = _event(file, one)
            if unanswered or last is None:
                before.append(event)
            else:
                reply = last.reply._replace(events=[*last.reply.events, event])
                last = last._replace(reply=reply)
            continue
        command = next((asked for asked in unanswered if _id(asked) == _id(one)), None)
        if command is None or _refuses_input(one.value):
            continue
        unanswered.remove(command)
        if last is not None:
            yield last
        last = _RecordedReply(command.line, _reply(file, command, one, before))
        before = []
    if last is not None:
        yield last


def _id(message: Message) -> object:
    return message.value.get("id")


def _refuses_input(value: dict[str, Any]) -> bool:
    """Return whether a reply is an error about input that is not a command."""
    error = value.get("error")
    desc = error.get("desc") if isinstance(error, dict) else None
    return _REFUSAL.match(str(desc)) is not None


def _event(file: str, message: Message) -> ScriptedEvent:
    name, data = message.value["event"], message.value.get("data")
    if not isinstance(name, str) or not isinstance(data, dict | None):
        raise ScenarioError(f"{file}:{message.line}: {shown(message.value)} is not an event")
    return ScriptedEvent(name, data)


def _reply(
    file: str,
    command: Message,
    answer: Message,
    before: Sequence[ScriptedEvent],
) -> Reply:
    arguments = command.value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ScenarioError(f"{file}:{command.line}: {shown(arguments)} is not an object")
    try:
        check_patterns(arguments)
    except PatternError as error:
        raise ScenarioError(f"{file}:{command.line}: {error}") from None
    value = answer.value
    refusal = value.get("error")
    if refusal is not None:
        if not isinstance(refusal, dict) or not all(
            isinstance(refusal.get(name), str) for name in ("class", "desc")
        ):
            message = f"{shown(refusal)} is not an error; it must have a class and a desc"
            raise ScenarioError(f"{file}:{answer.line}: {message}")
    elif "return" not in value:
        raise ScenarioError(f"{file}:{answer.line}: {shown(value)} is neither a reply nor an event")
    return Reply(
        command.command or "",
        arguments,
        times=1,
        result=value.get("return"),
        returns="return" in value,
        error=None if refusal is None else (refusal["desc"], refusal["class"]),
        before=before,
        exact=True,
    )


def _lasting(replies: Sequence[Reply]) -> list[Reply]:
    made: list[Reply] = []
    lasting: set[str] = set()
    for reply in reversed(replies):
        if reply.command == _NEGOTIATION:
            made.append(reply._replace(arguments=None))
            continue
        key = json.dumps([reply.command, reply.arguments], sort_keys=True)
        made.append(reply if key in lasting else reply._replace(times=None))
        lasting.add(key)
    return made[::-1]
