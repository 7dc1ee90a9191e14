"""The schema's documentation of commands and events, for the dashboard's console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qapi import Command

if TYPE_CHECKING:
    from qmpserver.qapi import Event, Schema
    from qmpserver.qapi.model import ObjectType


def describe(schema: Schema) -> dict[str, Any]:
    """Return the documentation of each command and event, and of its members, by name."""
    named: list[Command | Event] = [*schema.commands.values(), *schema.events.values()]
    return {one.name: _describe(one) for one in named}


def _describe(entity: Command | Event) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    if entity.doc is not None:
        texts["text"] = entity.doc.body.text
        for section in entity.doc.sections:
            if section.tag in ("Returns", "Since"):
                texts[section.tag.lower()] = section.text
    members = _members(entity.arguments if isinstance(entity, Command) else entity.data)
    if entity.doc is not None:
        members |= {name: section.text for name, section in entity.doc.members.items()}
    if members:
        texts["members"] = members
    return texts


def _members(type_: ObjectType) -> dict[str, str]:
    """Return the documentation of a type's members, including its base's."""
    texts = _members(type_.base) if type_.base is not None else {}
    if type_.doc is not None:
        texts |= {name: section.text for name, section in type_.doc.members.items()}
    return texts
