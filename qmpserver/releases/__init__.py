"""QEMU's releases, one profile each: everything that depends on the release is declared here.

All other code is written in the newest release's words. A profile declares the respects in which
its release differs; code asks for one of them, never for the number of a version. Beside the
profiles are what the releases have recorded, their schemas and facts, each in a directory of the
release's name.

To add a release:

1. Let it record itself: `python -m tests.qemu.record PROGRAM`. This writes its schema and facts
   here, and the conversations that the tests replay to `tests/qemu/transcripts/`.
2. Add its profile to `RELEASES`. The tests name every reply of this program that differs from the
   recorded one, until the profile has all differences.
"""

from __future__ import annotations

import functools
import json
import os
import zlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.files import read_bytes
from qmpserver.qapi import Schema
from qmpserver.releases.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NEWEST", "RELEASES", "Release", "own_schema"]

FILES = os.path.dirname(__file__)
_OWN = os.path.join(os.path.dirname(FILES), "schema", "qapi-schema.json")
_COMPILED = os.path.join(FILES, "own.json")  # a generated file
_GZIP_WBITS = 31


# The options that went away before a release.
_BEFORE_7_2 = frozenset({"alt-grab", "ctrl-grab", "soundhw", "watchdog", "writeconfig"})
_BEFORE_10_0 = _BEFORE_7_2 | {
    "async-teardown", "audio-help", "chroot", "no-acpi", "no-hpet", "portrait", "rotate", "runas",
    "singlestep",
}  # fmt: skip


class Release(NamedTuple):
    """A release of QEMU.

    Attributes:
        name: Its name in options and scenarios, and that of its directory.
        version: The version that was recorded; the greeting has it.
        error_places: Whether an error of the JSON parser is reported where it is, with the line and
            the column, and the rest of the message skipped.
        words: Error texts: the newest release's, and this one's where it differs.
        drops_fdsets: Whether the last client to leave takes the sets of descriptors along.
        shows_peers: Whether `query-chardev` shows where a client's UNIX socket is connected to.
        human: Commands of the human monitor, a stand-in's too, such as `info cpus`: the notation of
            their arguments, and how help shows arguments and command; None for commands that it
            does not have.
        signed_limits: Whether `set_vcpu_dirty_limit` takes negative numbers, and shows a hint.
        statistics_in_lines: Whether `info blockstats` shows a line for each drive, and no table.
        poll_factor: Default growth and shrinking of the polling of I/O threads.
        always_samples: Whether `info dirty_rate` shows the sampled pages in all modes.
        vcpu_events: Whether trace events may belong to vCPUs.
        parameters: Parameters of migrations that the newest release lacks, and their defaults.
        authz_after_cache: Whether `info migrate_parameters` shows `max-postcopy-bandwidth`, without
            a unit, and `tls-authz` after the cache's size.
        bare_drive_errors: Whether `drive_add` and `drive_del` show errors without `Error: ` before
            them.
        typed_devices: Whether members of `device_add` have types; the text of an option has none.
        names_machines: Whether the refusal of an unknown type of machine names it.
        takes_zero_cpus: Whether a 0 in `-smp` stands for a number that is not given.
        refuses_nics: Whether a model of `-nic` that the machine lacks is refused.
        hides_functions: Whether a PCI device that gets any free address while a machine exists may
            get one that the guest does not see.
        takes_long_queues: Whether a NIC takes longer queues than its back end has.
        has_card_slot: Whether machines have a drive for SD cards, without a device.
        lacks: Options of the command line that it lacks, of those that any release has.
        takes_any_expiry: Whether `expire_password` takes any time.
        opens_pictures: Whether `screendump` says "open" of a file that it cannot create.
        names_users: Whether `object-del` says what uses the object that it refuses to delete.
    """

    name: str
    version: str
    error_places: bool = True
    words: Mapping[str, str] = MappingProxyType({})
    drops_fdsets: bool = False
    shows_peers: bool = True
    human: Mapping[str, tuple[str, str, str] | None] = MappingProxyType({})
    signed_limits: bool = False
    statistics_in_lines: bool = False
    poll_factor: int = 2
    always_samples: bool = False
    vcpu_events: bool = False
    typed_devices: bool = True
    parameters: Mapping[str, object] = MappingProxyType({})
    authz_after_cache: bool = False
    bare_drive_errors: bool = False
    names_machines: bool = True
    takes_zero_cpus: bool = False
    refuses_nics: bool = False
    hides_functions: bool = False
    takes_long_queues: bool = False
    has_card_slot: bool = False
    lacks: frozenset[str] = _BEFORE_10_0 | {"old-param"}
    takes_any_expiry: bool = False
    opens_pictures: bool = False
    names_users: bool = True

    @property
    def introspection(self) -> list[dict[str, Any]]:
        """Its recorded reply to `query-qmp-schema`."""
        raw = read_bytes(os.path.join(FILES, self.name, "schema.json.gz"))
        infos: list[dict[str, Any]] = json.loads(zlib.decompress(raw, _GZIP_WBITS))
        return infos

    @property
    def schema(self) -> Schema:
        """All its commands and events. Read once; any thread may use it."""
        return _schema(self.name)

    @property
    def facts(self) -> Facts:
        """Its recorded facts. Read once; any thread may use them."""
        return _facts(self.name)


