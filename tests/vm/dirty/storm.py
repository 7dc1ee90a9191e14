"""A process that stops, freezes or traces another one again and again: `storm.py HOW PID`.

It goes on until its standard input has a line, leaves the other process running, and prints how
often it did so.
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GAP_S = 0.0005
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000  # waitpid() for threads, too
FREEZER = Path("/sys/fs/cgroup/freezer")
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers")

Disturb = Callable[[int], None]


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)


def trace(pid: int) -> None:
    """Attach to all threads, stop them, and detach, as a debugger does."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    attached = []
    for name in os.listdir(f"/proc/{pid}/task"):
        thread_id = int(name)
        if libc.ptrace(PTRACE_SEIZE, thread_id, None, None) == 0:
            attached.append(thread_id)
            libc.ptrace(PTRACE_INTERRUPT, thread_id, None, None)
    for thread_id in reversed(attached):  # the end of the first is told after that of all others
        _, status = os.waitpid(thread_id, WALL)
        # Group-stop and a signal on its way are told the same: hand signals over.
        number = os.WSTOPSIG(status) if status >> 16 == 0 and os.WIFSTOPPED(status) else 0
        libc.ptrace(PTRACE_DETACH, thread_id, None, number)


@contextmanager
def freezer(pid: int) -> Iterator[Disturb]:
    """Make a group for the process, whose states are written; it is emptied and removed after."""
    unified = UNIFIED.exists()
    root = UNIFIED.parent if unified else FREEZER
    group = root / f"qmpserver-test-{pid}"
    state = group / ("cgroup.freeze" if unified else "freezer.state")
    frozen, thawed = ("1", "0") if unified else ("FROZEN", "THAWED")
    group.mkdir()
    (group / "cgroup.procs").write_text(str(pid))

    def freeze(_pid: int) -> None:
        state.write_text(frozen)
        state.write_text(thawed)

    try:
        yield freeze
    finally:
        state.write_text(thawed)
        with suppress(OSError):  # the process may have ended
            (root / "cgroup.procs").write_text(str(pid))
        while True:
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.01)


def repeat(disturb: Disturb, pid: int) -> int:
    """Disturb the process until standard input has a line; return how often."""
    count = 0
    with suppress(ProcessLookupError, FileNotFoundError, ChildProcessError):
        while not select.select([sys.stdin], [], [], GAP_S)[0]:
            disturb(pid)
            count += 1
    return count


def main() -> None:
    how, pid = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without thawing
    if how == "freeze":
        with freezer(pid) as freeze:
            print("ready", flush=True)
            count = repeat(freeze, pid)
    else:
        print("ready", flush=True)
        count = repeat({"stop": stop, "trace": trace}[how], pid)
    print(count)


if __name__ == "__main__":
    main()
