"""A short soak: it finds what grows with each client, command or migration."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = "20"


@pytest.mark.slow
def test_memory_threads_descriptors_and_latency_are_flat() -> None:
    command = [sys.executable, "-m", "tests.soak", "--seconds", SECONDS]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("flat") == 8
