"""Play a transcript to a server and report where it answers differently.

  qmpctl replay FILE --qmp unix:/tmp/q.sock

FILE is a transcript as 'qmpctl record' writes it, or a conversation that something else captured:
libvirt's .replies, what 'socat -v' printed, or a log with both sides' messages.

Exit status: 0 no difference, 1 differences, 2 the transcript makes no sense, 3 the server can't be
reached, hangs up, or does not speak QMP. The first answer that does not come ends it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.tools.address import add_qmp, server, servers
from qmpserver.tools.errors import UsageError
from qmpserver.tools.numbers import at_least
from qmpserver.transcript import format as transcript
from qmpserver.transcript.replay import PATIENCE_S, replay
from qmpserver.transcript.replay_exact import replay_exactly

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="the transcript; - is stdin")
    parser.add_argument(
        "--timeout",
        type=at_least(0.001, float),
        default=PATIENCE_S,
        metavar="S",
        help="how long to wait for each message that is expected (%(default)g)",
    )
    assert transcript.__doc__ is not None
    parser.epilog = transcript.__doc__.rpartition("\n\n")[0]  # but for what programmers read


def run(args: argparse.Namespace) -> int:
    """Replay."""
    try:
        text = sys.stdin.read() if str(args.file) == "-" else args.file.read_text("utf-8")
        conversations = transcript.read_all(text)
    except transcript.TranscriptError as error:
        raise UsageError(f"{args.file}: {error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{args.file}: it is no text") from None
    except OSError as error:
        raise UsageError(f"{args.file}: {error.strerror}") from None
    status = 0
    for said in conversations:
        if said.rules.exact:
            differences = replay_exactly(said, servers(args), args.timeout)
        else:
            differences = replay(said, server(args), args.timeout)
        for difference in differences:
            print(f"{args.file}: {difference}")
            status = 1
    return status
