"""Facts about a release that no command changes: machine types, CPU models, properties of devices.

They are QEMU 11.1's answers, recorded with `-machine none,accel=tcg`; a vocabulary of another
release drops the members that it lacks. The file is read when a command first needs it.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.releases import FILES, NEWEST

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


@functools.cache
def facts() -> dict[str, Any]:
    """Return the recorded answers by command; by type, for commands that ask about a type."""
    with gzip.open(os.path.join(FILES, NEWEST.name, "facts.json.gz")) as file:
        found: dict[str, Any] = json.load(file)
    return found


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    def always(command: str) -> None:
        registry.command(command)(lambda **_: facts()[command])

    for command in _PLAIN:
        always(command)

    @registry.command("qom-list-types")
    def qom_list_types(implements: str | None = None, abstract: bool = False) -> Any:
        types = facts()["qom-list-types"]
        if implements is None:
            return types if abstract else [one for one in types if not one.get("abstract")]
        parents = {one["name"]: one.get("parent") for one in types}

        def descends(name: str | None) -> bool:
            while name is not None and name != implements:
                name = parents.get(name)
            return name is not None

        return [
            one for one in types if descends(one["name"]) and (abstract or not one.get("abstract"))
        ]

    @registry.command("device-list-properties")
    def device_list_properties(typename: str) -> Any:
        found = facts()["device-list-properties"].get(typename)
        if found is None:
            raise CommandError(f"Device '{typename}' not found", "DeviceNotFound")
        return found

    @registry.command("qom-list-properties")
    def qom_list_properties(typename: str) -> Any:
        properties = facts()["qom-list-properties"], facts()["device-list-properties"]
        for known in properties:
            if typename in known:
                return known[typename]
        if not any(one["name"] == typename for one in facts()["qom-list-types"]):
            raise CommandError(f"Class '{typename}' not found", "DeviceNotFound")
        return []

    @registry.command("query-cpu-model-expansion")
    def query_cpu_model_expansion(type: str, model: dict[str, Any]) -> Any:  # noqa: A002
        known = {"host", *(one["name"] for one in facts()["query-cpu-definitions"])}
        if model["name"] not in known:
            raise CommandError(f"CPU type '{model['name']}-x86_64-cpu' not found")
        found = facts()["query-cpu-model-expansion"][type]
        name = model["name"] if type == "full" else found["name"]
        return {"model": {"name": name, "props": {**found["props"], **model.get("props", {})}}}
