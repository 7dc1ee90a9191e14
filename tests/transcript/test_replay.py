"""Playing transcripts to servers that misbehave, over a pair of sockets."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from qmpserver.transcript import replay as module
from qmpserver.transcript.errors import ReplayError
from qmpserver.transcript.format import read
from qmpserver.transcript.replay import replay
from qmpserver.transcript.replay_exact import MAX_EARLY, replay_exactly

GREETING = b'{"QMP": {}}\r\n'
DONE = b'{"return": {}}\r\n'


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]
STOP = '-> {"execute": "stop"}\n<- {"return": {}}\n'
EXACT = f"#! exact\n{STOP}"


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"", r"no QMP greeting: .* \(after 0.1 s\)"),
        (None, "the server has hung up"),
        (b'{"hello": 1}\r\n', "it sent text that is not QMP: '{\"hello\": 1}'"),
        (b"x" * 20_000, "it sends a message of over"),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_a_bad_greeting(
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    sent: bytes | None,
    text: str,
    exact: bool,
) -> None:
    ours, theirs = pair
    monkeypatch.setattr(module, "MAX_MESSAGE", 10_000)
    monkeypatch.setattr("qmpserver.transcript.replay_exact.MAX_MESSAGE", 10_000)
    if sent is None:
        theirs.close()
    else:
        theirs.sendall(sent)
    play = replay_exactly(read(EXACT), [ours], 0.1) if exact else replay(read(STOP), ours, 0.1)
    with pytest.raises(ReplayError, match=text) as caught:
        list(play)
    assert caught.value.client == 1


def test_the_client_whose_server_is_bad_is_named(pair: Pair) -> None:
    good, bad = socket.socketpair()
    with closing(good), closing(bad):
        bad.sendall(GREETING)
        pair[1].sendall(b"else\r\n")
        two = read(f"{EXACT}2-> {{}}\n")
        assert two.clients == 2
        with pytest.raises(ReplayError, match="not QMP") as caught:
            list(replay_exactly(two, [good, pair[0]], 1.0))
        assert caught.value.client == 2


def test_exact_answers(pair: Pair) -> None:
    pair[1].sendall(GREETING + DONE + b'{"more": 1}\r\n')
    pair[1].shutdown(socket.SHUT_WR)
    (difference,) = replay_exactly(read(EXACT), [pair[0]], 1.0)
    assert str(difference) == 'at the end: stop: unexpected answer {"more": 1}'
    assert pair[1].recv(100) == b'{"execute": "stop"}\n'


def test_replies_are_taken_by_id(pair: Pair) -> None:
    ids = (
        '-> {"execute": "qmp_capabilities"}\n<- {"return": {}}\n'
        '-> {"execute": "a", "id": 1}\n-> {"execute": "b", "id": 2}\n'
        '<- {"return": "a", "id": 1}\n<- {"return": "b", "id": 2}\n'
    )
    pair[1].sendall(GREETING + DONE + b'{"return": "b", "id": 2}\n{"return": "x", "id": 1}\n')
    (difference,) = replay(read(ids), pair[0], 1.0)
    assert str(difference) == 'line 5: a: return: "x" instead of "a"'


def test_a_descriptor_beyond_select(pair: Pair) -> None:
    """select() takes none above 1023."""
    with closing(socket.socket(fileno=_above(pair[0]))) as high:
        pair[1].sendall(GREETING + DONE + DONE)
        assert list(replay(read(STOP), high, 1.0)) == []


def _above(one: socket.socket) -> int:
    import fcntl
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft <= 1100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
    return fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 1050)


def test_a_late_event_is_waited_for(pair: Pair) -> None:
    event = b'{"event": "STOP"}\n'
    pair[1].sendall(GREETING + DONE + DONE)
    later = threading.Timer(0.05, pair[1].sendall, [event])
    later.start()
    assert list(replay(read(f'{STOP}<- {{"event": "STOP"}}\n'), pair[0], 5.0)) == []
    later.join()


def test_an_exact_replay_ends_with_the_connection(pair: Pair) -> None:
    pair[1].sendall(GREETING + DONE)
    pair[1].shutdown(socket.SHUT_WR)
    (difference,) = replay_exactly(read(EXACT + STOP + STOP), [pair[0]], 1.0)
    assert str(difference) == "line 5: stop: it is (end)"


@pytest.mark.parametrize(("name", "most"), [("MAX_WAITING", 3), ("MAX_WAITING_SIZE", 60)])
def test_messages_that_nothing_expects_are_bounded(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    ours, theirs = pair
    monkeypatch.setattr(module, name, most)
    theirs.sendall(GREETING + DONE + b'{"event": "STOP"}\r\n' * 4)
    with pytest.raises(ReplayError, match="more messages than can be kept"):
        list(replay(read(STOP), ours, 5.0))


EARLY = (
    '-> {"execute": "qmp_capabilities"}\n<- {"QMP": "<object>"}\n<- {"return": {}}\n'
    '-> {"execute": "stop"}\n<- {"return": {}}\n'
)


def test_a_client_that_speaks_before_the_greeting(pair: Pair) -> None:
    pair[1].sendall(GREETING + DONE + b'{"return": 5}\r\n')
    (difference,) = replay(read(EARLY), pair[0], 1.0)
    assert str(difference) == "line 5: stop: return: 5 instead of {}"


def test_exact_events_before_the_greeting(pair: Pair) -> None:
    event = '{"event": "STOP"}'
    pair[1].sendall(f"{event}\r\n".encode() * 2 + GREETING + DONE)
    pair[1].shutdown(socket.SHUT_WR)
    text = f"#! exact\n<- {event}\n<- {event}\n<- (end)\n"
    (difference,) = replay_exactly(read(text), [pair[0]], 1.0)
    assert str(difference) == 'line 4: (no command): it is {"return": {}}'


def test_events_before_an_exact_greeting_are_bounded(pair: Pair) -> None:
    pair[1].sendall(b'{"event": "STOP"}\r\n' * (MAX_EARLY + 1))
    with pytest.raises(ReplayError, match="more messages than can be kept"):
        list(replay_exactly(read(EXACT), [pair[0]], 1.0))
