"""What watching costs: python -m tests.web.cost [DASHBOARDS] (5 of them; needs KVM and chromium).

Two vCPUs run at full speed under limits, first without a dashboard, then with some in a browser.
"""

import asyncio
import os
import statistics
import sys
import tempfile
from pathlib import Path

from tests.web.browser import browser
from tests.web.serving import Guest, serving

OPTIONS = ["-accel", "kvm,dirty-ring-size=4096", "-smp", "2", "-m", "512M"]
LIMITS = {0: 200, 1: 50}  # MB/s
SECONDS = 15
CYCLES = 100


def _main_thread(pid: int) -> float:
    """Return the processor time that the main thread, and no other, has had, in seconds."""
    stat = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


async def _measure(guest: Guest, title: str) -> None:
    for index, rate in LIMITS.items():
        await guest.execute("set-vcpu-dirty-limit", cpu_index=index, dirty_rate=rate)
    await asyncio.sleep(3)
    before, start = _main_thread(guest.process.pid), asyncio.get_running_loop().time()
    rates: dict[int, list[int]] = {index: [] for index in LIMITS}
    for _ in range(SECONDS):
        await asyncio.sleep(1)
        for one in await guest.execute("query-vcpu-dirty-limit"):
            rates[one["cpu-index"]].append(one["current-rate"])
    spent = _main_thread(guest.process.pid) - before
    share = spent / (asyncio.get_running_loop().time() - start)
    held = ", ".join(
        f"vCPU {index} {statistics.mean(rates[index]):.1f} of {limit} MB/s"
        for index, limit in LIMITS.items()
    )
    wakes = await _cancel_to_wake(guest)
    print(f"{title}: main thread {share:.1%} of a core; {held}; cancel to wake {wakes}", flush=True)


async def _cancel_to_wake(guest: Guest) -> str:
    times = []
    for _ in range(CYCLES):
        await guest.execute("set-vcpu-dirty-limit", dirty_rate=50)
        await asyncio.sleep(0.05)
        await guest.execute("cancel-vcpu-dirty-limit")
        await asyncio.sleep(0.05)
        reaper = (await guest.execute("__org.qmpserver_query-dirty-ring"))["reaper"]
        times.append((reaper["last-wake-time"] - reaper["last-cancel-time"]) / 1e6)
    times.sort()
    return f"{statistics.median(times):.3f} ms median, {times[int(len(times) * 0.9)]:.3f} ms p90"


async def main(dashboards: int) -> None:
    """Measure both in one run."""
    with tempfile.TemporaryDirectory() as name:
        async with serving(Path(name), *OPTIONS) as guest:
            await _measure(guest, "nobody watches")
            async with browser(Path(name) / "profile") as chromium:
                for _ in range(dashboards):
                    tab = await chromium.open(guest.url)
                    await tab.until("document.querySelector('.limit-handle')")
                await _measure(guest, f"{dashboards} dashboards")
            await _measure(guest, "nobody again")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
