"""Handlers of `schema/accelerator.json`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.commands.types import Accelerator, AcceleratorInfo, KvmInfo
    from qmpserver.vm.machine.machine import Machine


def _kvm_present() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

    @registry.command("query-kvm")
    def query_kvm() -> KvmInfo:
        return {"enabled": machine.accel.name == "kvm", "present": _kvm_present()}

    @registry.command("query-accelerators")
    def query_accelerators() -> AcceleratorInfo:
        present: list[Accelerator] = ["kvm", "tcg"] if _kvm_present() else ["tcg"]
        return {"enabled": "kvm" if machine.accel.name == "kvm" else "tcg", "present": present}
