"""Names and defaults of a machine's options; this module imports nothing native."""

from __future__ import annotations

NO_UUID = "00000000-0000-0000-0000-000000000000"
MACHINE_TYPES = ("qmpserver", "none", "pc", "q35", "microvm", "isapc")
"""QEMU's types of machines: all are the first one, RAM and vCPUs without a device."""

PC_TYPES = ("pc", "q35", "isapc")
"""Those that QEMU derives from `generic-pc-machine`, which libvirt 11 looks for."""

VERSIONED = {"pc": "pc-i440fx-", "q35": "pc-q35-"}
"""Types that are aliases of one of each release: how its name begins."""

GUEST = ("pages", "size", "pattern", "rate")
"""The parameters of the guest `dirty`."""

STRESS = ("size",)
"""The parameters of the guest `stress`."""

CPU_MODELS = ("host", "max")
"""The models of `-cpu`: both are the vCPUs that the accelerator has."""
