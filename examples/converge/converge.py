"""Rehearse a migration: measure dirty rates, limit vCPUs until it would converge, release them.

converge.py run SOCKET      rehearse on a live machine, this server or QEMU 7.1 or later, with
                            rounds as long as copying at the given bandwidth would take
converge.py record SOCKET   record the dirty rates of an unlimited guest each 100 ms, as JSON
converge.py compare TRACE   replay that trace without a remedy, with auto-converge, with a dirty
                            limit, and with a growing downtime (see model.py)
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model import AutoConverge, DirtyLimit, DowntimeRamp, Outcome, Remedy, Trace, level, migrate
from qemu.qmp import QMPClient, QMPError

CONNECT_S, INTERVAL_S, MB = 5.0, 0.1, 1 << 20


class Machine:
    """A connection to a live machine; leaving the context cancels the limits that it set."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.client = QMPClient("converge")
        self.limited = False

    async def __aenter__(self) -> "Machine":
        try:
            async with asyncio.timeout(CONNECT_S):
                await self.client.connect(self.socket)
        except TimeoutError:
            raise OSError("no QMP greeting: it may be serving another client") from None
        return self

    async def __aexit__(self, *_exc: object) -> None:
        try:
            if self.limited:
                await self.client.execute("cancel-vcpu-dirty-limit")
        finally:
            await self.client.disconnect()

    async def ram(self) -> float:
        """Return the size of the machine's RAM in MB."""
        summary: Any = await self.client.execute("query-memory-size-summary")
        return float(summary["base-memory"] / MB)

    async def limit(self, mb: int) -> None:
        """Limit each vCPU to `mb` MB/s."""
        self.limited = True
        await self.client.execute("set-vcpu-dirty-limit", {"dirty-rate": mb})

    async def measure(self, **calc_time: object) -> list[float]:
        """Measure the dirty rate of each vCPU, in MB/s, over the given time."""
        arguments = {name.replace("_", "-"): value for name, value in calc_time.items()}
        await self.client.execute("calc-dirty-rate", {"mode": "dirty-ring", **arguments})
        while True:
            await asyncio.sleep(INTERVAL_S / 4)
            result: Any = await self.client.execute("query-dirty-rate")
            if result["status"] == "measured":
                return [vcpu["dirty-rate"] for vcpu in result["vcpu-dirty-rate"]]

    async def rates(self) -> list[float]:
        """Return the dirty rate of each vCPU, in MB/s: of the last second, if vCPUs are limited."""
        if not self.limited:
            return await self.measure(calc_time=1)
        await asyncio.sleep(INTERVAL_S)
        limits: Any = await self.client.execute("query-vcpu-dirty-limit")
        return [vcpu["current-rate"] for vcpu in limits]


async def rehearse(
    machine: Machine, free: Sequence[float], bandwidth: float, remedy: DirtyLimit
) -> Outcome:
    """Run a migration's rounds in real time; only the copying is simulated."""
    ram = await machine.ram()
    outcome, remaining, start = Outcome(), ram, time.monotonic()
    if remedy.limit is not None:
        await machine.limit(remedy.limit)
        await asyncio.sleep(1)  # the server reports the rates of the last second
        start += 1
    while True:
        begun = now = time.monotonic()
        outcome.remaining.append((now - start, remaining))
        seconds = remaining / bandwidth
        print(f"{now - start:6.1f} s  {remaining:7.1f} MB left, limit {remedy.limit}", flush=True)
        if remaining <= bandwidth * remedy.downtime:
            outcome.converged, outcome.downtime = True, seconds
            outcome.seconds = now - start + seconds
            outcome.lost += seconds
            return outcome
        dirtied = 0.0
        while now < begun + seconds:
            rates = await machine.rates()
            before, now = now, time.monotonic()
            counted = min(now, begun + seconds) - before
            dirtied += sum(rates) * counted
            shares = [min(1.0, rate / most) for rate, most in zip(rates, free, strict=True) if most]
            outcome.lost += counted * (1 - sum(shares) / len(shares)) if shares else 0.0
        limit = remedy.limit
        remedy.step(remaining, dirtied, seconds)
        if remedy.limit is not None and remedy.limit != limit:
            await machine.limit(remedy.limit)
        remaining = min(ram, dirtied)


