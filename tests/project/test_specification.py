"""SPECIFICATION.md: each promise has a number and tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISE = re.compile(r"^(\d+)\. ", re.MULTILINE)
TEST = re.compile(r"^ +- `([^`]+)`$", re.MULTILINE)


def promises() -> dict[int, str]:
    """Return the promises with their tests, by number."""
    text = (ROOT / "SPECIFICATION.md").read_text()
    sections = "".join(text.split("\n## ")[1:])
    _, *parts = PROMISE.split(sections)
    return dict(zip(map(int, parts[::2]), parts[1::2], strict=True))


def functions(path: Path) -> set[str]:
    """Return the names of the functions of a module."""
    nodes = ast.parse(path.read_text()).body
    return {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_promise_has_a_number_of_its_own() -> None:
    numbers = PROMISE.findall((ROOT / "SPECIFICATION.md").read_text())
    assert len(numbers) == len(promises()) > 0
    assert list(promises()) == sorted(promises())


@pytest.mark.parametrize("number", promises())
def test_each_promise_has_tests_that_exist(number: int) -> None:
    promise = promises()[number]
    tests = TEST.findall(promise)
    assert tests
    assert len(tests) == promise.count("`tests/") == promise.count("::") == len(set(tests))
    for test in tests:
        path, _, name = test.partition("::")
        assert name.startswith("test_"), test
        assert name in functions(ROOT / path), test
