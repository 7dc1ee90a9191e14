"""The page about the differences between releases: `python -m qmpserver.releases > README.md`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from qmpserver.releases import RELEASES, Release, own_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpserver.qapi import Schema

_OWN = "__org.qmpserver_"
_HEAD = """\
# QEMU's releases

The differences between the releases that `-release` and a stand-in's `schema` select; the newest
is the default. The [profiles](__init__.py) are code, whose docstring says how to add a
release. `python -m qmpserver.releases` prints this page.
"""


def page() -> str:
    """Return the page in Markdown."""
    parts = [_HEAD, _profiles()]
    for older, newer in pairwise(RELEASES.values()):
        parts.append(_changes(older, newer))
    return "\n".join(parts)


def _profiles() -> str:
    names = [one for one in Release._fields if one not in ("name", "words", "human")]
    lines = [f"| | {' | '.join(RELEASES)} |", f"|---|{'---|' * len(RELEASES)}"]
    for name in names:
        values = (getattr(release, name) for release in RELEASES.values())
        lines.append(f"| `{name}` | {' | '.join(map(_shown, values))} |")
    counts = ("commands", "events")
    for kind in counts:
        numbers = (str(len(getattr(release.schema, kind))) for release in RELEASES.values())
        lines.append(f"| {kind} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _listed(set(value)) if isinstance(value, Mapping | frozenset) else str(value)


def _changes(older: Release, newer: Release) -> str:
    lines = [f"## From {older.name} to {newer.name}", "", "| | new | gone |", "|---|---|---|"]
    for kind in ("commands", "events"):
        old, new = (getattr(release.schema, kind) for release in (older, newer))
        lines.append(f"| {kind} | {_listed(new.keys() - old)} | {_listed(old.keys() - new)} |")
    old_places, new_places = (_places(own_schema(one.name)) for one in (older, newer))
    for name in sorted(old_places.keys() & new_places):
        old, new = old_places[name], new_places[name]
        if any(_OWN not in place for place in old ^ new):
            lines.append(f"| `{name}` | {_listed(new - old)} | {_listed(old - new)} |")
    for newest, words in older.words.items():
        if newest not in newer.words:
            lines.append(f"| an error text | {newest} | {words} |")
    for name, texts in older.human.items():
        if name not in newer.human:
            was = "" if texts is None else f"`{f'{name} {texts[1]}'.strip()}`".replace("|", "\\|")
            lines.append(f"| on the human monitor | `{name}` | {was} |")
    return "\n".join(lines) + "\n"


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names) if _OWN not in name)


def _places(schema: Schema) -> dict[str, set[str]]:
    """Return the members and values of each command's arguments and result, and of each event."""
    infos = {str(info["name"]): info for info in schema.introspect()}
    found = {}
    for name, info in infos.items():
        if info["meta-type"] in ("command", "event"):
            places = set(map(str, _features(info)))
            for key, path in (("arg-type", ""), ("ret-type", "return")):
                if key in info:
                    places |= set(_within(infos, str(info[key]), path, ()))
            found[name] = places
    return found


def _features(info: dict[str, Any]) -> list[str]:
    return [f"feature {one}" for one in info.get("features", ())]


def _within(
    infos: dict[str, dict[str, Any]], name: str, path: str, outer: tuple[str, ...]
) -> Iterator[str]:
    if name in outer:
        return
    info, inner = infos[name], (*outer, name)
    if "element-type" in info:
        yield from _within(infos, info["element-type"], path, inner)
    for value in info.get("values", ()):
        yield f"{path}={value}"
    for member in info.get("members", ()):
        if "name" in member and "type" in member:
            place = f"{path}.{member['name']}".removeprefix(".")
            yield place
            yield from _within(infos, member["type"], place, inner)
        elif "type" in member:
            yield from _within(infos, member["type"], path, inner)
    for variant in info.get("variants", ()):
        yield from _within(infos, variant["type"], path, inner)


if __name__ == "__main__":
    print(page(), end="")
