"""The session: commands allowed in each state, without a socket."""

import json
from typing import Any

import pytest

from qmpserver.qmp import MAX_QUEUED, CommandError, Request, Session
from qmpserver.qmp.session import MAX_WAITING

VERSION = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
NEGOTIATE = b'{"execute": "qmp_capabilities"}\n'
NEGOTIATE_OOB = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}\n'


class Talk:
    """A session, and the outcome of its input."""

    def __init__(self, opening: bytes = NEGOTIATE, **options: Any) -> None:
        self.session = Session(VERSION, **options)
        self.session.take_output()
        if opening:
            assert self.say(opening) == []
            assert self.replies() == [{"return": {}}]

    def say(self, data: bytes) -> list[Request]:
        self.session.receive(data)
        commands = []
        while (command := self.session.next_command()) is not None:
            commands.append(command)
        return commands

    def replies(self) -> list[Any]:
        return [json.loads(line) for line in self.session.take_output().splitlines()]

    def refused(self, data: bytes) -> tuple[str, str]:
        assert self.say(data) == []
        [reply] = self.replies()
        return reply["error"]["class"], reply["error"]["desc"]


def generic(desc: str) -> tuple[str, str]:
    return "GenericError", desc


def test_greeting() -> None:
    assert Session(VERSION).take_output() == (
        b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, '
        b'"capabilities": ["oob"]}}\r\n'
    )
    assert b'"capabilities": []' in Session(VERSION, offer_oob=False).take_output()


def test_only_negotiation_before_negotiation() -> None:
    talk = Talk(b"")
    assert talk.refused(b'{"execute": "query-status"}') == (
        "CommandNotFound",
        "Expecting capabilities negotiation with 'qmp_capabilities'",
    )
    assert not talk.session.negotiated
    assert talk.say(NEGOTIATE) == []
    assert talk.session.negotiated
    [command] = talk.say(b'{"execute": "query-status"}')
    assert command.name == "query-status"


def test_negotiation_is_done_once() -> None:
    assert Talk().refused(NEGOTIATE) == (
        "CommandNotFound",
        "Capabilities negotiation is already complete, command ignored",
    )


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        (b'{"enable": ["x"]}', "Parameter 'null' does not accept value 'x'"),
        (b'{"enable": "oob"}', "Invalid parameter type for 'enable', expected: array"),
        (b'{"enable": ["oob", 1]}', "Invalid parameter type for 'enable[1]', expected: string"),
        (b'{"enable": null}', "Invalid parameter type for 'enable', expected: array"),
        (b'{"foo": 1}', "Parameter 'foo' is unexpected"),
    ],
)
@pytest.mark.parametrize("opening", [b"", NEGOTIATE])
def test_capabilities_are_checked(opening: bytes, arguments: bytes, desc: str) -> None:
    message = b'{"execute": "qmp_capabilities", "arguments": %b}' % arguments
    assert Talk(opening).refused(message) == generic(desc)


def test_oob_can_only_be_enabled_if_offered() -> None:
    talk = Talk(b"", offer_oob=False)
    assert talk.refused(NEGOTIATE_OOB) == generic("Capability oob not available")
    assert not talk.session.negotiated


@pytest.mark.parametrize(
    ("message", "desc"),
    [
        (b"[]", "QMP input must be a JSON object"),
        (b"1 ", "QMP input must be a JSON object"),
        (b"{}", "QMP input lacks member 'execute'"),
        (b'{"execute": 1}', "QMP input member 'execute' must be a string"),
        (b'{"execute": "x", "foo": 1}', "QMP input member 'foo' is unexpected"),
        (b'{"execute": "x", "arguments": []}', "QMP input member 'arguments' must be an object"),
        (b'{"execute": "x", "arguments": null}', "QMP input member 'arguments' must be an object"),
        (b'{"exec-oob": "x"}', "QMP input member 'exec-oob' is unexpected"),
        (b"{@\n", "JSON parse error, stray '@'"),
    ],
)
@pytest.mark.parametrize("opening", [b"", NEGOTIATE])
def test_malformed_commands(opening: bytes, message: bytes, desc: str) -> None:
    assert Talk(opening).refused(message) == generic(desc)


