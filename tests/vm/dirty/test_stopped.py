"""No page is lost when the process is stopped, frozen or traced during a reset of the rings.

By default few rounds. ROUNDS=1000 pytest tests/vm/dirty/test_stopped.py makes a thousand of each.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import readable

ROUNDS = int(os.environ.get("ROUNDS", "12"))
ROOT = Path(__file__).parents[3]
FREEZERS = ("/sys/fs/cgroup/freezer/cgroup.procs", "/sys/fs/cgroup/cgroup.procs")


def start(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start one of this folder's programs; it is ready when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.vm.dirty.{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@contextlib.contextmanager
def storm(how: str, pid: int) -> Iterator[None]:
    process = start("storm", how, str(pid))
    try:
        yield
    finally:
        told, _ = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert int(told) > ROUNDS
    print(f"{how}: {told.strip()} times")


def judge(accel: str, how: str | None = None, **environment: str) -> dict[str, Any]:
    process = start("stopped_migration", accel, str(ROUNDS), **environment)
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.ExitStack() as stack:
        if how is not None:
            stack.enter_context(storm(how, process.pid))
        process.stdin.write("\n")
        process.stdin.flush()
        ready = readable(process.stdout, 60 + 5 * ROUNDS)
        if not ready:
            process.kill()
        told: dict[str, Any] = json.loads(process.stdout.readline())
    assert process.wait(60) == 0
    process.communicate()
    print(f"{accel}, {how}: {told}")
    return told


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "freeze", "trace"])
def test_no_page_is_lost(accel: str, how: str) -> None:
    if how == "freeze" and not any(os.access(path, os.W_OK) for path in FREEZERS):
        pytest.skip("no cgroup can be made here")
    assert judge(accel, how)["lost"] == 0


@pytest.mark.slow
def test_a_cut_reset_with_the_full_count_is_found() -> None:
    told = judge("soft", CUT="1")
    assert told["hidden"] == told["cuts"] > 0
    assert told["lost"] == 0


@pytest.mark.slow
def test_without_the_canary_it_would_lose_pages() -> None:
    """The judge sees a loss when there is one."""
    told = judge("soft", CUT="1", CANARY="0")
    assert told["hidden"] == told["cuts"] == 0
    assert told["lost"] > 0
