"""Limits of drives: bytes and operations a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_number
from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import disks

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_MOST = 10**15
_KINDS = ("bps", "iops")
_WAYS = {"total": "", "read": "_rd", "write": "_wr"}
# Names of options, and the members of `block_set_io_throttle`.
_OPTIONS = {"throttling.iops-size": "iops_size"} | {
    f"throttling.{kind}-{way}{more}": f"{kind}{short}{more.replace('-', '_')}"
    for kind in _KINDS
    for way, short in _WAYS.items()
    for more in ("", "-max", "-max-length")
}
_BUCKETS = [f"{kind}{short}" for kind in _KINDS for short in _WAYS.values()]


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("block_set_io_throttle")
    def block_set_io_throttle(
        device: str | None = None,
        id: str | None = None,  # noqa: A002 -- the schema's name
        group: str | None = None,
        **given: int,
    ) -> None:
        key = disks.find(state, device, id)
        if state.drives[key]["node"] is None:
            raise CommandError("Device has no medium")
        before = state.drives[key]["throttle"] or {}
        _check(given)
        used = {name: value for name, value in given.items() if value}
        limit(state, key, {**used, "group": group or before.get("group", device or id)})


def from_options(options: dict[str, Any]) -> dict[str, Any] | None:
    """Take the limits out of the options of a drive; None without any.

    Raises:
        OptionError: One is not a number.
        CommandError: They do not go together.
    """
    given: dict[str, Any] = {}
    for name, member in _OPTIONS.items():
        for one in (member, name):
            if one in options:
                try:
                    given[member] = parse_number(name, options.pop(one))
                except OptionError:
                    raise OptionError(f"Parameter '{name}' expects a number") from None
    group = options.pop("throttling.group", options.pop("group", None))
    _check(given)
    used = {name: value for name, value in given.items() if value}
    if group is not None:
        used["group"] = group
    return used if set(used) & set(_BUCKETS) else None


def limit(state: State, key: str, limits: dict[str, Any]) -> None:
    """Set the limits of a drive, and of those in its group; without any, it leaves the group."""
    if not set(limits) & set(_BUCKETS):
        state.drives.change(key, throttle=None)
        return
    group = limits.get("group", state.drives[key]["name"])
    bursts = {
        f"{one}_max_length": limits.get(f"{one}_max_length", 1)
        for one in _BUCKETS
        if f"{one}_max" in limits
    }
    made = {**dict.fromkeys(_BUCKETS, 0), **limits, **bursts, "group": group}
    for one, drive in list(state.drives.items()):
        if one == key or (drive["throttle"] or {}).get("group") == group:
            state.drives.change(one, throttle=made)


def _check(given: dict[str, int]) -> None:
    """Check that limits go together.

    Raises:
        CommandError: They do not.
    """
    for kind in _KINDS:
        for more in ("", "_max"):
            if given.get(f"{kind}{more}") and (
                given.get(f"{kind}_rd{more}") or given.get(f"{kind}_wr{more}")
            ):
                raise CommandError(
                    "bps/iops/max total values and read/write values cannot be used at the same"
                    " time"
                )
    if given.get("iops_size") and not any(given.get(f"iops{one}") for one in _WAYS.values()):
        raise CommandError("iops size requires an iops value to be set")
    for bucket in _BUCKETS:
        average, most = given.get(bucket, 0), given.get(f"{bucket}_max", 0)
        length = given.get(f"{bucket}_max_length", 1)
        if not (0 <= average <= _MOST and 0 <= most <= _MOST):
            raise CommandError(f"bps/iops/max values must be within [0, {_MOST}]")
        if not length:
            raise CommandError("the burst length cannot be 0")
        if length > 1 and not most:
            raise CommandError("burst length set without burst rate")
        if most and length > _MOST // most:
            raise CommandError("burst length too high for this burst rate")
        if most and not average:
            raise CommandError("bps_max/iops_max require corresponding bps/iops values")
        if most and most < average:
            raise CommandError("bps_max/iops_max cannot be lower than bps/iops")
