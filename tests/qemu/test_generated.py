"""Messages made up, the same bytes to this program and to a real QEMU, the replies compared.

QMPSERVER_EXCHANGES says how many, QMPSERVER_SEED which ones.
"""

import os
import random
import re
from collections.abc import Iterator

import pytest

from tests.qemu.transcript import OURS, QEMU, Client, talking

EXCHANGES = int(os.environ.get("QMPSERVER_EXCHANGES", "20000"))
SEED = int(os.environ.get("QMPSERVER_SEED", "1"))
# Of several unexpected arguments QEMU names the first of a hash table's order.
ARGUMENTS = re.compile(rb"arguments[^\w{]*\{[^\w}]*\w")
BATCH = 50  # at once: to wait for each would take most of the time

MESSAGES = [
    b'{"execute":"query-name"}',
    b'{"execute":"query-name","id":1}',
    b'{"execute":"query-name","arguments":{},"id":{"a":[1,2.5,-3e2,null,true,false],'
    b'"b":"x\\u00e9\\ud834\\udd1e"}}',
    b"{'execute':'query-name','id':'it\\'s'}",
    b'{"execute":"nope","id":"\xc3\xa9\xf0\x9d\x84\x9e\\n\\"\\\\"}',
    b'{"id":[18446744073709551615,-9223372036854775808,9223372036854775808,1e5,1.0,-0.0,'
    b"99999999999999999999,0.1,-0,0,1e400,123456789012345678]}",
    b'{"execute":"query-name","foo":1,"bar":2}',
    b'[1,2,{"a":{}}]',
    b'{"exec-oob":"query-name","id":7}',
    b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
    b'{"execute":1}',
    b"{}",
    b'"str" true nul 12 ',
    b'{"execute":"query-name","id":"a","id":"b"}',
    b'{"a":1,"arguments":[],"execute":"x"}',
    b'{"id":"\\u0000\\/\\b\\f\\t\\r", "execute":"nope"}',
    b'{"execute":"query-name","id":{"key":1,"other":2,"z":3,"return":4,"desc":5,"class":6}}',
    b'{"exec-oob":"nope","execute":"nope2"}',
    b'{"execute":"nope\xc0\x80","id":"\\u007f"}',
]
FRAGMENTS = [
    *(bytes([byte]) for byte in b"{}[],:\"'\\\n\t 0-Az\x01\xff\xfe\x00\x7f\xc3\xa9"),
    *b"1. e5 E+ 00 .5 1e +1 \\u \\x \\ud800 \\uD834\\uDD1E \\uffff true null %d /**/ ".split(),
    *b"\xed\xa0\x80 \xef\xbf\xbf \xef\xb7\x90 \xc0\x80 \xc1\x81 \xf8\x88\x80\x80\x80".split(),
    *b'\xf4\x90\x80\x80 "a":1 "a" "execute":"nope" "id":5'.split(),
]


Pair = tuple[Client, Client]


@pytest.fixture
def pair(qemu: None) -> Iterator[Pair]:
    """Us and QEMU, both waiting for the negotiation."""
    options = ["-machine", "none", "-S"]
    with talking(OURS, [*options, "-accel", "soft"]) as ours, talking(QEMU, options) as theirs:
        yield ours[0], theirs[0]


def make(rng: random.Random) -> bytes:
    """Make up something to say: messages glued together, cut, and spoilt."""
    if rng.random() < 0.05:
        return b"".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 30)))
    messages = [rng.choice(MESSAGES) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    data = bytearray(rng.choice([b"", b"\n", b" "]).join(messages))
    for _ in range(rng.choice([0, 1, 1, 2, 3, 6])):
        start = rng.randint(0, len(data))
        end = start + rng.randint(0, 8)
        match rng.choice(["insert", "insert", "delete", "replace", "byte", "cut"]):
            case "insert":
                data[start:start] = rng.choice(FRAGMENTS)
            case "delete":
                del data[start:end]
            case "replace":
                data[start:end] = rng.choice(FRAGMENTS)
            case "byte":
                data[start : start + 1] = bytes([rng.randrange(256)])
            case "cut":
                del data[start:]
    return bytes(data)


@pytest.mark.slow
def test_the_same_answers(pair: Pair) -> None:
    rng = random.Random(SEED)
    for client in pair:
        client.say([b'{"execute":"qmp_capabilities"}'])
    compared = 0
    while compared < EXCHANGES:
        said = [made for _ in range(BATCH) if not ARGUMENTS.search(made := make(rng))]
        # A byte that is an error everywhere ends whatever was begun.
        data = b"".join(made + b'\xff\n{"id":"made %d"}\n' % i for i, made in enumerate(said))
        size = rng.choice([7, 50, 1000, len(data)])
        packets = [data[at : at + size] for at in range(0, len(data), size)]
        ours, theirs = (client.say(packets) for client in pair)
        assert ours == theirs, f"{said}"
        compared += len(said)


@pytest.mark.parametrize("opening", [b"", b'{"execute": "qmp_capabilities"}'])
def test_before_and_after_negotiation(pair: Pair, opening: bytes) -> None:
    ours, theirs = (
        [client.say([opening]), *(client.say([m + b"\n"]) for m in MESSAGES)] for client in pair
    )
    assert ours == theirs


def test_nesting(pair: Pair) -> None:
    for depth in (1022, 1023, 1024, 1025):
        data = b'{"id":%b%b}\n' % (b"[" * depth, b"]" * depth)
        ours, theirs = (client.say([data]) for client in pair)
        assert ours == theirs
