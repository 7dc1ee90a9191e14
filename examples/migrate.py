"""Move a running guest from one server to another, and show its counter and the pause it felt.

`qmpctl migrate` does the same for servers that run already.
"""

import signal
import sys
import time
from contextlib import ExitStack

from qmpserver.bench.launch import launch
from qmpserver.bench.pause import Pause
from qmpserver.bench.servers import OURS
from qmpserver.bench.vm import Vm, VmError
from qmpserver.tools.figures import MIB, Figures
from qmpserver.tools.migration import Migration

ACCEL = "kvm,dirty-ring-size=4096 -accel soft,dirty-ring-size=4096"
GUEST = {"size": "256M"}
PACE = (4096, 500_000)  # when it has filled its memory: pages, and clock ticks between two stores
BANDWIDTH = 100  # MB/s: it takes some seconds


def show(what: str, vm: Vm) -> None:
    """Print the guest's own counter of its stores."""
    print(f"{what:<56} the guest has made {vm.progress(0):>9,} stores", flush=True)


def move(source: Vm, destination: Vm) -> str:
    """Migrate, and return a line about the end."""
    parameters = {"max-bandwidth": BANDWIDTH * MIB, "downtime-limit": 50}
    shown = -1

    def follow(figures: Figures) -> None:
        nonlocal shown
        if int(figures.seconds * 2) > shown:
            shown = int(figures.seconds * 2)
            show(f"  {figures.seconds:.1f} s: {figures.progress}", source)

    with Migration(source.qmp, destination.qmp) as migration, Pause(source, destination) as pause:
        migration.prepare([], parameters, parameters)
        migration.start()
        outcome = migration.follow(follow)
        if outcome.status != "completed":
            raise VmError(f"the migration {outcome.status}: {outcome.error}")
        total = outcome.source["total-time"] / 1000
        return f"moved in {total:.2f} s; by its own counter it stood still for {pause.ms():.1f} ms"


def main() -> None:
    """Run both servers, on KVM if it is available."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with ExitStack() as stack:
        server = f"{OURS} -accel {ACCEL} -m 512M"
        source = stack.enter_context(launch(server, vcpus=1, accel="", guest=GUEST))
        server += " -incoming defer"
        destination = stack.enter_context(launch(server, vcpus=1, accel="", guest=GUEST))
        while source.progress(0) < 256 * MIB // 4096:
            time.sleep(0.01)
        source.pace(0, *PACE)
        show("the guest runs on the first server", source)
        end = move(source, destination)
        show("the first server has stopped it", source)
        time.sleep(1)
        show("and it goes on on the second one", destination)
        print(end)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
