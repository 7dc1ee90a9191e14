"""QMP messages, whole and spoilt."""

import json
import random

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
MOST_PIECES = 60
FRAGMENTS = [
    *(bytes([byte]) for byte in b"{}[],:\"'\\\n\t 0-Az\x01\xff\xfe\x00\x7f\xc3\xa9"),
    *b"1. e5 E+ 00 .5 1e +1 \\u \\x \\ud800 \\uD834\\uDD1E \\uffff true null %d /**/ ".split(),
    *b"\xed\xa0\x80 \xef\xbf\xbf \xef\xb7\x90 \xc0\x80 \xc1\x81 \xf8\x88\x80\x80\x80".split(),
    *b'\xf4\x90\x80\x80 "a":1 "a" "execute":"nope" "id":5'.split(),
]
NUMBERS = [0, 1, -1, 127, 255, 256, 65535, 1 << 31, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1]
TEXTS = ["", "a", "query-name", "it's", "\u00e9", "\U0001d11e", "\0", "a,b=c", "../x", "x-" * 150]


def spoil(rng: random.Random, said: bytes, most: int = 6) -> bytes:
    """Insert, delete, replace and cut here and there."""
    data = bytearray(said)
    for _ in range(rng.choice([0, 1, 1, 2, 3, most])):
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


def make(rng: random.Random, known: list[bytes] = MESSAGES) -> bytes:
    """Make up something to say: messages glued together, cut, and spoilt."""
    if rng.random() < 0.05:
        return b"".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 30)))
    messages = [rng.choice(known) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    return spoil(rng, rng.choice([b"", b"\n", b" "]).join(messages))


def json_value(rng: random.Random, depth: int = 3) -> object:
    """Make up a JSON value."""
    match rng.randrange(8 if depth else 6):
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.choice(NUMBERS)
        case 3:
            return rng.choice([0.5, -1.0, 1e300, 3.0, rng.uniform(-1e6, 1e6)])
        case 4 | 5:
            return rng.choice(TEXTS)
        case 6:
            return [json_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        case _:
            return {rng.choice(TEXTS): json_value(rng, depth - 1) for _ in range(rng.randrange(4))}


def encode(rng: random.Random, value: object) -> bytes:
    """Write a value in one of the ways that mean the same."""
    match rng.randrange(4):
        case 0:
            return json.dumps(value, ensure_ascii=False).encode()
        case 1:
            return json.dumps(value, separators=(",", ":")).encode()
        case 2:
            return json.dumps(value, indent=rng.randrange(3)).encode()
        case _:
            return json.dumps(value).encode()


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut bytes as a network does: anywhere."""
    size = rng.choice([1, 7, 50, 1000, len(data), len(data)])
    size = max(size, len(data) // MOST_PIECES, 1)
    return [data[at : at + size] for at in range(0, len(data), size)]
