"""The program `qmpserver`, which is also `python -m qmpserver.cli`."""

import gc
import os
import signal
import sys

from qmpserver.cli.invocation import FORK_SERVER, is_qemu


def start() -> None:
    """Run the program; SIGINT ends it without a traceback, also while it imports its modules."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    name = sys.argv[0]
    if is_qemu(name) and os.path.exists(name + FORK_SERVER):
        from qmpserver.cli.handover import hand_over

        hand_over(sys.argv)
    gc.disable()  # until the program serves: hardly anything that it makes before is garbage
    from qmpserver.cli.main import main

    main()


if __name__ == "__main__":
    start()
