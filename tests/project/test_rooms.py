"""The rules of the rooms: which room imports which, no circles, no native code but in `vm`."""

import re
import subprocess
import sys

import pytest

from tests.project import rooms

GRAPH = rooms.imports()


def test_no_arrow_runs_back_up() -> None:
    broken = rooms.broken_rules(GRAPH)
    assert not broken, "\n".join([*broken, "", rooms.drawing(GRAPH)])


def test_no_circles_between_files() -> None:
    found = rooms.circles(GRAPH)
    assert not found, "\n".join(found)


def test_each_room_has_a_rule() -> None:
    assert {rooms.room(name) for name in rooms.modules()} == {*rooms.ALLOWED, ""}


def test_contributing_shows_the_rules() -> None:
    page = (rooms.ROOT / "CONTRIBUTING.md").read_text()
    lines = re.findall(
        r"^([a-z_, ]+?) +(?:-> ([a-z_, ]+)|import no other room)$", page, re.MULTILINE
    )
    shown = {
        name: set(filter(None, allowed.split(", ")))
        for names, allowed in lines
        for name in names.split(", ")
    }
    assert shown == {name: set(allowed.split()) for name, allowed in rooms.ALLOWED.items()}


def test_a_rule_that_breaks_is_named() -> None:
    path = rooms.ROOT / "qmpserver" / "qmp" / "session.py"

    def imported(importer: str, module: str, late: bool = False) -> rooms.Import:
        return rooms.Import(f"qmpserver.{importer}", f"qmpserver.{module}", path, 7, late)

    broken = rooms.broken_rules(
        [
            imported("qmp.session", "qapi.schema"),
            imported("testing.thread", "vm.machine"),
            imported("testing.thread", "vm.machine", late=True),
            imported("standin.server", "vm.machine", late=True),
        ]
    )
    where = "qmpserver/qmp/session.py:7 imports"
    assert broken == [
        f"{where} qmpserver.qapi.schema: qmp imports only: nothing of ours",
        f"{where} qmpserver.vm.machine: testing imports vm inside functions only",
        f"{where} qmpserver.vm.machine: standin imports only: {rooms.ALLOWED['standin']}",
    ]
    circle = [imported("qmp.a", "qmp.b"), imported("qmp.b", "qmp.c"), imported("qmp.c", "qmp.a")]
    assert rooms.circles(circle) == ["qmpserver.qmp.a <-> qmpserver.qmp.b <-> qmpserver.qmp.c"]


IMPORT = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "qmpserver.vm" or name.startswith("qmpserver.vm.") or "cffi" in name:
            raise ModuleNotFoundError(f"{name} is refused", name=name)

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not any(name.startswith("qmpserver.vm") for name in sys.modules)
"""


@pytest.mark.slow
def test_what_is_pure_python_needs_no_engine() -> None:
    pure = [
        name
        for name in rooms.modules()
        if rooms.room(name) in rooms.PURE and not name.endswith("__main__")
    ]
    assert len(pure) > 50
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, "qmpserver", *pure],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
