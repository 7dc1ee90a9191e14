"""The reaper's wakes as seen from outside: strace on the thread named kvm-reaper."""

from __future__ import annotations

import bisect
import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.tools.vm import VmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_S = 5.0


def _reaper(pid: int) -> int:
    """Return the id of the process's reaper thread."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == "kvm-reaper":
            return int(task.name)
    raise VmError(f"process {pid} has no thread named kvm-reaper")


def _calls(output: Path) -> list[float]:
    """When the thread entered each system call, by the clock of `time.time`."""
    # the last line may be half written
    lines = output.read_text(errors="replace").split("\n")[:-1]
    return [float(line.split()[0]) for line in lines if line[:1].isdigit()]


@contextlib.contextmanager
def trace(pid: int) -> Iterator[Callable[[float], float | None]]:
    """Watch the reaper of process `pid`.

    Gives a function that tells how many seconds after a moment (of `time.time`) the thread entered
    its next system call: it sleeps in one, so that is when it was awake again. None: not so far.

    Raises VmError: There is no strace, no reaper, or no permission.
    """
    if shutil.which("strace") is None:
        raise VmError("strace is not installed")
    with tempfile.TemporaryDirectory(prefix="qmpctl-") as directory:
        output = Path(directory) / "calls"
        argv = ["strace", "-ttt", "-p", str(_reaper(pid)), "-o", str(output)]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            said = process.stderr.readline().decode().strip()
            if "attached" not in said:
                raise VmError(said or "strace has ended")

            def wake_after(moment: float) -> float | None:
                deadline = time.monotonic() + START_S
                while time.monotonic() < deadline:
                    calls = _calls(output)
                    index = bisect.bisect_right(calls, moment)
                    if index < len(calls):
                        return calls[index] - moment
                    time.sleep(0.01)
                return None

            yield wake_after
        finally:
            process.terminate()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
