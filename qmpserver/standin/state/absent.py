"""Commands about hardware that the machine does not have, which QEMU refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_REFUSED = {
    "query-sev-capabilities": "SEV is not enabled in KVM",
    "query-sev-launch-measure": "SEV launch measurement is not available",
    "query-sgx": "No EPC regions defined, SGX not available",
    "query-sgx-capabilities": "SGX is not enabled in KVM",
    "x-query-jit": "JIT information is only available with accel=tcg",
    "x-query-opcount": "Opcode count information is only available with accel=tcg",
    "x-query-usb": "USB support not enabled",
    "xen-event-inject": "Xen event channel emulation not enabled",
    "xen-event-list": "Xen event channel emulation not enabled",
}
# What a machine of type `none` refuses besides.
_REFUSED_BY_NONE = {
    "query-acpi-ospm-status": "command is not supported, missing ACPI device",
    "query-hotpluggable-cpus": "The feature 'query-hotpluggable-cpus' is not enabled",
    "query-sgx": "SGX is only supported on PC machines",
}


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module; those for a machine of type `none` replace others."""
    refused = _REFUSED | (_REFUSED_BY_NONE if state.machine.empty else {})
    if state.machine.accel != "kvm":
        refused["query-sev-capabilities"] = "KVM not enabled"
    for command, desc in refused.items():
        registry.command(command, replace=True)(_refusing(desc))

    @registry.command("query-hv-balloon-status-report")
    def query_hv_balloon_status_report() -> Any:
        if all(one["driver"] != "hv-balloon" for one in state.devices.values()):
            raise CommandError("no hv-balloon device present")
        raise CommandError("guest memory status tracking not enabled")

    @registry.command("query-vm-generation-id")
    def query_vm_generation_id() -> Any:
        for one in state.devices.values():
            if one["driver"] == "vmgenid":
                return {"guid": one.get("guid", "00000000-0000-0000-0000-000000000000")}
        raise CommandError("VM Generation ID device not found")


def _refusing(desc: str) -> Callable[..., Any]:
    def refuse(**_: Any) -> Any:
        raise CommandError(desc)

    return refuse
