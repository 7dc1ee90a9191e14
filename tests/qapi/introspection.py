"""Introspection of two schemas, compared."""

from typing import Any


class Tree:
    """Introspection with the names of types resolved."""

    def __init__(self, infos: list[dict[str, Any]]) -> None:
        self._infos = {info["name"]: info for info in infos}

    def roots(self) -> set[str]:
        kinds = ("command", "event")
        return {name for name, info in self._infos.items() if info["meta-type"] in kinds}

    def flat(self, name: str) -> set[str]:
        """Return all that is said of a command or event, a line each."""
        info = self._infos[name]
        lines = {f"oob={info.get('allow-oob', False)}", f"meta={info['meta-type']}"}
        lines.update(f"features.{feature}" for feature in info.get("features", ()))
        for role in ("arg", "ret"):
            if f"{role}-type" in info:
                self._type(info[f"{role}-type"], role, lines, ())
        return lines

    def _type(self, name: str, path: str, lines: set[str], outer: tuple[str, ...]) -> None:
        if name in outer:
            lines.add(f"{path} is {len(outer) - outer.index(name)} levels up")
            return
        info = self._infos[name]
        inner = (*outer, name)
        lines.add(f"{path} is {info.get('json-type', info['meta-type'])}")
        lines.update(f"{path} has {feature}" for feature in info.get("features", ()))
        for value in info.get("values", ()):
            lines.add(f"{path}:{value}")
        if "element-type" in info:
            self._type(info["element-type"], f"{path}[]", lines, inner)
        for member in info.get("members", ()):
            if info["meta-type"] == "enum":
                lines.add(f"{path}:{member['name']} is a value {member.get('features', [])}")
            elif info["meta-type"] == "alternate":
                kind = self._infos[member["type"]]
                self._type(
                    member["type"], f"{path}|{kind.get('json-type', kind['meta-type'])}", lines,
                    inner,
                )  # fmt: skip
            else:
                where = f"{path}.{member['name']}"
                lines.add(f"{where} optional={'default' in member} {member.get('features', [])}")
                self._type(member["type"], where, lines, inner)
        if "tag" in info:
            lines.add(f"{path} by {info['tag']}")
        for variant in info.get("variants", ()):
            self._type(variant["type"], f"{path}={variant['case']}", lines, inner)
