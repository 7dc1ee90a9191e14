"""Odd messages, the same bytes to this program and to a real QEMU, the replies compared.

`tests/fuzz/qemu.py` makes others of them.
"""

from collections.abc import Iterator

import pytest

from qmpserver.releases import Release
from tests.fuzz.messages import MESSAGES
from tests.qemu.transcript import OURS, Client, talking

Pair = tuple[Client, Client]


@pytest.fixture
def pair(release: Release, release_qemu: str) -> Iterator[Pair]:
    """Us and QEMU, both waiting for the negotiation."""
    options = ["-machine", "none", "-S"]
    ours = [*options, "-accel", "soft", "-release", release.name]
    with talking(OURS, ours) as us, talking([release_qemu], options) as qemu:
        yield us[0], qemu[0]


@pytest.mark.slow
@pytest.mark.parametrize("opening", [b"", b'{"execute": "qmp_capabilities"}'])
def test_before_and_after_negotiation(pair: Pair, opening: bytes) -> None:
    ours, theirs = (
        [client.say([opening]), *(client.say([m + b"\n"]) for m in MESSAGES)] for client in pair
    )
    assert ours == theirs


@pytest.mark.slow
def test_nesting(pair: Pair) -> None:
    for depth in (1022, 1023, 1024, 1025):
        data = b'{"id":%b%b}\n' % (b"[" * depth, b"]" * depth)
        ours, theirs = (client.say([data]) for client in pair)
        assert ours == theirs
