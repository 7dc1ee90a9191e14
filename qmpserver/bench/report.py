"""Results of measurements: shown as a table, stored as raw samples, plotted."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpserver.tools.errors import QmpctlError, needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


FONT = ["DejaVu Sans"]
COLORS = 10  # of matplotlib; further servers are drawn in the same ones, dashed
POINTS = 200  # of a curve; more are invisible


@dataclass(slots=True)
class Series:
    """One quantity of one server, in samples in the order in which they were taken."""

    server: str
    what: str
    samples: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each sample, for a course over time


@dataclass(slots=True)
class Result:
    """The result of one measurement.

    `paired` says that servers were measured in turn, so that their samples are pairs; the table
    then has the ratios of later servers to the first.
    """

    bench: str
    title: str
    unit: str
    series: list[Series]
    show: tuple[str, ...] = ("median", "p99", "max")  # of `STATISTICS`
    digits: int = 3
    paired: bool = False
    log: tuple[str, ...] = ()  # quantities whose course is drawn on a logarithmic scale
    notes: list[str] = field(default_factory=list)


def percentile(samples: Sequence[float], per_cent: float) -> float:
    """Return the sample that `per_cent` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * per_cent / 100))]


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
    "p1": lambda samples: percentile(samples, 1),
    "p90": lambda samples: percentile(samples, 90),
    "p99": lambda samples: percentile(samples, 99),
    "min": min,
    "max": max,
}


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of text, the first of them the heading, as a Markdown table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def table(result: Result) -> str:
    """Return the result as a Markdown table: a row a quantity, a column a server."""
    servers = list(dict.fromkeys(series.server for series in result.series))
    cells = {(series.what, series.server): series.samples for series in result.series}
    counts = sorted({len(series.samples) for series in result.series if series.samples})
    of = f" of {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") if counts else ""
    heads = [f"{result.title} ({' / '.join(result.show)}{of})", *servers]
    if result.paired:
        heads += [f"{server} : {servers[0]}" for server in servers[1:]]
    rows = [heads]
    for what in dict.fromkeys(series.what for series in result.series if series.samples):
        row = [what]
        for server in servers:
            samples = cells.get((what, server))
            values = (STATISTICS[name](samples) for name in result.show) if samples else ()
            row.append(" / ".join(f"{value:.{result.digits}f}" for value in values) or "-")
        if result.paired:
            row += [_ratio(cells, what, servers[0], server) for server in servers[1:]]
        rows.append(row)
    return markdown(rows)


def _ratio(cells: dict[tuple[str, str], list[float]], what: str, first: str, later: str) -> str:
    pairs = zip(cells.get((what, later), ()), cells.get((what, first), ()), strict=False)
    ratios = [a / b for a, b in pairs if b]
    return f"{statistics.median(ratios):.3f}" if ratios else "-"


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options for files that the result is written to."""
    parser.add_argument("--json", type=_file, metavar="FILE", help="store the raw samples")
    parser.add_argument("--plot", type=_picture, metavar="FILE", help="draw them: .png or .svg")


def _file(text: str) -> Path:
    """Return the path; refuse one that cannot be written before anything is measured."""
    if not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}': the directory does not exist")
    return Path(text)


def _picture(text: str) -> Path:
    if not text.endswith((".png", ".svg")):
        raise argparse.ArgumentTypeError(f"'{text}' ends in neither .png nor .svg")
    with needs("--plot", "matplotlib", "plot"):
        if find_spec("matplotlib") is None:
            raise ModuleNotFoundError(name="matplotlib")
    return _file(text)


def give(
    args: argparse.Namespace, result: Result, shown: str = "", picture: Result | None = None
) -> int:
    """Print a result, and write the files that the options of `add_output` name.

    Args:
        args: The options.
        result: The result.
        shown: The text to print instead of the result's table.
        picture: The part to draw, if not all of the result.

    Returns:
        The exit status.

    Raises:
        QmpctlError: A file cannot be written.
    """
    print(shown or table(result))
    for note in result.notes:
        print(f"\n{note}")
    try:
        if args.json:
            args.json.write_text(json.dumps(asdict(result), indent=1) + "\n")
        if args.plot:
            plot(picture or result, args.plot)
    except OSError as error:
        raise QmpctlError(f"{error.filename}: {error.strerror}") from None
    return 0


def plot(result: Result, path: Path) -> None:
    """Draw a panel for each quantity: its course over time, or the distribution of its samples.

    A server has one color in all panels.

    Raises:
        OSError: The file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    whats = list(dict.fromkeys(series.what for series in result.series if series.samples))
    servers = list(dict.fromkeys(series.server for series in result.series))
    figure = Figure(figsize=(8, 0.8 + 2.8 * len(whats)), layout="constrained")
    figure.suptitle(f"qmpctl bench {result.bench}: {result.title}")
    for index, what in enumerate(whats):
        axes = figure.add_subplot(len(whats), 1, index + 1)
        axes.set_title(what, fontsize="medium")
        for series in result.series:
            if series.what != what or not series.samples:
                continue
            step = -(-len(series.samples) // POINTS)
            number = servers.index(series.server)
            style: Any = {"color": f"C{number}", "linestyle": "-" if number < COLORS else "--"}
            if series.seconds:
                seconds, samples = series.seconds[::step], series.samples[::step]
                axes.plot(seconds, samples, label=series.server, linewidth=1, **style)
                axes.set_xlabel("s")
                axes.set_ylabel(result.unit)
                axes.set_yscale("log" if what in result.log else "linear")
            else:
                ordered = sorted(series.samples)
                axes.ecdf(ordered[step - 1 :: step], label=series.server, **style)
                axes.set_xlabel(result.unit)
                axes.set_ylabel("part of the samples")
        if any(series.seconds for series in result.series if series.what == what):
            axes.set_ylim(bottom=1 if what in result.log else 0)  # now that all curves are there
        values = [v for s in result.series if s.what == what and not s.seconds for v in s.samples]
        if values and min(values) > 0 and max(values) > 50 * min(values):
            axes.set_xscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    # Letters as text, and no date: the picture is small, and the same for the same samples.
    letters: Any = {"svg.fonttype": "none", "svg.hashsalt": result.bench, "font.sans-serif": FONT}
    with mpl.rc_context(letters):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar if stderr is a terminal; yield a function that takes the number done."""
    with contextlib.suppress(ImportError):  # rich is optional
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        if console.is_terminal:
            with Progress(console=console, transient=True) as bars:
                bar = bars.add_task(what, total=total)
                yield lambda done: bars.update(bar, completed=done)
            return
    yield lambda _done: None
