"""The native receiver of pages under the address sanitizer: `tests/vm/native/stream_fuzz.c`."""

import contextlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.explore import Case

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "qmpserver" / "vm" / "accel" / "native"
STREAMS = 1000  # in a case


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Build the harness; it names the seed of a stream that fails."""
    program = Path("stream_fuzz").absolute()
    sources = [path for path in NATIVE.rglob("*.c") if not path.name.startswith("_native")]
    command = ["gcc", "-std=gnu11", "-g", "-O1", f"-I{NATIVE}", "-fsanitize=address,undefined"]
    command += ["-fno-sanitize-recover=all", "-pthread", "-o", str(program)]
    harness = ROOT / "tests" / "vm" / "native" / "stream_fuzz.c"
    subprocess.run([*command, str(harness), *map(str, sources)], check=True)

    def case(rng: random.Random) -> int:
        seed = rng.randrange(1, 1 << 48)
        subprocess.run(
            [str(program), str(STREAMS), str(seed)], check=True, stdout=subprocess.DEVNULL
        )
        return STREAMS

    yield case
