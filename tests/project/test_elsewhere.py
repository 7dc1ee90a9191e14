"""The pure rooms where there is no Linux, no compiler and no wheel."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.project import rooms

ROOT = Path(__file__).parents[2]
ELSEWHERE = Path(__file__).parent / "elsewhere"
ROOMS = [name for name in rooms.PURE if name != "keyval"]


@pytest.mark.slow
def test_the_pure_rooms_pass_their_tests() -> None:
    """Those that need neither the clock nor the engine nor QEMU."""
    env = {
        **os.environ,
        "PYTHONPATH": f"{ELSEWHERE}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
        # Python derives this from sys.platform otherwise.
        "_PYTHON_SYSCONFIGDATA_NAME": sysconfig._get_sysconfigdata_name(),  # type: ignore[attr-defined]
    }
    tests = [path for room in ROOMS for path in ROOT.glob(f"tests/{room}/**/test_*.py")]
    tests.remove(ROOT / "tests" / "migration" / "test_bars.py")  # it runs machines
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-m", "not slow and not serial and not hypothesis"]
    ran = subprocess.run(
        [*command, *tests, ROOT / "tests" / "test_keyval.py"],
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
    assert int(passed[1]) > 1500
