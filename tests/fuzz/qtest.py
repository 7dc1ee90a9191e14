"""Lines of QEMU's test protocol: each gets one answer, and memory keeps its size."""

import base64
import contextlib
import random
from collections.abc import Iterator

from qmpserver.monitor.qtest import Qtest
from tests.fuzz.explore import Case
from tests.monitor.test_qtest import SIZE, Bytes

WORDS = ["endianness", "clock_step", "clock_set", "read", "write", "b64read", "b64write", "memset",
         "readb", "readw", "readl", "readq", "writeb", "writew", "writel", "writeq", "inb", "inw",
         "inl", "outb", "outw", "outl", "irq_intercept_in", "module_load"]  # fmt: skip
NUMBERS = ["0", "1", "0x10", "017", "-1", "0xffff", "65535", "4096", "0xffffffffffffffff",
           "1e3", "", "0b1"]  # fmt: skip


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Give the function that makes a case."""
    memory = Bytes()

    def case(rng: random.Random) -> int:
        qtest = Qtest(memory)
        count = rng.randrange(1, 50)
        for _ in range(count):
            answer = qtest.execute(_line(rng))
            assert answer.startswith(("OK", "FAIL "))
            assert "\n" not in answer
            assert len(memory.bytes) == SIZE
        return count

    yield case


def _line(rng: random.Random) -> str:
    if rng.random() < 0.1:
        letters = [chr(rng.randrange(1, 0x300)) for _ in range(rng.randrange(20))]
        return "".join(letters).replace("\n", "")
    words = [rng.choice(WORDS)]
    for _ in range(rng.choice((0, 1, 2, 2, 3, 3, 4))):
        kind = rng.random()
        if kind < 0.7:
            words.append(rng.choice(NUMBERS))
        elif kind < 0.85:
            words.append("0x" + rng.randbytes(rng.randrange(9)).hex()[rng.randrange(2) :])
        else:
            words.append(base64.b64encode(rng.randbytes(rng.randrange(9))).decode())
    return " ".join(words)
