"""Commands that clients probe a QEMU with; the facts of the release answer.

The facts are read when a command first needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_PLAIN = (
    "query-machines",
    "query-cpu-definitions",
    "query-command-line-options",
    "query-tpm-models",
    "query-tpm-types",
)


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    def always(command: str) -> None:
        registry.command(command)(lambda **_: state.facts.answers[command])

    for command in _PLAIN:
        always(command)

    @registry.command("qom-list-types")
    def qom_list_types(implements: str | None = None, abstract: bool = False) -> Any:
        return [
            one
            for name, one in state.facts.types.items()
            if (implements is None or implements in state.facts.line(name))
            and (abstract or not one.get("abstract"))
        ]

    @registry.command("device-list-properties")
    def device_list_properties(typename: str) -> Any:
        found = state.facts.properties("device-list-properties", typename)
        if found is None:
            raise CommandError(f"Device '{typename}' not found", "DeviceNotFound")
        return found

    @registry.command("qom-list-properties")
    def qom_list_properties(typename: str) -> Any:
        found = state.facts.properties("qom-list-properties", typename)
        if found is None:
            raise CommandError(f"Class '{typename}' not found", "DeviceNotFound")
        return found

    @registry.command("query-cpu-model-expansion")
    def query_cpu_model_expansion(type: str, model: dict[str, Any]) -> Any:  # noqa: A002
        answers = state.facts.answers
        changes = model.get("props", {})
        if not isinstance(changes, dict):
            raise CommandError("Invalid parameter type for 'model.props', expected: object")
        known = {"host", *(one["name"] for one in answers["query-cpu-definitions"])}
        if model["name"] not in known:
            raise CommandError(f"CPU type '{model['name']}-x86_64-cpu' not found")
        found = answers["query-cpu-model-expansion"][type]
        name = model["name"] if type == "full" else found["name"]
        return {"model": {"name": name, "props": {**found["props"], **changes}}}
