"""The import graph of the package, read from its source: files, rooms and the arrows between them.

`python -m tests.project.rooms` draws it. An import counts wherever it stands: at the top of a file,
in a function, or under `TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "qmpserver"

ALLOWED = {
    "files": "",
    "keyval": "",
    "qmp": "",
    "qapi": "files",
    "releases": "qapi files",
    "migration": "monitor qmp keyval",
    "monitor": "releases qmp qapi keyval",
    "human": "releases migration monitor qmp keyval",
    "transcript": "qmp",
    "standin": "human releases migration monitor transcript qmp qapi keyval files",
    "vm": "human releases migration monitor qmp qapi keyval files",
    "web": "vm migration monitor qmp qapi keyval files",
    "cli": "web vm standin human releases migration monitor qmp qapi keyval files",
    "testing": "standin transcript monitor qmp qapi keyval files",
    "pytest_plugin": "testing standin transcript monitor files",
    "tools": "migration transcript qmp qapi files",
    "bench": "vm tools migration transcript qmp qapi keyval",
}
"""The rooms that each room may import; all of them may import `_version`."""

LATE = {"testing": "cli vm"}
"""The rooms that a room may import inside functions, when somebody asks for them."""

PURE = (
    "files",
    "keyval",
    "qmp",
    "qapi",
    "releases",
    "migration",
    "monitor",
    "human",
    "transcript",
    "standin",
    "testing",
    "pytest_plugin",
    "tools",
)
"""The rooms that work without the native engine."""


@dataclass(frozen=True)
class Import:
    """One import of a module of the package by another; `late` if it is inside a function."""

    importer: str
    imported: str
    path: Path
    line: int
    late: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.imported}"


def modules() -> dict[str, Path]:
    """Return the package's files by the names of their modules."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


def imports() -> list[Import]:
    """Return all imports within the package."""
    known = modules()
    return [
        Import(name, imported, path, line, late)
        for name, path in known.items()
        for imported, line, late in _imported(ast.parse(path.read_text()), known)
        if imported != name
    ]


def _imported(
    tree: ast.AST, known: dict[str, Path], late: bool = False
) -> list[tuple[str, int, bool]]:
    found: list[tuple[str, int, bool]] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
            found += [(name, node.lineno, late) for name in names if name in known]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            below = [f"{node.module}.{one.name}" for one in node.names]
            names = [name if name in known else f"{node.module}" for name in below]
            found += [(name, node.lineno, late) for name in dict.fromkeys(names) if name in known]
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            found += _imported(node, known, late or inside)
    return found


def room(module: str) -> str:
    """Return the room that a module is in; "" for the package itself and its version."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "_version" else ""


def broken_rules(graph: list[Import]) -> list[str]:
    """Return the imports that no rule allows, a line each, with the rule that they break."""
    broken = []
    for one in graph:
        here, there = room(one.importer), room(one.imported)
        if not here or not there or here == there:
            continue
        if here not in ALLOWED:
            broken.append(f"{one}: {here} is no room")
        elif there in ALLOWED[here].split() or (one.late and there in LATE.get(here, "").split()):
            continue
        elif there in LATE.get(here, "").split():
            broken.append(f"{one}: {here} imports {there} inside functions only")
        else:
            broken.append(f"{one}: {here} imports only: {ALLOWED[here] or 'nothing of ours'}")
    return broken


def circles(graph: list[Import]) -> list[str]:
    """Return the circles among files, a line each: the modules that import one another."""
    below: dict[str, set[str]] = {}
    for one in graph:
        below.setdefault(one.importer, set()).add(one.imported)
    return [" <-> ".join(sorted(group)) for group in _components(below) if len(group) > 1]


def _components(below: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components: Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(below.get(node, ())):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            at = stack.index(node)
            found.append(set(stack[at:]))
            del stack[at:]

    for node in sorted(below):
        if node not in index:
            visit(node)
    return found


def drawing(graph: list[Import]) -> str:
    """Return the rooms from the top floor down, each with its size and the rooms it imports."""
    sizes: dict[str, int] = {}
    for name, path in modules().items():
        sizes[room(name)] = sizes.get(room(name), 0) + len(path.read_text().splitlines())
    always: dict[str, set[str]] = {name: set() for name in sizes}
    late: dict[str, set[str]] = {name: set() for name in sizes}
    for one in graph:
        here, there = room(one.importer), room(one.imported)
        if here and there and here != there:
            (late if one.late else always)[here].add(there)

    floors: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...] = ()) -> int:
        if name not in floors:
            below = {other for other in always[name] | late[name] if other not in above}
            floors[name] = 1 + max((floor(other, (*above, name)) for other in below), default=0)
        return floors[name]

    lines = []
    for name in sorted(filter(None, sizes), key=lambda one: (-floor(one), one)):
        arrows = sorted(always[name]) + [
            f"({other})" for other in sorted(late[name] - always[name])
        ]
        lines.append(
            f"{floor(name)}  {name:11} {sizes[name]:5} lines  -> {' '.join(arrows) or '-'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(drawing(imports()))
