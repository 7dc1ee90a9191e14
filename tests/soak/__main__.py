"""Load on a machine and a stand-in for a long time; at the end, whether they are as at the start.

Clients come and go, politely or not, on sockets, human monitors and the web face; limits,
measurements, resets and migrations follow each other. Every so often memory, threads, descriptors
and latency are sampled. The exit status is 1 if one of them grows.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.load import Load
from tests.soak.programs import machine_options, running
from tests.soak.samples import HEADER, Samples, draw

NAMES = ("machine", "stand-in")


async def soak(seconds: float, every: float, seed: int, picture: str | None) -> bool:
    """Run; print the table; return whether all is flat."""
    with tempfile.TemporaryDirectory(prefix="soak") as temporary:
        directory = Path(temporary)
        async with (
            running(NAMES[0], directory, *machine_options(directory)) as machine,
            running(NAMES[1], directory, "-fake", "default") as stand_in,
        ):
            control = await machine.client()
            watched = [(one, await one.client()) for one in (machine, stand_in)]
            load = Load(random.Random(seed), machine, stand_in, control)
            samples = [Samples(*one) for one in watched]
            end = time.monotonic() + seconds
            due = 0.0
            while (now := time.monotonic()) < end:
                if now >= due:
                    due = now + every
                    for one in samples:
                        await one.take()
                await load.round()
            for _, client in watched:
                await client.close()
            await control.close()
    print(", ".join(f"{count} {name}" for name, count in sorted(load.done.items())))
    verdicts = [verdict for one in samples for verdict in one.verdicts()]
    print(HEADER, *verdicts, sep="\n", flush=True)
    if picture is not None:
        draw(samples, NAMES, picture)
    return all(verdict.flat for verdict in verdicts)


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60, help="duration (60)")
    parser.add_argument("--every", type=float, help="seconds between samples; by default 60 in all")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the steps (1)")
    parser.add_argument("--picture", metavar="FILE", help="draw the samples, as PNG or SVG")
    args = parser.parse_args()
    every = args.seconds / 60 if args.every is None else args.every
    sys.exit(not asyncio.run(soak(args.seconds, every, args.seed, args.picture)))


if __name__ == "__main__":
    main()
