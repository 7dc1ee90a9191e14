"""What the schema's documentation says of commands and events, for who types them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qapi import Command

if TYPE_CHECKING:
    from qmpserver.qapi import Event, Schema
    from qmpserver.qapi.model import ObjectType


def describe(schema: Schema) -> dict[str, Any]:
    """Return of each command and event its text, and the texts of its members."""
    named: list[Command | Event] = [*schema.commands.values(), *schema.events.values()]
    return {one.name: _describe(one) for one in named}


def _describe(entity: Command | Event) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if entity.doc is not None:
        told["text"] = entity.doc.body.text
        for section in entity.doc.sections:
            if section.tag in ("Returns", "Since"):
                told[section.tag.lower()] = section.text
    members = _members(entity.arguments if isinstance(entity, Command) else entity.data)
    if entity.doc is not None:
        members |= {name: section.text for name, section in entity.doc.members.items()}
    if members:
        told["members"] = members
    return told


def _members(type_: ObjectType) -> dict[str, str]:
    """Return the texts of a type's members, its base's among them."""
    texts = _members(type_.base) if type_.base is not None else {}
    if type_.doc is not None:
        texts |= {name: section.text for name, section in type_.doc.members.items()}
    return texts
