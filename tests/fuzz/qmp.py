"""Bytes to a session without sockets: cut anywhere, and on each path of the parser and the writer.

The replies must be the same bytes without the fast path, with it, and if all is large.
"""

import contextlib
import random
from collections.abc import Iterator

from tests.fuzz.explore import Case
from tests.fuzz.messages import pieces
from tests.fuzz.sessions import conversation, replies
from tests.qmp.test_large import everything_is_large

CONVERSATIONS = 50
LARGE = 0.1  # the part of them that is handled in steps, too: this takes longest


def check(rng: random.Random) -> int:
    """Compare the replies to one conversation; return its messages."""
    said = conversation(rng)
    data = b"".join(said)
    expected = replies([data], fast=False)
    got = replies(pieces(rng, data))
    assert got == expected, f"said {data!r}\ngot {got!r}\nexpected {expected!r}"
    if rng.random() < LARGE:
        with everything_is_large():
            got = replies(pieces(rng, data), fast=rng.random() < 0.5)
        assert got == expected, f"said {data!r}\nlarge {got!r}\nexpected {expected!r}"
    return len(said)


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Each case has some conversations."""
    yield lambda rng: sum(check(rng) for _ in range(CONVERSATIONS))
