"""Play a transcript to a server and report where it answers differently.

  qmpctl replay FILE --qmp unix:/tmp/q.sock

FILE is a transcript as 'qmpctl record' writes it, or a conversation that another program captured:
libvirt's .replies, the output of 'socat -v', or a log with the messages of both sides. A transcript
with several clients needs as many --qmp.

Exit status: 0 no difference, 1 differences, 2 FILE is not a transcript, 3 the server cannot be
reached, hangs up, or does not speak QMP. The first answer that does not come ends the replay.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.tools.address import add_qmp, server, servers
from qmpserver.tools.errors import ServerError, UsageError
from qmpserver.tools.numbers import at_least
from qmpserver.transcript import format as transcript_format
from qmpserver.transcript.errors import ReplayError, TranscriptError
from qmpserver.transcript.replay import PATIENCE_S, replay
from qmpserver.transcript.replay_exact import replay_exactly

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Iterator

    from qmpserver.tools.address import ServerAddress
    from qmpserver.transcript.format import Transcript
    from qmpserver.transcript.replay import Difference


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="the transcript; - is stdin")
    parser.add_argument(
        "--timeout",
        type=at_least(0.001, float),
        default=PATIENCE_S,
        metavar="S",
        help="seconds to wait for each expected message (%(default)g)",
    )
    assert transcript_format.__doc__ is not None
    parser.epilog = transcript_format.__doc__.replace("`", "'")


def run(args: argparse.Namespace) -> int:
    """Replay all conversations of a file."""
    try:
        stdin = str(args.file) == "-"
        text = sys.stdin.buffer.read().decode() if stdin else args.file.read_text("utf-8")
        transcripts = transcript_format.read_all(text)
    except TranscriptError as error:
        raise UsageError(f"{args.file}: {error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{args.file}: it is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{args.file}: {error.strerror}") from None
    status = 0
    for one in transcripts:
        addresses = servers(args) if one.rules.exact else [server(args)]
        if one.rules.exact and one.clients > len(addresses):
            raise UsageError(f"{one.clients} clients need {one.clients} servers' addresses")
        for difference in _replay(one, addresses, args.timeout):
            print(f"{args.file}: {difference}")
            status = 1
    return status


def _replay(
    transcript: Transcript, addresses: list[ServerAddress], patience: float
) -> Iterator[Difference]:
    with contextlib.ExitStack() as stack:
        clients = transcript.clients if transcript.rules.exact else 1
        connections = [
            stack.enter_context(_connect(address, patience)) for address in addresses[:clients]
        ]
        try:
            if transcript.rules.exact:
                yield from replay_exactly(transcript, connections, patience)
            else:
                yield from replay(transcript, connections[0], patience)
        except ReplayError as error:
            raise ServerError(f"{addresses[error.client - 1]}: {error}") from None


def _connect(address: ServerAddress, patience: float) -> socket.socket:
    try:
        return address.connect(patience)
    except OSError as error:
        raise ServerError(f"{address}: {error.strerror or error}") from None
