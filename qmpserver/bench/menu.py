"""Measure servers, this one and QEMU alike, by what their clients and their guests can see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.tools.menu import add_commands

if TYPE_CHECKING:
    import argparse

BENCHES = {
    "cancel": "what follows a cancel: the ack, the reaper's wake, the guest running again",
    "release": "how fast the throttled are let go: by cancel, a raised limit, cont, quit",
    "limit": "how well a limit holds",
    "fair": "what a limit costs those it is not for",
    "guest": "how fast a guest is free, tracked and limited",
    "qmp": "how fast commands are answered, by one client and by many at once",
    "scale": "what more vCPUs and more RAM cost",
    "floor": "what the machine itself costs: a kick, a socket's echo, a page's harvest",
    "start": "how long a server takes from its start to its greeting",
    "compare": "all of it, on this server and QEMU, in one report",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand for each measurement."""
    commands = {name: (f"bench.{name}", line) for name, line in BENCHES.items()}
    add_commands(parser, commands, "WHAT")
