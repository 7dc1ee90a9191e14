"""The program where the native engine was not built, and where `qmpserver.vm` is missing."""

import subprocess
import sys

import pytest

from tests.cli.conftest import PATIENCE

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if f"{name}.".startswith("BLOCKED."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
from qmpserver.cli.main import main
main()
"""
QUIT = '{"execute": "qmp_capabilities"}{"execute": "query-status"}{"execute": "quit"}'
EXTENSION = "qmpserver.vm.accel.native._native"


def run(blocked: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.replace("BLOCKED", blocked), *options, "-qmp", "stdio"],
        input=QUIT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    "options",
    ["", "-accel kvm -machine q35,accel=kvm -no-shutdown -no-reboot -smp 2 -m 1G -name vm -S"],
)
def test_stand_in_needs_no_machine(options: str) -> None:
    ran = run("qmpserver.vm", "-fake", "default", *options.split())
    assert (ran.returncode, ran.stderr) == (0, "")
    assert '"status": "running"' in ran.stdout or '"status": "prelaunch"' in ran.stdout
    assert '"event": "SHUTDOWN"' in ran.stdout


@pytest.mark.parametrize("accel", ["kvm", "soft"])
def test_machine_says_that_the_engine_was_not_built(accel: str) -> None:
    ran = run(EXTENSION, "-accel", accel)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("qmpserver: the native engine was not built")
    assert ran.stderr.endswith("; -fake does not need it\n")
    assert ran.stderr.count("\n") == 1


def test_another_missing_module_is_an_internal_error() -> None:
    ran = run("qmpserver.vm.accel.memory", "-accel", "soft")
    assert ran.returncode == 1
    assert ran.stderr.startswith("qmpserver: internal error\nTraceback")
    assert "No module named 'qmpserver.vm.accel.memory'" in ran.stderr
