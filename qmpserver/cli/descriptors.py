"""The file descriptors that the process inherits, and their number."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from qmpserver.cli.settings import CommandLineError, Settings
from qmpserver.keyval import OptionError
from qmpserver.monitor import DeviceError

if TYPE_CHECKING:
    from collections.abc import Container, MutableMapping

_FIRST_PASSED = 3
_NEEDED = 40  # by the interpreter, the event loop, KVM, a few monitors and clients
_NEEDED_PER_CPU = 4
_NEEDED_PER_DEVICE = 2  # the socket that listens, and a client's
_LOG = 1


def check_limit(settings: Settings) -> None:
    """Check that the process may open as many descriptors as its machines need.

    For many machines the soft limit is raised, as far as the hard one allows.

    Raises:
        CommandLineError: The limit is too low; the message says how to raise it.
    """
    needed = _NEEDED + _NEEDED_PER_CPU * settings.cpus
    if settings.machines is not None:
        needed += settings.machines * (_NEEDED_PER_DEVICE * len(settings.devices) + _LOG)
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or needed <= allowed:
        return
    if settings.machines is not None and (most == resource.RLIM_INFINITY or needed <= most):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
        return
    raise CommandLineError(
        f"Too many open files: {needed} are needed, {allowed} are allowed (ulimit -n {needed})"
    )


def take_passed(environ: MutableMapping[str, str]) -> list[int]:
    """Return the sockets that a service manager passed with its `LISTEN_FDS` protocol.

    The variables are removed and the descriptors closed on exec, to keep them from children.

    Raises:
        CommandLineError: The variables name a descriptor that is not open.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return []
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(variable, None)
    passed = list(range(_FIRST_PASSED, _FIRST_PASSED + int(count)))
    for fd in passed:
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise CommandLineError(
                f"Socket activation failed: invalid file descriptor fd = {fd}: {error.strerror}"
            ) from None
    return passed


def check_given(fd: int) -> None:
    """Check that a descriptor that an option names is open; call it before others are opened.

    Later the number could be that of a socket of the program's own, such as the event loop's.

    Raises:
        DeviceError: It is not open; the message is QEMU's.
    """
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        raise DeviceError(f"File descriptor '{fd}' is not a socket") from None


def check_passed(fd: int) -> None:
    """Check that a descriptor of `-add-fd` is open, and close it on exec; else as `check_given`.

    Raises:
        OptionError: It is not open; the message is QEMU's.
    """
    try:
        os.set_inheritable(fd, False)
    except (OSError, OverflowError):
        raise OptionError("fd is not valid or already in use") from None


def check_used(passed: list[int], used: Container[int]) -> None:
    """Check that an option uses each passed socket; clients of another would wait forever.

    Raises:
        CommandLineError: No option uses one of them.
    """
    for fd in passed:
        if fd not in used:
            raise CommandLineError(
                f"descriptor {fd} was passed by socket activation, but no option uses it",
                f"Use -qmp fd:{fd},server=on,wait=off",
            )
