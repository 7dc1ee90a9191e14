"""The same bytes to this program and to a real QEMU: the replies must be equal, byte for byte.

The QEMU is the one that the variable `QEMU` names, or else the system's.
"""

import contextlib
import random
import re
from collections.abc import Iterator

from tests.conftest import qemu_programs
from tests.fuzz.explore import Case
from tests.fuzz.messages import make
from tests.qemu import transcript
from tests.qemu.transcript import OURS, talking

# Of several unexpected arguments QEMU names the first of a hash table's order.
ARGUMENTS = re.compile(rb"arguments[^\w{]*\{[^\w}]*\w")
PATIENCE = 60.0
BATCH = 50  # at once: to wait for each would take most of the time


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Start both once: what ends whatever was begun separates the cases."""
    transcript.PATIENCE = PATIENCE
    options = ["-machine", "none", "-S"]
    release, program = next(iter(qemu_programs().items()))
    ours_options = [*options, "-accel", "soft", "-release", release]
    with talking(OURS, ours_options) as ours, talking([program], options) as theirs:
        pair = ours[0], theirs[0]
        for client in pair:
            client.say([b'{"execute":"qmp_capabilities"}'])

        def case(rng: random.Random) -> int:
            said = [made for _ in range(BATCH) if not ARGUMENTS.search(made := make(rng))]
            # A byte that is an error everywhere ends whatever was begun.
            data = b"".join(made + b'\xff\n{"id":"made %d"}\n' % i for i, made in enumerate(said))
            size = rng.choice([7, 50, 1000, len(data)])
            packets = [data[at : at + size] for at in range(0, len(data), size)]
            replies = [client.say(packets) for client in pair]
            assert replies[0] == replies[1], said
            return len(said)

        yield case
