"""Checks of objects that users create, by type; and the files of memory that they make.

A refusal that depends on the host, such as that of a missing file, is for clients only: a command
line may come from another host.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.values import as_object, decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.state import State

_MOST = (1 << 63) - 1
_PAGE = 4096
_IOTHREAD = (
    "poll-max-ns", "poll-grow", "poll-shrink", "poll-weight",
    "aio-max-batch", "thread-pool-min", "thread-pool-max",
)  # fmt: skip
_POOL = (0, 64)  # least and most threads, unless a client says
_KEY = 32  # bytes
_HIGHEST_RATE = 10**15


def check(state: State, name: str, kind: str, given: dict[str, Any]) -> None:
    """Check a new object, and make its file.

    Raises:
        CommandError: QEMU refuses it.
    """
    if kind.startswith("memory-backend-"):
        _check_memory(kind, given)
        if kind == "memory-backend-file":
            _make_file(state, name, kind, given)
    elif kind in _CHECKS:
        _CHECKS[kind](state, given)


def _check_memory(kind: str, given: dict[str, Any]) -> None:
    for key in ("size", "prealloc-threads"):
        if given.get(key) == 0:
            raise CommandError(f"property '{key}' of {kind} doesn't take value '0'")
    if given.get("prealloc") and given.get("reserve") is False:
        raise CommandError("'prealloc=on' and 'reserve=off' are incompatible")
    policy, nodes = given.get("policy", "default"), given.get("host-nodes")
    if policy != "default" and not nodes:
        raise CommandError(f"host-nodes must be set for policy {policy}")
    if policy == "default" and nodes:
        raise CommandError(
            "host-nodes must be empty for policy default, or you should explicitly specify a "
            "policy other than default"
        )


def _make_file(state: State, name: str, kind: str, given: dict[str, Any]) -> None:
    """Make the file of a memory backend; one in a directory has no name."""
    path, size = str(given["mem-path"]), given["size"]
    if os.path.isdir(path):
        return
    flags = os.O_RDONLY if given.get("readonly") else os.O_RDWR | os.O_CREAT
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    except (OSError, ValueError) as error:
        if state.in_setup:
            return
        words = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise CommandError(f"can't open backing store {path} for guest RAM: {words}") from None
    try:
        has, offset = os.fstat(fd).st_size, given.get("offset", 0)
        if 0 < has < size + offset:
            raise CommandError(
                f"{name} backing store size {has:#x} is too small for 'size' option {size:#x} "
                f"plus 'offset' option {offset:#x}"
            )
        if not has and not given.get("readonly"):
            os.ftruncate(fd, (size + offset + _PAGE - 1) // _PAGE * _PAGE)
    except OSError as error:
        raise CommandError(f"can't truncate backing store {path}: {error.strerror}") from None
    finally:
        os.close(fd)
    if size % _PAGE:
        raise CommandError(f"backend '{kind}' memory size must be multiple of 4 KiB")


def _check_secret(state: State, given: dict[str, Any]) -> None:
    data, file = given.get("data"), given.get("file")
    if data is None and file is None:
        raise CommandError("Either 'file' or 'data' must be provided")
    if data is not None and file is not None:
        raise CommandError("'file' and 'data' are mutually exclusive")
    key = given.get("keyid")
    if data is None:
        if not state.in_setup and not os.path.exists(str(file)):
            words = f"Failed to open file \u201c{file}\u201d: No such file or directory"
            raise CommandError(f"Unable to read {file}: {words}")
        return
    if key is not None:
        secret = state.objects.get(key, {})
        if secret.get("qom-type") != "secret":
            raise CommandError(f"No secret with id '{key}'")
        text = str(secret.get("data", ""))
        value = decoded(text) if secret.get("format") == "base64" else text.encode()
        if "data" in secret and len(value) != _KEY:
            raise CommandError(f"Key should be {_KEY} bytes in length")
    elif given.get("format") == "base64":
        decoded(data)


def _check_rng(state: State, given: dict[str, Any]) -> None:
    path = given.get("filename", "/dev/urandom")
    if not state.in_setup and not os.path.exists(path):
        raise CommandError(f"Could not open '{path}': No such file or directory")


def _check_egd(state: State, given: dict[str, Any]) -> None:
    name = given["chardev"]
    if state.in_setup:
        return  # QEMU makes it after the character devices
    if not state.has_chardev(name):
        raise CommandError(f"Device '{name}' not found", "DeviceNotFound")


def _check_iothread(_: State, given: dict[str, Any]) -> None:
    for key in _IOTHREAD:
        if given.get(key, 0) < 0:
            raise CommandError(f"{key} value must be in range [0, {_MOST}]")
    least, most = given.get("thread-pool-min", _POOL[0]), given.get("thread-pool-max", _POOL[1])
    if most == 0 or least > most:
        raise CommandError("bad thread-pool-min/thread-pool-max values")


def _check_throttling(_: State, given: dict[str, Any]) -> None:
    limits = dict(as_object(given.get("limits")))
    limits |= {key[2:]: value for key, value in given.items() if key.startswith("x-")}
    check_limits(limits)


def check_limits(limits: Mapping[str, int]) -> None:
    """Check the limits of a throttle group.

    Args:
        limits: As in the type `ThrottleLimits`.

    Raises:
        CommandError: They contradict each other.
    """
    for unit in ("bps", "iops"):
        for suffix in ("", "-max"):
            parts = [limits.get(f"{unit}-{part}{suffix}") for part in ("read", "write")]
            if limits.get(f"{unit}-total{suffix}") and any(parts):
                raise CommandError(
                    "bps/iops/max total values and read/write values cannot be used at the same "
                    "time"
                )
    if limits.get("iops-size") and not any(
        limits.get(f"iops-{part}") for part in ("total", "read", "write")
    ):
        raise CommandError("iops size requires an iops value to be set")
    for unit in ("bps", "iops"):
        for part in ("total", "read", "write"):
            _check_bucket(limits, f"{unit}-{part}")


def _check_bucket(limits: Mapping[str, int], key: str) -> None:
    rate, most = limits.get(key, 0), limits.get(f"{key}-max", 0)
    length = limits.get(f"{key}-max-length", 1)
    if not (0 <= rate <= _HIGHEST_RATE and 0 <= most <= _HIGHEST_RATE):
        raise CommandError(f"bps/iops/max values must be within [0, {_HIGHEST_RATE}]")
    if length == 0:
        raise CommandError("the burst length cannot be 0")
    if length > 1 and not most:
        raise CommandError("burst length set without burst rate")
    if most and not rate:
        raise CommandError("bps_max/iops_max require corresponding bps/iops values")
    if most and most < rate:
        raise CommandError("bps_max/iops_max cannot be lower than bps/iops")


_CHECKS: Mapping[str, Callable[[State, dict[str, Any]], None]] = {
    "secret": _check_secret,
    "rng-random": _check_rng,
    "rng-egd": _check_egd,
    "iothread": _check_iothread,
    "throttle-group": _check_throttling,
}
