"""Command lines of libvirt's own tests: `python -m tests.standin.libvirt_lines DIRECTORY [NAMES]`.

DIRECTORY is `tests/qemuxmlconfdata` of libvirt's source, NAMES a part of the files' names
(`x86_64`). Each line is given to a stand-in of the newest release, and if that refuses it to those
of the older ones, and then to one that takes any device. Libvirt's tests never start a QEMU, and
have disks and devices that each release refuses. What all refuse is shown, with the newest one's
reason.
"""

import asyncio
import contextlib
import itertools
import os
import re
import shlex
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from qmpserver.cli.commandline import parse_command_line
from qmpserver.cli.run import _launch, _open_monitors
from qmpserver.cli.settings import CommandLineError
from qmpserver.cli.standins import StandIns
from qmpserver.releases import NEWEST, RELEASES

# What is the tests' own: paths, addresses, and the numbers of sockets that are passed on.
_PATH = re.compile(r"(?<=,path=)(?:[^,]|,,)*")
_NEWEST_FIRST = list(RELEASES)[::-1]
_BY_RELEASES = [f"by {name}" for name in _NEWEST_FIRST]
_BY_ANY = "by any-device"
_REFUSED = "refused"
_FD = re.compile(r"(?<=,fd=)\d+")


def lines(directory: Path, pattern: str) -> Iterator[tuple[str, list[str]]]:
    """Yield name and words of each command line; the first word is the program."""
    for path in sorted(directory.glob(f"*{pattern}*.args")):
        words = shlex.split(path.read_text().replace("\\\n", " "))
        start = next(i for i, word in enumerate(words) if word.startswith("/"))
        yield path.stem, words[start:]


async def refusal(words: list[str], release: str, scenario: str) -> str | None:
    """Return why a stand-in of a release refuses a command line; None if it takes it."""
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/qmp")
        listener.listen()
        os.mkfifo(f"{place}/pipe")
        given = ["-fake", f"{scenario},schema={release}"]
        for option, value in itertools.pairwise(words):
            if option == "-chardev" and value.startswith("socket,"):
                value = _PATH.sub(
                    f"{place}/{len(given)}", value.replace("=1.2.3.4,", "=127.0.0.1,")
                )
                value = _FD.sub(lambda _: str(os.dup(listener.fileno())), value)
            if option == "-add-fd":
                value = _FD.sub(lambda _: str(os.open(os.devnull, os.O_WRONLY)), value)
            if option == "-chardev" and value.startswith("pipe,"):
                value = _PATH.sub(f"{place}/pipe", value)
            if option == "-incoming":
                value = value.replace("10.0.0.1:5000", "127.0.0.1:0")
                value = re.sub("^fd:.*", lambda _: f"fd:{_inherited(listener)}", value)
            given.append(value)
        stand_ins = None
        try:
            stand_ins = StandIns(parse_command_line(given))
            (member,) = stand_ins.members
            async with contextlib.AsyncExitStack() as stack:
                launch = partial(_launch, member, stack)
                await _open_monitors(member.settings, member.stand_in, launch)
        except CommandLineError as error:
            return str(error)
        finally:
            if stand_ins is not None:
                with contextlib.suppress(OSError):  # a number in the line is a descriptor here
                    await stand_ins.close()
    return None


def _inherited(source: socket.socket) -> int:
    """Return a descriptor of a socket that the program seems to have inherited."""
    fd = os.dup(source.fileno())
    os.set_inheritable(fd, True)
    return fd


async def taker(words: list[str], any_device: str) -> tuple[str, str | None]:
    """Return who takes a command line, and why no release does if that is so.

    Args:
        words: The command line.
        any_device: The scenario of a machine that takes any device.
    """
    reasons = []
    for name in _NEWEST_FIRST:
        reason = await refusal(words, name, "default")
        if reason is None:
            return f"by {name}", None
        reasons.append(reason)
    refused = await refusal(words, NEWEST.name, any_device)
    return _BY_ANY if refused is None else _REFUSED, refused or reasons[0]


async def main(directory: str, pattern: str = "") -> int:
    """Print what is refused, and how many are taken."""
    counts: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as scenario:
        scenario.write("[machine]\nany-device = true\n")
        scenario.flush()
        for name, words in lines(Path(directory), pattern):
            by, reason = await taker(words, scenario.name)
            counts[by] += 1
            if reason is not None:
                print(f"{name}: {by}: {reason}")
    taken = counts.total() - counts[_REFUSED]
    parts = ", ".join(f"{counts[by]} {by}" for by in (*_BY_RELEASES, _BY_ANY, _REFUSED))
    print(f"{taken} of {counts.total()} taken: {parts}")
    return int(counts[_REFUSED] > 0)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
