"""The reaper's wakes, observed from outside: by strace on the thread named kvm-reaper."""

from __future__ import annotations

import bisect
import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.bench.vm import VmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_S = 5.0
_LINE = re.compile(r"^([0-9.]+) .*<([0-9.]+)>$", re.MULTILINE)


def _reaper(pid: int) -> int:
    """Return the id of the process's reaper thread."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == "kvm-reaper":
            return int(task.name)
    raise VmError(f"process {pid} has no thread named kvm-reaper")


def _returns(output: Path) -> list[float]:
    """Return when the thread's system calls returned, by the clock of `time.time`."""
    text = output.read_text(errors="replace")
    return [float(entered) + float(took) for entered, took in _LINE.findall(text)]


@contextlib.contextmanager
def trace(pid: int) -> Iterator[Callable[[float], float | None]]:
    """Watch the reaper of process `pid`.

    Yields:
        A function that takes a moment, of `time.time`, and returns after how many seconds a system
        call of the thread first returned: it sleeps in one, so that is its wake. None if it did
        not within `START_S`.

    Raises:
        VmError: There is no strace, no reaper, or no permission.
    """
    if shutil.which("strace") is None:
        raise VmError("strace is not installed")
    with tempfile.TemporaryDirectory(prefix="qmpctl-") as directory:
        output = Path(directory) / "calls"
        argv = ["strace", "-ttt", "-T", "-p", str(_reaper(pid)), "-o", str(output)]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            said = process.stderr.readline().decode().strip()
            if "attached" not in said:
                raise VmError(said or "strace has ended")

            def wake_after(moment: float) -> float | None:
                deadline = time.monotonic() + START_S
                while time.monotonic() < deadline:
                    returns = _returns(output)
                    index = bisect.bisect_right(returns, moment)
                    if index < len(returns):
                        return returns[index] - moment
                    time.sleep(0.01)
                return None

            yield wake_after
        finally:
            process.terminate()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
