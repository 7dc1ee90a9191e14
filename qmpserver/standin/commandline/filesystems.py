"""Options that share directories of the host with the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError
from qmpserver.standin.commandline.launch import last_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch

_DRIVERS = ("local", "proxy", "synth")
_MODELS = ("passthrough", "mapped-xattr", "mapped-file", "none", "mapped")


def _fsdev(launch: Launch, value: str) -> None:
    given = last_members(value, "fsdriver")
    if "id" not in given:
        raise OptionError("fsdev: No id specified")
    _check(launch, given)


def _check(launch: Launch, given: Mapping[str, Any]) -> None:
    """Check the back end of a shared directory.

    Raises:
        OptionError: It lacks something, or has a value that there is not.
    """
    driver = given.get("fsdriver")
    if driver not in _DRIVERS and not launch.state.machine.any_device:
        raise OptionError(f"fsdev: fsdriver {driver} not found")
    if driver != "local":
        return
    model = given.get("security_model")
    if model not in _MODELS:
        words = f"invalid security_model property '{model}'"
        if model is None:
            words = "security_model property not set"
        hint = "Valid options are: security_model=[passthrough|mapped-xattr|mapped-file|none]"
        raise OptionError(words, hint)
    if "path" not in given:
        raise OptionError("path property not set")


def _virtfs(launch: Launch, value: str) -> None:
    given = last_members(value, "fsdriver")
    if not {"fsdriver", "mount_tag"} <= given.keys():
        raise OptionError("Usage: -virtfs fsdriver,mount_tag=tag")
    _check(launch, given)
    tag = str(given["mount_tag"])
    device = {"driver": "virtio-9p-pci", "fsdev": given.get("id", tag), "mount_tag": tag}
    launch.execute("device_add", device)


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"fsdev": _fsdev}
DEVICES: Mapping[str, Callable[[Launch, str], None]] = {"virtfs": _virtfs}
"""The option that also creates a device."""
