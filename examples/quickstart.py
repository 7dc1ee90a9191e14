"""Start a server with two vCPUs, limit them, cancel the limits, and measure the cancel's latency.

Shows how to drive the server with the `qemu.qmp` client.
"""

import asyncio
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, QMPClient, QMPError

from qmpserver.bench.cancel import measure
from qmpserver.bench.report import table
from qmpserver.bench.servers import OURS, Candidate, enter

CYCLES = 20
RING = "dirty-ring-size=4096"


class Server:
    """A server with two vCPUs in a child process, and a client connected to it."""

    def __init__(self) -> None:
        self.client = QMPClient("quickstart")

    async def __aenter__(self) -> QMPClient:
        """Start the server and connect."""
        self._directory = tempfile.TemporaryDirectory(prefix="qmpserver-")
        path = Path(self._directory.name) / "qmp.sock"
        options = f"-accel kvm,{RING} -accel soft,{RING} -smp 2 -m 512M"
        options += f" -qmp unix:{path},server=on,wait=on"
        print(f"$ qmpserver {options}")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "qmpserver.cli", *options.split()
        )
        while self._process.returncode is None:
            try:
                if path.exists():
                    await self.client.connect(str(path))
                    return self.client
            except ConnectError:
                pass  # the socket exists, but the server does not listen yet
            await asyncio.sleep(0.01)
        raise SystemExit(self._process.returncode)

    async def __aexit__(self, *_exc: object) -> None:
        """End the server and remove its directory."""
        try:
            async with asyncio.timeout(2):
                await self.client.execute("quit")
                await self.client.disconnect()
        except (QMPError, EOFError, OSError):
            if self._process.returncode is None:
                self._process.kill()
        finally:
            await self._process.wait()
            self._directory.cleanup()


async def free_rates(client: QMPClient, what: str) -> None:
    """Measure each vCPU's dirty rate for a second and print it."""
    await client.execute("calc-dirty-rate", {"calc-time": 1, "mode": "dirty-ring"})
    while True:
        await asyncio.sleep(0.1)
        info: Any = await client.execute("query-dirty-rate")
        if info["status"] == "measured":
            break
    show(what, {rate["id"]: rate["dirty-rate"] for rate in info["vcpu-dirty-rate"]})


async def limited_rates(client: QMPClient, seconds: int) -> None:
    """Print the rates under the limits, once a second."""
    for second in range(1, seconds + 1):
        await asyncio.sleep(1)
        limits: Any = await client.execute("query-vcpu-dirty-limit")
        show(f"  after {second} s", {v["cpu-index"]: v["current-rate"] for v in limits})


def show(what: str, rates: dict[int, int]) -> None:
    """Print a line of dirty rates."""
    text = "".join(f"   vCPU {index}: {rate:>5} MB/s" for index, rate in sorted(rates.items()))
    print(f"{what:<42}{text}", flush=True)


async def limit_and_release() -> str:
    """Limit and release the vCPUs of one server; return the name of its accelerator."""
    async with Server() as client:
        accelerators: Any = await client.execute("query-accelerators")
        accel = "kvm" if accelerators["enabled"] == "kvm" else "soft"
        if accel == "soft":
            print("KVM is not available: using the software accelerator")
        await asyncio.sleep(1)  # let the guest touch all of its memory once
        await free_rates(client, "running free")
        print('-> set-vcpu-dirty-limit {"dirty-rate": 100}')
        await client.execute("set-vcpu-dirty-limit", {"dirty-rate": 100})
        await limited_rates(client, 3)
        print('-> set-vcpu-dirty-limit {"cpu-index": 1, "dirty-rate": 20}')
        await client.execute("set-vcpu-dirty-limit", {"cpu-index": 1, "dirty-rate": 20})
        await limited_rates(client, 3)
        print("-> cancel-vcpu-dirty-limit")
        await client.execute("cancel-vcpu-dirty-limit")
        await free_rates(client, "free again")
        return accel


def cycles(accel: str) -> None:
    """Print the latency of a cancel, with an event-driven and with a polling reaper."""
    print(f"\n{CYCLES} times: limit a vCPU, wait until it is throttled, cancel")

    reapers = {"poll": "polling reaper", "event": "event-driven reaper"}
    servers = [
        Candidate(name, OURS, f"{accel},{RING},reaper={mode}") for mode, name in reapers.items()
    ]
    with ExitStack() as stack:
        vms = enter(stack, servers, [], vcpus=1)
        print(table(measure(vms, CYCLES, progress=count_up)))


def count_up(cycle: int) -> None:
    """Print the progress: in place on a terminal, else every fifth cycle."""
    if sys.stdout.isatty():
        print(f"\r  {cycle} of {CYCLES} ", end="\r" if cycle == CYCLES else "", flush=True)
    elif cycle % 5 == 0:
        print(f"  {cycle} of {CYCLES}", flush=True)


def main() -> None:
    """Run both parts, on KVM if it is available."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        cycles(asyncio.run(limit_and_release()))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
