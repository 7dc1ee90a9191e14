"""The program ``qmpctl``: measurements from the command line."""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import TYPE_CHECKING

from qmpserver.tools import bench
from qmpserver.tools.vm import VmError, has_qemu

if TYPE_CHECKING:
    from collections.abc import Sequence

EVENT, POLL = "event-driven reaper", "polling reaper"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of text, the first of them the heading, as a Markdown table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def cancel_table(samples: Sequence[tuple[str, bench.CancelSamples]]) -> str:
    """What follows a cancel, in ms: median, 99th percentile, maximum."""
    rows = [["ms from cancel's request (median / p99 / max)", *(name for name, _ in samples)]]
    for name, key in (
        ("to the ack", "ack"),
        ("to the reaper's wake", "wake"),
        ("to the reaper's wake, by strace", "traced"),
        ("to the throttled vCPU running again", "resume"),
    ):
        if not any(getattr(sample, key) for _, sample in samples):
            continue
        row = [name]
        for _, sample in samples:
            values = getattr(sample, key)
            row.append(" / ".join(f"{v:.3f}" for v in bench.summary(values)) if values else "-")
        rows.append(row)
    return table(rows)


def _accel(args: argparse.Namespace, reaper: str) -> str:
    return f"{args.accel},dirty-ring-size={args.ring},reaper={reaper}"


def _say(cycle: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{cycle}/{of} ", end="" if cycle < of else "\r", file=sys.stderr, flush=True)


def _cancel(args: argparse.Namespace) -> None:
    names = [EVENT] if args.event_only else [EVENT, POLL]
    accels = [_accel(args, "event"), _accel(args, "poll")][: len(names)]
    qemu = f"kvm,dirty-ring-size={args.ring}" if args.qemu else None
    samples = bench.cancel(
        accels,
        args.cycles,
        busy=args.busy,
        strace=args.strace,
        qemu=qemu,
        progress=lambda cycle: _say(cycle, args.cycles),
    )
    if args.qemu:
        names.append("QEMU")
    print(cancel_table(list(zip(names, samples, strict=True))))
    if args.busy:
        ping = bench.summary(bench.eventfd_ping_under_load(accels[0], args.cycles))
        text = " / ".join(f"{value:.3f}" for value in ping)
        print(f"\nbare eventfd ping under the same load, in ms: {text}")
        wake = bench.summary(samples[0].wake)
        ratios = " / ".join(f"{a / b:.2f}" for a, b in zip(wake, ping, strict=True))
        print(f"the event-driven reaper's wake as a ratio to it: {ratios}")


def _limit(args: argparse.Namespace) -> None:
    rates = bench.limit(_accel(args, "event"), args.limit, args.vcpus, args.seconds)
    rows = [["vCPU", "limit", "MB/s from the third second on", "error"]]
    for index, rate in enumerate(rates):
        error = f"{(rate / args.limit - 1) * 100:+.2f} %"
        rows.append([str(index), str(args.limit), f"{rate:.2f}", error])
    print(table(rows))


def _guest(args: argparse.Namespace) -> None:
    if not has_qemu():
        raise VmError("qemu-system-x86_64 is not installed, there is nothing to compare with")
    ours, qemu = bench.tracked_speed(f"kvm,dirty-ring-size={args.ring}", args.windows)
    ratios = [a / b for a, b in zip(ours, qemu, strict=True)]
    rows = [["tracked, unlimited guest, MB/s", "qmpserver", "QEMU", "ratio"]]
    for name, of in (("median", statistics.median), ("least", min), ("most", max)):
        rows.append([name, f"{of(ours):.0f}", f"{of(qemu):.0f}", f"{of(ratios):.3f}"])
    print(table(rows))


def main() -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(prog="qmpctl", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    benches = actions.add_parser("bench", help="measure").add_subparsers(
        required=True, metavar="WHAT"
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--accel", choices=("kvm", "soft"), default="kvm")
    common.add_argument("--ring", type=int, default=4096, help="ring size (%(default)s)")

    cancel = benches.add_parser("cancel", parents=[common], help="what follows a cancel")
    cancel.add_argument("--cycles", type=int, default=200)
    cancel.add_argument("--busy", action="store_true", help="with two vCPUs at full speed")
    cancel.add_argument("--strace", action="store_true", help="see the reaper wake from outside")
    cancel.add_argument("--event-only", action="store_true", help="without the polling reaper")
    cancel.add_argument("--qemu", action="store_true", help="and QEMU beside")
    cancel.set_defaults(run=_cancel)

    limit = benches.add_parser("limit", parents=[common], help="how well a limit holds")
    limit.add_argument("--limit", type=int, default=100, help="MB/s (%(default)s)")
    limit.add_argument("--vcpus", type=int, default=2)
    limit.add_argument("--seconds", type=float, default=5.0)
    limit.set_defaults(run=_limit)

    guest = benches.add_parser(
        "guest", parents=[common], help="a tracked guest's speed, and QEMU's"
    )
    guest.add_argument("--windows", type=int, default=20)
    guest.set_defaults(run=_guest)

    args = parser.parse_args()
    try:
        args.run(args)
    except VmError as error:
        print(f"qmpctl: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