@pytest.mark.parametrize(
    ("message", "desc"),
    [
        (b'{"exec-oob": 1}', "QMP input member 'exec-oob' must be a string"),
        (
            b'{"exec-oob": "a", "execute": "b"}',
            "QMP input member 'execute' clashes with 'exec-oob'",
        ),
    ],
)
def test_malformed_commands_with_oob(message: bytes, desc: str) -> None:
    assert Talk(NEGOTIATE_OOB).refused(message) == generic(desc)


@pytest.mark.parametrize("request_id", ["1", "null", '"x"', '{"a": [1, 2]}', "false", "[]"])
def test_id_comes_back(request_id: str) -> None:
    talk = Talk()
    message = f'{{"execute": "x", "id": {request_id}}}'.encode()
    [command] = talk.say(message)
    talk.session.reply(command, {"a": 1})
    [command] = talk.say(message)
    talk.session.fail(command, CommandError("no"))
    assert talk.say(f'{{"id": {request_id}}}'.encode()) == []
    replies = talk.replies()
    assert [reply["id"] for reply in replies] == [json.loads(request_id)] * 3
    assert [*replies[0]] == ["return", "id"]
    assert [*replies[1]] == ["id", "error"]


def test_arguments_and_result() -> None:
    talk = Talk()
    [command] = talk.say(b'{"execute": "x", "arguments": {"a-b": [1]}}')
    assert (command.name, command.arguments, command.oob) == ("x", {"a-b": [1]}, False)
    talk.session.reply(command, None)
    assert talk.session.take_output() == b'{"return": {}}\r\n'


def test_a_result_that_is_no_json_leaves_the_command_open() -> None:
    talk = Talk()
    [command] = talk.say(b'{"execute": "x"}')
    with pytest.raises(TypeError):
        talk.session.reply(command, object())
    talk.session.fail(command, CommandError("sorry"))
    [reply] = talk.replies()
    assert reply["error"]["desc"] == "sorry"


def test_in_band_commands_wait_for_each_other_and_so_do_errors() -> None:
    talk = Talk()
    [first] = talk.say(b'{"execute": "a"}{"execute": "b"}[]{"execute": "c"}')
    assert first.name == "a"
    assert talk.say(b"") == []
    assert talk.replies() == []
    talk.session.finish(first)
    [second] = talk.say(b"")
    assert second.name == "b"
    assert talk.replies() == []
    talk.session.reply(second, {})
    [third] = talk.say(b"")
    assert third.name == "c"
    assert [*map(list, talk.replies())] == [["return"], ["error"]]
    assert not talk.session.idle
    talk.session.finish(third)
    assert talk.session.idle


def test_oob_overtakes() -> None:
    talk = Talk(NEGOTIATE_OOB)
    [first, urgent] = talk.say(b'{"execute": "a"}{"execute": "b"}{"exec-oob": "u", "id": 1}')
    assert (first.oob, urgent.oob, urgent.name) == (False, True, "u")
    talk.session.reply(urgent, {})
    assert talk.replies() == [{"return": {}, "id": 1}]
    assert talk.session.busy
    talk.session.reply(first, {})
    [second] = talk.say(b"")
    assert second.name == "b"


def test_oob_overtakes_at_most_eight() -> None:
    talk = Talk(NEGOTIATE_OOB)
    commands = b'{"execute": "a"}' * (1 + MAX_QUEUED)
    [first] = talk.say(commands + b'{"exec-oob": "u"}')
    # The ninth that waits would be the urgent one: it is not even read.
    talk.session.finish(first)
    [second, urgent] = talk.say(b"")
    assert (second.name, urgent.name) == ("a", "u")
    talk.session.finish(urgent)
    for _ in range(MAX_QUEUED - 1):
        talk.session.finish(second)
        [second] = talk.say(b"")
    talk.session.finish(second)
    assert talk.say(b"") == []
    assert talk.session.idle


def test_too_much_unread_asks_for_a_pause_and_nothing_is_lost() -> None:
    talk = Talk()
    [command] = talk.say(b'{"execute": "a"}')
    assert talk.session.wants_input
    assert talk.say(b'{"execute": "b"}' * 100) == []
    assert not talk.session.wants_input
    for _ in range(100):
        talk.session.finish(command)
        [command] = talk.say(b"")
    assert talk.session.wants_input


