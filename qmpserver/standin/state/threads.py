"""Threads that stand for those of vCPUs and I/O threads: idle, with QEMU's names.

A client that pins such a thread, or reads its times, finds a thread of the stand-in; a made-up
number could be that of another process.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref

_LONGEST = 15  # letters of a thread's name in Linux


class Threads:
    """Idle threads, each started when its id is asked for the first time."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[threading.Thread, threading.Lock]] = {}
        weakref.finalize(self, _end_all, self._started)  # of a stand-in that nobody closes

    def id(self, name: str) -> int:
        """Return the operating system's id of the thread with a name.

        Where the system has no thread left to give, it is the id of the process's first one.
        """
        if name not in self._started:
            end = threading.Lock()
            end.acquire()
            thread = threading.Thread(target=end.acquire, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return os.getpid()
            self._started[name] = thread, end
            with contextlib.suppress(OSError):  # without /proc it has the process's name
                path = f"/proc/self/task/{thread.native_id}/comm"
                with open(path, "w", encoding="utf-8", errors="replace") as comm:
                    comm.write(name[:_LONGEST])
        return self._started[name][0].native_id or os.getpid()

    def end(self, name: str) -> None:
        """End the thread with a name, if there is one."""
        if name in self._started:
            _end_all({name: self._started.pop(name)})

    def close(self) -> None:
        """End all threads."""
        _end_all(self._started)


def _end_all(started: dict[str, tuple[threading.Thread, threading.Lock]]) -> None:
    while started:
        _, (thread, end) = started.popitem()
        end.release()
        thread.join()
