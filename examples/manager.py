"""A small manager of virtual machines: finds QMP sockets, prints events, limits dirty rates.

python manager.py DIRECTORY [--policy policy.toml] [--list]. The machines are the QMP servers at
DIRECTORY/*.sock: this server, or QEMU 7.1 or later with a dirty ring. They may come and go.
"""

import argparse
import asyncio
import fnmatch
import signal
import sys
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError, Runstate

RESCAN_S, GREETING_S, MEASURING_S = 0.5, 3.0, 5.0
GONE = (QMPError, EOFError, OSError)  # the errors of a closed connection, depending on the moment


@dataclass(frozen=True)
class Policy:
    """The limit of each vCPU of machines whose name matches, and when it applies; MB/s."""

    name: str
    high: int
    limit: int
    low: int

    def __post_init__(self) -> None:
        if not 0 < self.low < self.limit <= self.high:
            raise ValueError(f"policy {self.name!r}: expected 0 < low < limit <= high")

    def limits(self, rate: int, limited: bool) -> bool:
        """Return whether to limit a vCPU; from `low` to `high` nothing changes, to avoid flapping.

        The limit is above `low`, therefore a limited vCPU falls below `low` only if its guest
        dirties less.
        """
        return rate >= self.low if limited else rate > self.high


class Machine:
    """A connection to the machine at `path`; its name is from `query-name`, or the socket's."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        self.client = QMPClient(path.name)

    async def __aenter__(self) -> "Machine":
        try:
            async with asyncio.timeout(GREETING_S):
                await self.client.connect(str(self.path))
                self.name = (await self.ask("query-name")).get("name", self.name)
        except TimeoutError:
            await self.__aexit__()
            raise OSError("no QMP greeting: it may be serving another client") from None
        return self

    async def __aexit__(self, *_exc: object) -> None:
        with suppress(*GONE):
            await self.client.disconnect()

    def say(self, text: str) -> None:
        """Print a line about the machine."""
        print(f"{self.name}: {text}", flush=True)

    async def ask(self, command: str, **arguments: object) -> Any:
        """Execute a command and return its result; `_` in names of arguments stands for `-`."""
        return await self.client.execute(
            command, {k.replace("_", "-"): arguments[k] for k in arguments}
        )

    async def rates(self) -> list[int] | None:
        """Measure each vCPU's dirty rate for a second, in MB/s; None if the machine cannot."""
        with suppress(ExecuteError, TimeoutError):  # no dirty ring, or another client is measuring
            async with asyncio.timeout(MEASURING_S):
                await self.ask("calc-dirty-rate", calc_time=1, mode="dirty-ring")
                while True:
                    await asyncio.sleep(0.1)
                    rate = await self.ask("query-dirty-rate")
                    if rate["status"] == "measured":
                        return [vcpu["dirty-rate"] for vcpu in rate["vcpu-dirty-rate"]]
        await asyncio.sleep(1)
        return None

    async def row(self) -> str:
        """Return the machine's line of the table."""
        status, vcpus = await self.ask("query-status"), await self.ask("query-cpus-fast")
        limits = {v["cpu-index"]: v["limit-rate"] for v in await self.ask("query-vcpu-dirty-limit")}
        rates = " ".join(map(str, await self.rates() or "-"))
        set_to = " ".join(f"{cpu}:{limits[cpu]}" for cpu in sorted(limits)) or "-"
        return f"{self.name:<16} {status['status']:<12} {len(vcpus):>5}  {rates:<16} {set_to}"

    async def obey(self, policy: Policy) -> None:
        """Keep the vCPUs to a policy; cancel the limits set here at the end, and on error."""
        ours: set[int] = set()
        try:
            while True:
                for cpu, rate in enumerate(await self.rates() or []):
                    if (limit := policy.limits(rate, cpu in ours)) == (cpu in ours):
                        continue
                    self.say(f"vCPU {cpu} dirties {rate} MB/s: {'limit' if limit else 'release'}")
                    ours ^= {cpu}
                    mb = policy.limit if limit else 0  # 0 cancels
                    await self.ask("set-vcpu-dirty-limit", cpu_index=cpu, dirty_rate=mb)
        except ExecuteError as error:
            self.say(f"policy no longer applied: {error}")
        finally:
            for cpu in ours:
                with suppress(*GONE):
                    await self.ask("cancel-vcpu-dirty-limit", cpu_index=cpu)

    async def manage(self, policies: list[Policy]) -> None:
        """Print events and apply the first policy that matches, until the machine is gone."""
        with self.client.listener() as events:
            self.say(f"found, {(await self.ask('query-status'))['status']}")
            matching = [p for p in policies if fnmatch.fnmatchcase(self.name, p.name)]
            tasks = [asyncio.create_task(self.obey(policy)) for policy in matching[:1]]
            tasks += [asyncio.create_task(self.follow(events))]
            try:
                while self.client.runstate is Runstate.RUNNING:
                    await self.client.runstate_changed()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(
                    *tasks, return_exceptions=True
                )  # they fail when the machine is gone
        self.say("gone")

    async def follow(self, events: EventListener) -> None:
        """Print the machine's events."""
        async for event in events:
            self.say(f"{event['event']} {event.get('data', '')}".rstrip())


async def watch(directory: Path, policies: list[Policy]) -> None:
    """Manage the machines of a directory as they come and go."""
    tasks: dict[Path, asyncio.Task[None]] = {}
    reported: dict[Path, str] = {}  # the last error of each path, to print it once

    async def manage(path: Path) -> None:
        try:
            async with Machine(path) as machine:
                reported.pop(path, None)
                await machine.manage(policies)
        except GONE as error:
            if reported.get(path) != str(error):
                reported[path] = str(error)
                print(f"{path}: {error}", file=sys.stderr, flush=True)

    async with asyncio.TaskGroup() as group:  # at Ctrl-C it waits until limits are released
        while True:
            for path in sockets(directory):
                if path not in tasks or tasks[path].done():
                    tasks[path] = group.create_task(manage(path))
            await asyncio.sleep(RESCAN_S)


async def table(directory: Path) -> None:
    """Print a table of the machines of a directory."""

    async def row(path: Path) -> str:
        try:
            async with Machine(path) as machine:
                return await machine.row()
        except GONE as error:
            return f"{path.stem:<16} {error}"

    print(f"{'name':<16} {'status':<12} vCPUs  {'MB/s':<16} limits")
    print(*await asyncio.gather(*map(row, sockets(directory))), sep="\n")


def sockets(directory: Path) -> list[Path]:
    """Return the sockets of a directory, sorted."""
    return sorted(path for path in directory.glob("*.sock") if path.is_socket())


def main() -> None:
    """Parse the command line, load the policies, and run."""
    parser = argparse.ArgumentParser(description="Manage the machines of a directory of sockets.")
    parser.add_argument("directory", type=Path, help="the directory of the QMP sockets (*.sock)")
    parser.add_argument("--policy", type=Path, help="a TOML file, see policy.toml")
    parser.add_argument("--list", action="store_true", help="print a table and exit")
    args = parser.parse_args()
    try:
        next(args.directory.iterdir(), None)  # fails unless it is a readable directory
        loaded = tomllib.loads(args.policy.read_text()) if args.policy else {}
        policies = [Policy(**each) for each in loaded.get("policy", [])]
    except (OSError, ValueError, TypeError) as error:
        parser.error(str(error))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for `&`
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        asyncio.run(table(args.directory) if args.list else watch(args.directory, policies))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