@pytest.mark.parametrize(
    "junk",
    [b"}", b"1 ", b"\xff", b"[]", b"{}\n", b'{"id":1.5}', b"'a'", b"[" * 99 + b"]" * 99, b"[],"],
)
def test_work_is_counted_whatever_comes(junk: bytes) -> None:
    """So that whoever serves several sessions can take turns, also with the worst of them."""
    talk = Talk()
    answers, calls = talk.session.take_output(), 0
    talk.session.receive(junk * (4096 // len(junk)) + b'\xff\n{"execute": "a"}')
    while True:
        before = talk.session.work
        command = talk.session.next_command(8)
        calls += 1
        assert talk.session.work - before <= 8
        if command is not None:
            break
        assert talk.session.work - before == 8
        assert talk.session.output_size < 8 * 200
        answers += talk.session.take_output()
    assert calls > 4096 / 64 / 8
    assert command.name == "a"
    together = Talk()
    together.session.receive(junk * (4096 // len(junk)) + b'\xff\n{"execute": "a"}')
    assert together.session.next_command() is not None
    assert together.session.take_output() == answers + talk.session.take_output()


def test_a_command_that_is_executed_keeps_little_unread() -> None:
    talk = Talk(NEGOTIATE_OOB)
    [_] = talk.say(b'{"execute": "a"}')
    talk.session.receive(b'{"execute": "b"}\n' * 10_000)
    assert talk.session.next_command() is None
    assert not talk.session.wants_input
    assert len(talk.session._unread) < 200


def test_events_only_after_negotiation() -> None:
    session = Session(VERSION)
    session.take_output()
    session.event("STOP", None, 1, 2)
    assert session.take_output() == b""
    session.receive(NEGOTIATE)
    assert session.next_command() is None
    session.event("STOP", None, 1, 2)
    assert session.take_output().endswith(b'"event": "STOP"}\r\n')


def test_pretty() -> None:
    talk = Talk(b"", pretty=True)
    assert talk.say(NEGOTIATE) == []
    assert talk.session.take_output() == b'{\r\n    "return": {\r\n    }\r\n}\r\n'


@pytest.mark.parametrize("opening", [NEGOTIATE, NEGOTIATE_OOB])
def test_long_messages_that_wait_are_bounded(opening: bytes) -> None:
    """Two may be as long as QEMU allows: the one that is executed, and the next."""
    talk = Talk(opening)
    [first] = talk.say(b'{"execute": "a"}')
    assert talk.session.wants_input
    long = b'{"execute": "b", "id": "%b"}' % (b"x" * MAX_WAITING)
    assert talk.say(long) == []
    assert not talk.session.wants_input  # the client's socket is not read any more
    talk.session.reply(first, {})
    second = talk.session.next_command()
    assert second is not None
    assert talk.session.next_command() is None
    assert talk.session.wants_input
    assert talk.say(b'{"execute": "c"}' * 3) == []
    assert talk.session.wants_input
    talk.session.reply(second, {})


@pytest.mark.parametrize("large", [False, True])
def test_a_negotiation_that_the_owner_executes(large: bool) -> None:
    session = Session(VERSION)
    session.hand_out_negotiation = True
    session.take_output()
    enable = ", ".join(['"oob"'] * (5000 if large else 1))
    negotiation = b'{"execute": "qmp_capabilities", "arguments": {"enable": [%b]}, "id": 1}'
    for fails in (True, False):
        session.receive(negotiation % enable.encode())
        request = session.next_command()
        assert isinstance(request, Request)
        assert (request.name, request.arguments["enable"][0]) == ("qmp_capabilities", "oob")
        session.event("STOP", None, 1, 2)
        assert b'"STOP"' in session.take_output()
        if fails:
            session.fail(request, CommandError("busy"))
            assert b'"busy"' in session.take_output()
            session.event("STOP", None, 1, 2)
            assert session.take_output() == b""
            assert not session.negotiated
        else:
            session.reply(request, None)
    assert session.next_command() is None
    assert session.take_output() == b'{"return": {}, "id": 1}\r\n'
    session.receive(b'{"execute": "qmp_capabilities"}')
    assert session.next_command() is None
    assert b"already complete" in session.take_output()
