"""The parameters of a migration: defaults, ranges, and refusals.

The types of the values are the schema's business; the caller has checked them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qmpserver.migration.bitmaps import mapping_refusal
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULTS: Mapping[str, Any] = {
    "announce-initial": 50,
    "announce-max": 550,
    "announce-rounds": 5,
    "announce-step": 100,
    "throttle-trigger-threshold": 50,
    "cpu-throttle-initial": 20,
    "cpu-throttle-increment": 10,
    "cpu-throttle-tailslow": False,
    "tls-creds": "",
    "tls-hostname": "",
    "tls-authz": "",
    "max-bandwidth": 128 << 20,
    "avail-switchover-bandwidth": 0,
    "downtime-limit": 300,
    "x-checkpoint-delay": 20_000,
    "multifd-channels": 2,
    "xbzrle-cache-size": 64 << 20,
    "max-postcopy-bandwidth": 0,
    "max-cpu-throttle": 99,
    "multifd-compression": "none",
    "multifd-zlib-level": 1,
    "multifd-qatzip-level": 1,
    "multifd-zstd-level": 1,
    "x-vcpu-dirty-limit-period": 1000,
    "vcpu-dirty-limit": 1,
    "mode": "normal",
    "zero-page-detection": "multifd",
    "direct-io": False,
    "x-rdma-chunk-size": 1 << 20,
    "cpr-exec-command": (),
}
"""The parameters in QEMU's order, with their defaults.

Bandwidths in bytes/s, `downtime-limit` and delays in ms, `vcpu-dirty-limit` in MB/s, sizes in
bytes, throttling in percent. `block-bitmap-mapping` has no default; it is absent until it is set.
"""

_DOWNTIME = 2000 * 1000
_PAGE = 4096
_MIB = 1 << 20
_GIB = 1 << 30

_NOT_PLAIN = "only available for non-compressed non-TLS multifd migration"

_PERCENT = "an integer in the range of"
_VALUE = "a value between"

_OLD_RANGES = {
    "compress-level": (0, 9),
    "compress-threads": (1, 255),
    "decompress-threads": (1, 255),
}
_RANGES = {
    "throttle-trigger-threshold": (1, 100, f"{_PERCENT} 1 to 100"),
    "cpu-throttle-initial": (1, 99, f"{_PERCENT} 1 to 99"),
    "cpu-throttle-increment": (1, 99, f"{_PERCENT} 1 to 99"),
    "downtime-limit": (0, _DOWNTIME, f"{_PERCENT} 0 to (2000 * 1000) ms"),
    "multifd-channels": (1, 255, f"{_VALUE} 1 and 255"),
    "multifd-zlib-level": (0, 9, f"{_VALUE} 0 and 9"),
    "multifd-qatzip-level": (1, 9, f"{_VALUE} 1 and 9"),
    "multifd-zstd-level": (0, 20, f"{_VALUE} 0 and 20"),
}
_LATER_RANGES = {
    "announce-initial": (0, 100_000, f"{_VALUE} 0 and 100000"),
    "announce-max": (0, 100_000, f"{_VALUE} 0 and 100000"),
    "announce-rounds": (0, 1000, f"{_VALUE} 0 and 1000"),
    "announce-step": (1, 10_000, f"{_VALUE} 0 and 10000"),
}
_PERIOD = {"x-vcpu-dirty-limit-period": (1, 1000, f"{_VALUE} 1 and 1000")}


class Parameters(Mapping[str, Any]):
    """The parameters of one machine's migrations.

    `max-bandwidth` and `downtime-limit` also act on a migration that is under way.

    Args:
        own: Parameters that the newest QEMU does not have, and their defaults.
    """

    def __init__(self, own: Mapping[str, Any] | None = None) -> None:
        self._values: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in {**DEFAULTS, **(own or {})}.items()
        }

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def plain(self) -> bool:
        """Whether they ask for neither compression nor TLS."""
        return _plain(self)

    def query(self) -> dict[str, Any]:
        """Return all parameters as `query-migrate-parameters` does."""
        return dict(self._values)

    def set(
        self, values: Mapping[str, Any], *, capabilities: Mapping[str, bool] | None = None
    ) -> None:
        """Change parameters: all of them, or none if one is refused.

        Args:
            values: The new values by name, of the schema's types; None stands for "".
            capabilities: The capabilities in force; all are off by default.

        Raises:
            CommandError: A value is out of range, or does not fit the other parameters or the
                capabilities.
        """
        new = self._values | {name: "" if one is None else one for name, one in values.items()}
        if message := _refusal(new, self.plain, capabilities or {}):
            raise CommandError(message)
        self._values = new


def _plain(values: Mapping[str, Any]) -> bool:
    return values["multifd-compression"] == "none" and not values["tls-creds"]


def _refusal(new: Mapping[str, Any], plain: bool, capabilities: Mapping[str, bool]) -> str:
    """Return the message that refuses the parameters `new`, or "".

    The checks are in QEMU's order: the first that fails names the error. As in QEMU, `mapped-ram`
    is checked against the parameters in force (`plain`), and so forbids any change once these ask
    for compression or TLS.
    """
    for name, (least, most) in _OLD_RANGES.items():
        if not least <= new.get(name, least) <= most:
            known_as = name.replace("-", "_")
            return f"Parameter '{known_as}' expects {_VALUE} {least} and {most}"
    if message := _out_of_range(new, _RANGES):
        return message
    cache = new["xbzrle-cache-size"]
    if cache < _PAGE or cache & cache - 1:
        return "Option xbzrle-cache-size expects a power of two no less than the target page size"
    if not new["cpu-throttle-initial"] <= new["max-cpu-throttle"] <= 99:
        return (
            "Option max-cpu-throttle expects an integer in the range of cpu-throttle-initial to 99"
        )
    if message := _out_of_range(new, _LATER_RANGES):
        return message
    if message := mapping_refusal(new.get("block-bitmap-mapping", ())):
        return f"Invalid mapping given for block-bitmap-mapping: {message}"
    if capabilities.get("zero-copy-send") and not _plain(new):
        return f"Zero copy {_NOT_PLAIN}"
    if capabilities.get("mapped-ram") and not plain:
        return f"Mapped-ram {_NOT_PLAIN}"
    if message := _out_of_range(new, _PERIOD):
        return message
    if new["vcpu-dirty-limit"] < 1:
        return "Parameter 'vcpu-dirty-limit' must be greater than 1 MB/s"
    chunk = new["x-rdma-chunk-size"]
    if not _MIB <= chunk <= _GIB or chunk & chunk - 1:
        return "Option x_rdma_chunk_size expects a power of 2 in the range 1MiB to 1024MiB"
    return ""


def _out_of_range(values: Mapping[str, Any], ranges: Mapping[str, tuple[int, int, str]]) -> str:
    for name, (least, most, words) in ranges.items():
        if not least <= values[name] <= most:
            return f"Option {name} expects {words}"
    return ""
