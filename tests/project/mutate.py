"""Break the product one line at a time, and see whether a test notices.

    python -m tests.project.mutate monitor --count 20 --seed 1
    python -m tests.project.mutate qmp --tests tests/qmp tests/monitor

The first word is a room or a file below `qmpserver/`. Each round copies the checkout, changes one
expression in one line of the copy, and runs the room's tests there until the first failure. The
changes are picked at random, the same ones for the same seed. The survivors, which no test noticed,
are listed at the end: each is a test that is missing, or a line that does nothing.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.project.rooms import PACKAGE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 300.0
COPIED = ("qmpserver", "schema", "tests", "examples", "pyproject.toml", "README.md", "setup.py")
COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}


class Mutation(NamedTuple):
    """A replacement of the text from `start` to `end` (character offsets in the file)."""

    path: Path
    line: int
    start: int
    end: int
    text: str

    def __str__(self) -> str:
        source = self.path.read_text()
        was = " ".join(source[self.start : self.end].split())
        return f"{self.path.relative_to(ROOT)}:{self.line}: {was[:60]}  ->  {self.text}"

    def apply(self, root: Path) -> None:
        """Change the file in the copy of the checkout at `root`."""
        source = self.path.read_text()
        changed = source[: self.start] + self.text + source[self.end :]
        (root / self.path.relative_to(ROOT)).write_text(changed)


def mutations(path: Path) -> Iterator[Mutation]:
    """Return all changes that the script knows for a file.

    A condition is negated, a comparison's bound is moved, `and` and `or` change places, a constant
    is another, a result is None, and a call whose result is not used is left out.
    """
    source = path.read_text()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def of(node: ast.expr | ast.stmt, text: str) -> Mutation:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = offset(node.lineno, node.col_offset)
        end = offset(node.end_lineno, node.end_col_offset)
        return Mutation(path, node.lineno, start, end, text)

    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                if "TYPE_CHECKING" not in ast.unparse(test):
                    yield of(test, f"(not ({ast.unparse(test)}))")
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                other = COMPARISONS[type(operator)]
                yield of(node, f"({ast.unparse(left)} {other} {ast.unparse(right)})")
            case ast.BoolOp(op=operator, values=values):
                word = " or " if isinstance(operator, ast.And) else " and "
                yield of(node, f"({word.join(f'({ast.unparse(one)})' for one in values)})")
            case ast.Constant(value=bool() as value):
                yield of(node, str(not value))
            case ast.Constant(value=int() | float() as value):
                yield of(node, str(value + 1))
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield of(node, "return None")
            case ast.Expr(value=ast.Call() | ast.Await()):
                yield of(node, "pass")


def survives(mutation: Mutation, tests: list[str]) -> bool:
    """Run `tests` on a copy of the checkout with the mutation; return whether they pass."""
    with tempfile.TemporaryDirectory(prefix="mutate-") as directory:
        copy = Path(directory)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, symlinks=True)
            else:
                shutil.copy(ROOT / name, copy / name)
        mutation.apply(copy)
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(TIMEOUT_S) == 0
        except subprocess.TimeoutExpired:
            return False  # a test that hangs has noticed it
        finally:
            subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
            process.wait()


def main() -> int:
    """Run the program; return the number of survivors."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tests.project.mutate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("where", help="a room, such as monitor, or a file, such as qmp/lexer.py")
    parser.add_argument("--tests", nargs="+", help="what to run (the room's own tests)")
    parser.add_argument("--count", type=int, default=20, help="how many changes (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of their choice (%(default)s)")
    args = parser.parse_args()
    place = ROOT / PACKAGE / args.where
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    tests = args.tests or [f"tests/{Path(args.where).with_suffix('')}"]
    known = [one for path in files for one in mutations(path)]
    chosen = random.Random(args.seed).sample(known, min(args.count, len(known)))
    survivors = []
    for number, mutation in enumerate(chosen, 1):
        alive = survives(mutation, tests)
        survivors += [mutation] * alive
        print(f"{number:3} {'SURVIVED' if alive else 'noticed '} {mutation}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
