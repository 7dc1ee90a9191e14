"""The program `qmpserver`, which is also `python -m qmpserver.cli`."""

import signal


def start() -> None:
    """Run the program; SIGINT ends it without a traceback, also while it imports its modules."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from qmpserver.cli.main import main

    main()


if __name__ == "__main__":
    start()