async def run(args: argparse.Namespace) -> None:
    """Limit the vCPUs, rehearse, cancel the limits, and compare with the model."""
    async with Machine(args.subject) as machine:
        free = await machine.rates()
        limit = level(free, args.ratio * args.bandwidth)
        print(f"free: {' + '.join(f'{rate:g}' for rate in free)} MB/s; limit of each: {limit}")
        predicted = migrate(
            Trace(1.0, await machine.ram(), [free]),
            args.bandwidth,
            DirtyLimit(args.downtime / 1000, limit),
        )
        remedy = DirtyLimit(args.downtime / 1000, limit)
        async with asyncio.timeout(args.patience):
            measured = await rehearse(machine, free, args.bandwidth, remedy)
    table({"model": predicted, "measured": measured})


async def record(args: argparse.Namespace) -> None:
    """Record a trace of dirty rates."""
    async with Machine(args.subject) as machine:
        rates = []
        for _ in range(round(args.seconds / INTERVAL_S)):
            rates.append(await machine.measure(calc_time=100, calc_time_unit="millisecond"))
        trace = {"interval": INTERVAL_S, "ram": await machine.ram(), "rates": rates}
    args.output.write_text(json.dumps(trace).replace("], [", "],\n[") + "\n")


async def compare(args: argparse.Namespace) -> None:
    """Replay a trace with each remedy."""
    try:
        trace = Trace(**json.loads(await asyncio.to_thread(Path(args.subject).read_text)))
    except (ValueError, TypeError) as error:
        raise OSError(f"not a trace: {error}") from None
    mean = [sum(vcpu) / len(trace.rates) for vcpu in zip(*trace.rates, strict=True)]
    goal = args.downtime / 1000
    remedies: dict[str, Remedy] = {
        "no remedy": Remedy(goal),
        "auto-converge": AutoConverge(goal),
        "dirty limit": DirtyLimit(goal, level(mean, args.ratio * args.bandwidth)),
        "downtime ramp": DowntimeRamp(goal),
    }
    outcomes = {name: migrate(trace, args.bandwidth, each) for name, each in remedies.items()}
    table(outcomes)
    if args.plot:
        plot(outcomes, args.plot)


def table(outcomes: dict[str, Outcome]) -> None:
    """Print a table of outcomes."""
    print(f"{'':14} {'rounds':>6} {'total s':>8} {'downtime ms':>12} {'guest time lost s':>18}")
    for name, each in outcomes.items():
        downtime = f"{each.downtime * 1000:.0f}" if each.converged else "never"
        numbers = f"{len(each.remaining):>6} {each.seconds:8.1f} {downtime:>12} {each.lost:18.1f}"
        print(f"{name:14} {numbers}")


def plot(outcomes: dict[str, Outcome], path: Path) -> None:
    """Draw the MB left to copy over time."""
    from matplotlib.figure import Figure  # pip install 'qmpserver[plot]'

    axes = (figure := Figure()).subplots()
    for name, each in outcomes.items():
        axes.step(*zip(*each.remaining, strict=True), where="post", label=name)
    ends = [each.seconds for each in outcomes.values() if each.converged]
    axes.set(xlabel="s", ylabel="MB left", yscale="log", xlim=(0, max(ends, default=60) * 1.1))
    axes.legend()
    figure.savefig(path)


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    if not 0 < (number := float(text)) < float("inf"):
        raise ValueError
    return number


def main() -> None:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(description="Rehearse a migration under a dirty limit.")
    commands = parser.add_subparsers(required=True)
    for function, subject in ((run, "SOCKET"), (record, "SOCKET"), (compare, "TRACE")):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.add_argument("subject", metavar=subject)
        command.set_defaults(function=function)
        if function is record:
            command.add_argument("--seconds", type=positive, default=20)
            command.add_argument("--output", type=Path, default=Path("trace.json"))
            continue
        command.add_argument("--bandwidth", type=positive, default=400, help="MB/s (%(default)s)")
        command.add_argument("--downtime", type=positive, default=300, help="ms (%(default)s)")
        command.add_argument(
            "--ratio", type=positive, default=0.5, help="MB dirtied per MB copied (%(default)s)"
        )
        if function is compare:
            command.add_argument("--plot", type=Path, help="draw the outcomes, as PNG or SVG")
        else:
            command.add_argument("--patience", type=positive, default=60, help="s (%(default)s)")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for `&`
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        asyncio.run(args.function(args))
    except KeyboardInterrupt:
        sys.exit(130)
    except TimeoutError:
        sys.exit(f"not converged within {args.patience:g} s; the limit is cancelled")
    except ImportError as error:
        sys.exit(f"{error}: pip install 'qmpserver[plot]'")
    except (OSError, QMPError, EOFError) as error:
        sys.exit(f"{args.subject}: {str(error) or 'the server closed the connection'}")


if __name__ == "__main__":
    main()
