"""The program `qmpserver`, which is also `python -m qmpserver.cli`."""

import gc
import signal


def start() -> None:
    """Run the program; SIGINT ends it without a traceback, also while it imports its modules."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # until the program serves: hardly anything that it makes before is garbage
    from qmpserver.cli.main import main

    main()


if __name__ == "__main__":
    start()
