"""The pure rooms with I/O where there is no Linux, no compiler and no wheel."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = Path(__file__).parent / "elsewhere"
ROOMS = ("monitor", "standin", "testing", "tools", "transcript")  # the others do no I/O


@pytest.mark.slow
@pytest.mark.install
def test_the_pure_rooms_pass_their_tests() -> None:
    """Those of the rooms with I/O, without the clock, the engine and QEMU."""
    env = {
        **os.environ,
        "PYTHONPATH": f"{ELSEWHERE}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
        # Python derives this from sys.platform otherwise.
        "_PYTHON_SYSCONFIGDATA_NAME": sysconfig._get_sysconfigdata_name(),  # type: ignore[attr-defined]
    }
    tests = [path for room in ROOMS for path in ROOT.glob(f"tests/{room}/**/test_*.py")]
    tests.remove(ROOT / "tests" / "testing" / "test_plugin.py")  # pytest in pytest, and slow
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-m", "not slow and not serial and not hypothesis"]
    ran = subprocess.run(
        [*command, *tests],
        env=env,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-10000:] + ran.stderr
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) > 700
