"""Makes the pictures of the dashboard: python -m tests.web.screenshot DIRECTORY (needs KVM)."""

import asyncio
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.web.browser import browser
from tests.web.serving import Guest, serving

OPTIONS = ["-accel", "kvm,dirty-ring-size=4096", "-smp", "2", "-m", "512M", "-name", "guest"]
COURSE: list[tuple[float, dict[int, int]]] = [  # seconds, and limits in MB/s from then on
    (9, {1: 40}),
    (18, {0: 130}),
    (26, {1: 60}),
    (34, {0: 80}),
    (42, {1: 20}),
]
END = 52.0


async def _wake_reaper(guest: Guest) -> None:
    for _ in range(30):
        await guest.execute("set-vcpu-dirty-limit", dirty_rate=100)
        await asyncio.sleep(0.1)
        await guest.execute("cancel-vcpu-dirty-limit")
        await asyncio.sleep(0.02)


async def _course(guest: Guest) -> None:
    now = 0.0
    for due, limits in COURSE:
        await asyncio.sleep(due - now)
        now = due
        for index, rate in limits.items():
            await guest.execute("set-vcpu-dirty-limit", cpu_index=index, dirty_rate=rate)
    await asyncio.sleep(END - now)


def _write(png: bytes, path: Path) -> None:
    """Write a picture with 256 colours: a third of the size, and no difference to be seen."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    small = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


async def main(directory: Path) -> None:
    """Let a guest run its course, and look."""
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        async with (
            serving(temporary, *OPTIONS) as guest,
            browser(temporary / "profile") as chromium,
        ):
            await _wake_reaper(guest)
            await guest.execute("set-vcpu-dirty-limit", dirty_rate=100)
            tab = await chromium.open(guest.url, 1440, 920)
            await tab.until("document.querySelector('.limit-handle')")
            await _course(guest)
            await tab.key("s")
            await tab.until("document.querySelector('#status').textContent === 'paused'")
            await tab.key("s")
            await tab.key("/")
            await tab.type("query-vcpu-dirty-limit")
            await tab.key("Enter")
            await tab.type("set-vcpu-dirty-limit cpu-index=1 ")
            await asyncio.sleep(2.5)
            _write(await tab.screenshot(), directory / "dashboard.png")
            await tab.prefer("dark")
            await asyncio.sleep(0.5)
            _write(await tab.screenshot(), directory / "dashboard-dark.png")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
