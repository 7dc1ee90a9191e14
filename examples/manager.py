"""A small manager of virtual machines: finds their QMP sockets, watches, limits dirty rates.

python manager.py DIRECTORY [--policy policy.toml] [--list]. A machine is whatever answers at
DIRECTORY/*.sock, this server or QEMU from 7.1 on with a dirty ring; they may come and go.
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
GONE = (QMPError, EOFError, OSError)  # how a server's going shows, depending on the moment


@dataclass(frozen=True)
class Policy:
    """The limit of each vCPU of the machines with such a name, and when it applies; MB/s."""

    name: str
    high: int
    limit: int
    low: int

    def __post_init__(self) -> None:
        if not 0 < self.low < self.limit <= self.high:
            raise ValueError(f"policy {self.name!r}: 0 < low < limit <= high is needed")

    def limits(self, rate: int, limited: bool) -> bool:
        """Whether a vCPU is to be limited: between low and high it stays as it is, so none flaps.

        The limit lies above low: a limited vCPU's rate falls below low only by its own doing.
        """
        return rate >= self.low if limited else rate > self.high


class Machine:
    """A machine that answers at `path`; its name is its own, or the socket's."""

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
        """Print a line about it."""
        print(f"{self.name}: {text}", flush=True)

    async def ask(self, command: str, **arguments: object) -> Any:
        """Execute a command; `_` in the arguments' names stands for `-`."""
        return await self.client.execute(
            command, {k.replace("_", "-"): arguments[k] for k in arguments}
        )

    async def rates(self) -> list[int] | None:
        """Measure the MB/s that each vCPU dirties, for a second; None where that can't be."""
        with suppress(ExecuteError, TimeoutError):  # no dirty ring, or somebody else is measuring
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
        """Return it as a line of the table."""
        status, vcpus = await self.ask("query-status"), await self.ask("query-cpus-fast")
        limits = {v["cpu-index"]: v["limit-rate"] for v in await self.ask("query-vcpu-dirty-limit")}
        rates = " ".join(map(str, await self.rates() or "-"))
        set_to = " ".join(f"{cpu}:{limits[cpu]}" for cpu in sorted(limits)) or "-"
        return f"{self.name:<16} {status['status']:<12} {len(vcpus):>5}  {rates:<16} {set_to}"

    async def obey(self, policy: Policy) -> None:
        """Keep its vCPUs to a policy; whatever ends this, the limits set here end too."""
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
            self.say(f"the policy ends: {error}")
        finally:
            for cpu in ours:
                with suppress(*GONE):
                    await self.ask("cancel-vcpu-dirty-limit", cpu_index=cpu)

    async def manage(self, policies: list[Policy]) -> None:
        """Print its events, and keep it to the first policy that matches, until it goes."""
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
                await asyncio.gather(*tasks, return_exceptions=True)  # they fail as it goes
        self.say("gone")

    async def follow(self, events: EventListener) -> None:
        """Print its events."""
        async for event in events:
            self.say(f"{event['event']} {event.get('data', '')}".rstrip())


async def watch(directory: Path, policies: list[Policy]) -> None:
    """Manage the machines of a directory as they come and go."""
    tasks: dict[Path, asyncio.Task[None]] = {}
    said: dict[Path, str] = {}  # why a path is no machine, to say it once

    async def manage(path: Path) -> None:
        try:
            async with Machine(path) as machine:
                said.pop(path, None)
                await machine.manage(policies)
        except GONE as error:
            if said.get(path) != str(error):
                said[path] = str(error)
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
    """Return what may be machines."""
    return sorted(path for path in directory.glob("*.sock") if path.is_socket())


def main() -> None:
    """Read the command line and the policies, and run."""
    parser = argparse.ArgumentParser(description="Manage the machines of a directory of sockets.")
    parser.add_argument("directory", type=Path, help="where their QMP sockets are: *.sock")
    parser.add_argument("--policy", type=Path, help="a TOML file, see policy.toml")
    parser.add_argument("--list", action="store_true", help="print a table and end")
    args = parser.parse_args()
    try:
        next(args.directory.iterdir(), None)  # is it there, and may we?
        told = tomllib.loads(args.policy.read_text()) if args.policy else {}
        policies = [Policy(**each) for each in told.get("policy", [])]
    except (OSError, ValueError, TypeError) as error:
        parser.error(str(error))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        asyncio.run(table(args.directory) if args.list else watch(args.directory, policies))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
