"""The program `qmpctl`: a client of any QMP server, QEMU included.

`commands/__init__.py` says how to add a command, `qmpserver/bench/__init__.py` how to add a
measurement.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import threading

from qmpserver._version import VERSION
from qmpserver.files import open_standard_streams
from qmpserver.tools.address import add_qmp
from qmpserver.tools.errors import QmpctlError, RefusedError, needs
from qmpserver.tools.menu import add_commands

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

COMMANDS = {
    "exec": ("tools.commands.exec", "execute commands"),
    "wait": ("tools.commands.wait", "wait for an event"),
    "schema": ("tools.commands.schema", "explain a command's arguments"),
    "top": ("tools.commands.top", "watch vCPUs: rates, limits, throttling"),
    "migrate": ("tools.commands.migrate", "migrate a guest from one server to another"),
    "record": ("tools.commands.record", "write what a client and a server say to a transcript"),
    "replay": ("tools.commands.replay", "play a transcript to a server and report differences"),
    "completion": ("tools.commands.completion", "print the completion script of a shell"),
    "bench": ("bench.menu", "measure servers"),
    "guest": ("bench.guest_image", "write the guest 'dirty' as a firmware image for QEMU"),
}


FIRST_STEPS = """\
Begin with a server, in another terminal, and ask it:

  qmpserver -qmp unix:/tmp/q.sock,server=on,wait=off
  qmpctl --qmp unix:/tmp/q.sock exec query-status
  qmpctl --qmp unix:/tmp/q.sock schema

'qmpctl COMMAND --help' tells more of each, with examples.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return the exit status."""
    open_standard_streams()
    exit_on_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a server may send any character
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except RefusedError as error:
        print(f"qmpctl: {error.place} is refused: {error}", file=sys.stderr)
        return error.status
    except QmpctlError as error:
        print(f"qmpctl: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"qmpctl: cannot write the output: {error.strerror}", file=sys.stderr)
        return QmpctlError.status
    except KeyboardInterrupt:
        return 130
    return status


def exit_on_signals() -> None:
    """Exit in order at SIGTERM and SIGHUP: servers that were started must not stay behind."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():  # no other may
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, leave)


def _run(arguments: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="qmpctl",
        description="A client of any QMP server: qmpserver, QEMU, or another one.",
        epilog=FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qmpctl {VERSION}")
    add_qmp(parser, dest="qmp")
    add_commands(parser, COMMANDS, "COMMAND")
    if "_ARGCOMPLETE" in os.environ:
        with needs("completion", "argcomplete", "tools"):
            import argcomplete
        argcomplete.autocomplete(parser, always_complete_options=False)
    args = parser.parse_args(arguments)
    if args.qmp and "qmp_here" not in args:
        parser.error("--qmp: this command does not use a server that is already running")
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