@functools.cache
def _schema(name: str) -> Schema:
    return Schema.from_introspection(RELEASES[name].introspection, lazy=True)


@functools.cache
def _facts(name: str) -> Facts:
    return Facts(os.path.join(FILES, name, "facts.json.gz"))


_PASSWORDS: Mapping[str, str] = {
    "No VNC display is present": "Could not set password",
    "VNC password authentication is disabled": "Could not set password",
    "tls-creds-anon does not support reloading credentials": (
        "tls-creds-anon doesn't support to reload TLS credential"
    ),
}  # the words of older releases

RELEASES: Mapping[str, Release] = {
    release.name: release
    for release in (
        Release(
            "qemu-7.2",
            "7.2.22",
            error_places=False,
            words={
                **_PASSWORDS,
                "parameter 'connected' must be 'keep' when 'protocol' is 'vnc'": (
                    "Invalid parameter 'connected'"
                ),
                "the configuration is not prepared for memory devices (e.g., for memory hotplug), "
                "consider specifying the maxmem option": "memory devices (e.g. for memory hotplug) "
                "are not enabled, please specify the maxmem option",
                "Parameter 'value' expects a size": "Parameter 'target' expects a size",
                "Calculation time is out of range [50ms, 60000ms].": (
                    "calc-time is out of range[1, 60]."
                ),
                "sample-pages is used only in page-sampling mode": (
                    "either sample-pages or dirty-ring can be specified."
                ),
                "clusters > 1 not supported by this machine's CPU topology": (
                    "clusters not supported by this machine's CPU topology"
                ),
                "machine does not support hot-plugging CPUs": (
                    "The feature 'query-hotpluggable-cpus' is not enabled"
                ),
            },
            drops_fdsets=True,
            shows_peers=False,
            human={
                "info accelerators": None,
                "netdev_add": (
                    "value:O",
                    "[user|tap|socket|stream|dgram|vde|bridge|hubport|netmap|vhost-user],id=str"
                    "[,prop=value][,...]",
                    "add host network device",
                ),
                "info migrate": ("", "", "show migration status"),
                "migrate": (
                    "detach:-d,blk:-b,inc:-i,resume:-r,uri:s",
                    "[-d] [-b] [-i] [-r] uri",
                    "migrate to URI (using -d to not wait for completion)"
                    "\n\t\t\t -b for migration without shared storage with full copy of disk"
                    "\n\t\t\t -i for migration without shared storage with incremental copy of disk"
                    " (base image shared between src and destination)"
                    "\n\t\t\t -r to resume a paused migration",
                ),
            },
            signed_limits=True,
            statistics_in_lines=True,
            poll_factor=0,
            opens_pictures=True,
            names_users=False,
            always_samples=True,
            vcpu_events=True,
            typed_devices=False,
            names_machines=False,
            takes_zero_cpus=True,
            refuses_nics=True,
            hides_functions=True,
            takes_long_queues=True,
            has_card_slot=True,
            lacks=_BEFORE_7_2 | {"jitdump", "perfmap", "run-with", "shim"},
            takes_any_expiry=True,
            parameters={
                "compress-level": 1,
                "compress-threads": 8,
                "compress-wait-thread": True,
                "decompress-threads": 2,
                "block-incremental": False,
            },
            authz_after_cache=True,
            bare_drive_errors=True,
        ),
        Release(
            "qemu-10.0",
            "10.0.13",
            error_places=False,
            words=_PASSWORDS,
            authz_after_cache=True,
            bare_drive_errors=True,
            statistics_in_lines=True,
            poll_factor=0,
            opens_pictures=True,
            names_users=False,
            lacks=_BEFORE_10_0,
            human={
                "info accelerators": None,
                "netdev_add": (
                    "value:O",
                    "[user|tap|socket|stream|dgram|vde|bridge|hubport|netmap|vhost-user],id=str"
                    "[,prop=value][,...]",
                    "add host network device",
                ),
                "info migrate": ("", "", "show migration status"),
            },
        ),
        Release("qemu-11.1", "11.1.3"),
    )
}
"""The releases by name, the newest one last."""

NEWEST = list(RELEASES.values())[-1]


@functools.cache
def own_schema(name: str = NEWEST.name, *, documented: bool = True) -> Schema:
    """Return the schema of this program's machine: the part of a release's that it has.

    Read once; any thread may use it.

    Args:
        name: The release's name.
        documented: Read the schema's text, with its documentation, not the compiled form.
    """
    schema = Schema.load(_OWN) if documented else Schema.from_compiled(_COMPILED)
    if name == NEWEST.name:
        return schema
    from qmpserver.qapi.older import older  # the newest release does without it

    return older(schema, RELEASES[name].introspection)
