"""Measure servers, this one and QEMU alike, from outside: by their answers and their guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.tools.menu import add_commands

if TYPE_CHECKING:
    import argparse

BENCHES = {
    "cancel": "time from a cancel to its ack, the reaper's wake, the guest running again",
    "release": "how fast throttled vCPUs are released: by cancel, a raised limit, cont",
    "limit": "how well a limit holds",
    "fair": "the cost of a limit to guests that it does not limit",
    "migrate": "a migration: speed, downtime, the pause that the guest feels",
    "converge": "ways to end a migration of a busy guest, side by side",
    "guest": "how fast a guest runs free, tracked and limited",
    "qmp": "how fast commands are answered, for one client and for many",
    "scale": "the cost of more vCPUs and more RAM",
    "machines": "the cost of a machine among many, and their latency",
    "floor": "costs of the machine itself: a kick, a socket's echo, a page's harvest",
    "start": "time from a server's start to its greeting",
    "stream": "how fast RAM travels to another process, beside the bare system calls",
    "compare": "all measurements, on this server and QEMU, in one report",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand for each measurement."""
    commands = {name: (f"bench.{name}", line) for name, line in BENCHES.items()}
    add_commands(parser, commands, "WHAT")
