"""The judge of test_migration.py as a process that others stop: `... ACCEL ROUNDS`.

It waits for a line on standard input and prints one JSON object. `CUT=1` has the software
accelerator cut resets short itself, `CANARY=0` takes the canary away.
"""

import json
import os
import random
import sys
import threading

from tests.vm.conftest import Rig
from tests.vm.dirty.test_migration import copy_pages, differing

CUT = os.environ.get("CUT") == "1"
CANARY = os.environ.get("CANARY") != "0"


def migrate(rig: Rig, rng: random.Random) -> int:
    """Copy the RAM of the running guest while it is reaped all the time; return the pages lost."""
    done = threading.Event()

    def reap() -> None:
        while not done.is_set():
            if CUT and rng.random() < 0.05:
                rig.soft_cut_reset()
            rig.engine.reap()

    rig.engine.cont()
    rig.marked()
    copy = bytearray(rig.ram.buffer[:])
    reaper = threading.Thread(target=reap)
    reaper.start()
    for _ in range(3):
        rig.advance(400)
        copy_pages(rig, copy, rig.marked())
    done.set()
    reaper.join()
    rig.park()
    copy_pages(rig, copy, rig.marked())
    return len(differing(rig, copy))


def main() -> None:
    accel, rounds = sys.argv[1], int(sys.argv[2])
    rng = random.Random(11)
    lost = lossy = 0
    rig = Rig(accel, vcpus=1, ring=1024, ram=4 << 20, pattern="random", size="512K")
    log = rig.engine._ptr.log
    if not CANARY:
        log.canary.ring.size = 0
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(rounds):
        missing = migrate(rig, rng)
        lost += missing
        lossy += missing > 0
    told = {"rounds": rounds, "lost": lost, "lossy": lossy}
    print(json.dumps({**told, "cuts": log.cut_resets, "hidden": log.hidden_cuts}), flush=True)
    rig.close()


if __name__ == "__main__":
    main()
