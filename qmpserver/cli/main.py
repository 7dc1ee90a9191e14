"""The program `qmpserver`: its process, from the command line to the exit status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from qmpserver.cli import descriptors, invocation, messages
from qmpserver.cli.commandline import named, parse_command_line
from qmpserver.cli.daemon import daemonize, rename_process
from qmpserver.cli.run import run
from qmpserver.cli.settings import CommandLineError
from qmpserver.files import open_standard_streams
from qmpserver.monitor import FdAddress, SocketChardev

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> NoReturn:
    """Run the program; exit with status 1 after an error.

    The error is one line for a command line that is wrong or that this host cannot satisfy, the
    unmet expectations of a stand-in, and a traceback for anything else.
    """
    try:
        open_standard_streams()
        succeeded = _main()
    except CommandLineError as error:
        messages.report(str(error))
        if error.hint:
            messages.show(error.hint)
        _leave(1)
    except Exception as error:
        messages.report_crash(error)
        os._exit(1)  # vCPU threads that were not ended would lose their memory in an orderly exit
    _leave(0 if succeeded else 1)


def _leave(status: int) -> NoReturn:
    """End the process without the interpreter's own end, which takes half the time of a `quit`.

    Everything that was opened is closed by now. The interpreter would also change the status where
    output cannot be written, from Python 3.13 on.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader may be gone
            if stream is not None:  # as it is if the process was started without the descriptor
                stream.flush()
    os._exit(status)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # it is compiled, and not for every system
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _serve_forks(link: str, given: set[str]) -> NoReturn:
    # For the children: what is imported before the fork is in memory once.
    import hashlib  # noqa: F401

    import qmpserver.standin.human  # noqa: F401
    from qmpserver.cli import forkserver, standins  # noqa: F401

    _loop_factory()

    if len(given) > 1:
        raise CommandLineError("-fork-server: the link's callers give the other options")
    fake = parse_command_line(invocation.arguments([link])).fake
    assert fake is not None
    _, scenario = fake  # it has been read, with its schema
    _ = scenario.release.facts
    for command in scenario.schema.commands.values():
        _ = command.arguments, command.returns  # types are made when they are needed
    with named("fork-server", link):
        forkserver.serve(link, main)


def _main() -> bool:
    messages.limit_repeats()
    settings = parse_command_line(invocation.arguments(sys.argv))
    if settings.exit_with is not None:
        try:
            print(settings.exit_with, flush=True)
        except OSError as error:
            raise CommandLineError(f"cannot write the output: {error.strerror}") from None
        return True
    if settings.fork_server is not None:
        _serve_forks(settings.fork_server, settings.given)
    messages.report.timestamps = settings.timestamps
    messages.report.guest = settings.name if settings.guest_name else None
    for warning in settings.warnings:
        messages.report(warning)
    used = set()
    for option, value, device in settings.devices:
        if isinstance(device, SocketChardev) and isinstance(device.address, FdAddress):
            with named(option, value):
                descriptors.check_given(device.address.fd)
            used.add(device.address.fd)
    for value, fd, _, _ in settings.fd_sets:
        with named("add-fd", value):
            descriptors.check_passed(fd)
    descriptors.check_used(descriptors.take_passed(os.environ), used)
    if settings.log is not None:
        messages.log_to(settings.log)
    if settings.process_name is not None:
        rename_process(settings.process_name)
    descriptors.check_limit(settings)
    launcher = daemonize() if settings.daemonize else None
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(run(settings, launcher))
