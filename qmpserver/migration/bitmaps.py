"""The rules of the parameter `block-bitmap-mapping`, which names nodes' dirty bitmaps anew.

This server has no block devices; a mapping is checked as QEMU checks it, kept, and has no effect.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_IDENTIFIER = r"[A-Za-z][-A-Za-z0-9._]*"
_LONGEST_ALIAS = 255
_LONGEST_NODE_NAME = 31


def mapping_refusal(mapping: Sequence[Mapping[str, Any]]) -> str:
    """Return the message that refuses a mapping of nodes, each with its bitmaps, or "".

    As in QEMU, repeated names are found before repeated aliases.
    """
    return _repeated_names(mapping) or _repeated_aliases(mapping)


def _repeated_names(mapping: Sequence[Mapping[str, Any]]) -> str:
    """Check all lengths too."""
    names: set[str] = set()
    for node in mapping:
        name, alias = node["node-name"], node["alias"]
        if not re.fullmatch(_IDENTIFIER, alias):
            return f"The node alias '{alias}' is not well-formed"
        if _bytes(alias) > _LONGEST_ALIAS:
            return f"The node alias '{alias}' is longer than {_LONGEST_ALIAS} bytes"
        if _bytes(name) > _LONGEST_NODE_NAME:
            return f"The node name '{name}' is longer than {_LONGEST_NODE_NAME} bytes"
        if name in names:
            return f"The node name '{name}' is mapped twice"
        names.add(name)
        bitmaps: set[str] = set()
        for bitmap in node["bitmaps"]:
            if _bytes(bitmap["alias"]) > _LONGEST_ALIAS:
                return f"The bitmap alias '{bitmap['alias']}' is longer than {_LONGEST_ALIAS} bytes"
            if bitmap["name"] in bitmaps:
                return f"The bitmap '{name}'/'{bitmap['name']}' is mapped twice"
            bitmaps.add(bitmap["name"])
    return ""


def _repeated_aliases(mapping: Sequence[Mapping[str, Any]]) -> str:
    aliases: set[str] = set()
    for node in mapping:
        alias = node["alias"]
        if alias in aliases:
            return f"The node alias '{alias}' is used twice"
        aliases.add(alias)
        bitmaps: set[str] = set()
        for bitmap in node["bitmaps"]:
            if bitmap["alias"] in bitmaps:
                return f"The bitmap alias '{alias}'/'{bitmap['alias']}' is used twice"
            bitmaps.add(bitmap["alias"])
    return ""


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
