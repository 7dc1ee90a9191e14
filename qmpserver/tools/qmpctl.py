"""The program ``qmpctl``: a client of any QMP server, QEMU included.

To add a command: write ``commands/NAME.py`` with ``configure(parser)`` and ``run(args)`` (see
`menu.add_commands`), and name it in `COMMANDS`. A measurement goes into ``bench/NAME.py`` and into
`BENCHES` of ``commands/bench.py`` in the same way; ``bench/servers.py`` runs the servers that it
is to measure, and ``bench/report.py`` shows, stores and plots what it found.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import os
import sys

from qmpserver._version import VERSION
from qmpserver.tools.address import add_qmp
from qmpserver.tools.errors import QmpctlError
from qmpserver.tools.menu import add_commands

COMMANDS = {
    "exec": ("tools.commands.exec", "execute a command"),
    "schema": ("tools.commands.schema", "explain a command's arguments"),
    "top": ("tools.commands.top", "watch vCPUs: rates, limits, throttling"),
    "record": ("tools.commands.record", "write what a client and a server say to a transcript"),
    "replay": ("tools.commands.replay", "play a transcript to a server and report differences"),
    "completion": ("tools.commands.completion", "print what makes a shell complete"),
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
    """Run the program; returns the exit status."""
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
        import argcomplete

        argcomplete.autocomplete(parser, always_complete_options=False)
    args = parser.parse_args(arguments)
    if args.qmp and "qmp_here" not in args:
        parser.error("--qmp: this command is not about a server that runs already")
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except QmpctlError as error:
        print(f"qmpctl: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
