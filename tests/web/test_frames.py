"""The check that a client masks its frames: it changes nothing in frames that are masked."""

import random

import pytest

from qmpserver.web.frames import REFUSED, MaskedFrames


class Taken:
    """A reader that keeps all bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return self.data.endswith(REFUSED), b""

    def feed_eof(self) -> None:
        self.ended = True


def frame(length: int, masked: bool = True) -> bytes:
    mask = b"MASK" if masked else b""
    payload = b"\x01" * length  # looks like the header of a frame that is not masked
    if length < 126:
        size = bytes([length])
    elif length < 1 << 16:
        size = bytes([126]) + length.to_bytes(2, "big")
    else:
        size = bytes([127]) + length.to_bytes(8, "big")
    return bytes([0x81, size[0] | 0x80 * masked]) + size[1:] + mask + payload


SIZES = [0, 1, 125, 126, 127, 1000, 65536]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 1000, 1 << 20])
def test_bytes_are_passed_on_however_they_come(most: int) -> None:
    rng = random.Random(most)
    data = b"".join(map(frame, SIZES))
    taken = Taken()
    reader = MaskedFrames(taken)
    left = data
    while left:
        size = rng.randint(1, most)
        assert reader.feed_data(left[:size]) == (False, b"")
        left = left[size:]
    reader.feed_eof()
    assert taken.data == data
    assert taken.ended


@pytest.mark.parametrize("length", SIZES)
@pytest.mark.parametrize("before", SIZES)
@pytest.mark.parametrize("step", [1, 9, 1 << 20])
def test_a_frame_that_is_not_masked(length: int, before: int, step: int) -> None:
    data = frame(before) + frame(length, masked=False)
    taken = Taken()
    reader = MaskedFrames(taken)
    for start in range(0, len(data), step):
        ended, _ = reader.feed_data(data[start : start + step])
        if ended:
            break
    assert ended
    assert taken.data == frame(before) + REFUSED
