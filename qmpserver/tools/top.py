"""The live view of `qmpctl top`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.css.query import NoMatches
from textual.widgets import DataTable, Footer, Input, Static

from qmpserver.tools.errors import RefusedError, ServerError
from qmpserver.tools.fitting import columns_for, cut_left, lines_for
from qmpserver.tools.watching import COLUMNS, SORTS, cells, chosen, sparkline, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from textual.binding import BindingType

    from qmpserver.tools.watching import View, Watcher


class Top(App[str]):
    """A row for each vCPU of some servers; returns an error, or None when the user quits."""

    CSS = """
    #servers { height: auto; padding: 0 1; }
    DataTable { height: 1fr; }
    #prompt { dock: bottom; display: none; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "limit('one')", "limit"),
        Binding("L", "limit('all')", "limit all"),
        Binding("c", "cancel('one')", "cancel"),
        Binding("C", "cancel('all')", "cancel all"),
        Binding("m", "measure", "measure 1 s"),
        Binding("s", "sort", "sort"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("escape", "leave", "back", show=False),
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "quit", "quit", show=False, priority=True),
    ]

    def __init__(
        self, watchers: Sequence[Watcher], interval: float, sort: str = "server", only: str = ""
    ) -> None:
        super().__init__()
        self._watchers = list(watchers)
        self._interval = interval
        self._sort = sort
        self._only = only
        self._views: dict[Watcher, View] = {}
        self._gone: dict[Watcher, str] = {}
        self._rows: list[tuple[Watcher, int]] = []
        self._columns: Sequence[int] = ()  # those of `COLUMNS` that are shown
        self._on_answer: Callable[[str], Coroutine[Any, Any, None]] | None = None
        self.looks = 0

    def compose(self) -> ComposeResult:
        """Lay out servers above, vCPUs below."""
        yield _View(Static(id="servers", markup=False), DataTable(cursor_type="row"))
        yield Input(id="prompt")
        yield Footer()

    async def on_mount(self) -> None:
        """Start looking."""
        with contextlib.suppress(RuntimeError, ValueError):  # not the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self.query_one(DataTable).focus()
        self.run_worker(self._look_on(), exclusive=True)

    def on_unmount(self) -> None:
        """End the looks that wait for a server in a thread."""
        for watcher in self._watchers:
            watcher.interrupt()

    async def _look_on(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """Look at each server; end when all have gone."""
        await asyncio.gather(*map(self._look_at, self._watchers))
        self.looks += 1
        if len(self._gone) == len(self._watchers):
            self.exit("; ".join(self._gone.values()))
        else:
            self.show()

    async def _look_at(self, watcher: Watcher) -> None:
        if watcher in self._gone:
            return
        try:
            self._views[watcher] = await asyncio.to_thread(watcher.look)
        except ServerError as error:
            self._gone[watcher] = str(error)
            self._views.pop(watcher, None)

    def show(self) -> None:
        """Show the last state of each server."""
        try:
            servers = self.query_one("#servers", Static)
            table: DataTable[str] = self.query_one(DataTable)
        except NoMatches:
            return  # a last look ended while the view was being closed
        lines = [self._gone.get(w) or summary(w.name, self._views[w]) for w in self._watchers]
        order = f"sorted by {self._sort}" + (f", only {self._only!r}" if self._only else "")
        width, height = self.size
        servers.update("\n".join(lines_for(max(width - 2, 1), height, lines, order)))
        owners = {id(vcpu): watcher for watcher, view in self._views.items() for vcpu in view.vcpus}
        vcpus = [vcpu for view in self._views.values() for vcpu in view.vcpus]
        at = self._selected()
        columns, room = columns_for(width, max((len(vcpu.server) for vcpu in vcpus), default=0))
        if columns != self._columns:
            table.clear(columns=True)
            table.add_columns(*(COLUMNS[index] for index in columns))
            self._columns = columns
        else:
            table.clear()
        self._rows = []
        for vcpu in chosen(vcpus, self._sort, self._only):
            self._rows.append((owners[id(vcpu)], vcpu.index))
            server, *others = *cells(vcpu), sparkline(vcpu.history)
            row = [cut_left(server, room), *others]
            table.add_row(*(row[index] for index in columns))
        if at in self._rows:
            table.move_cursor(row=self._rows.index(at), animate=False)

    def _selected(self) -> tuple[Watcher, int] | None:
        row = self.query_one(DataTable).cursor_row
        return self._rows[row] if 0 <= row < len(self._rows) else None

    async def _tell(
        self, watcher: Watcher, command: str, arguments: dict[str, object] | None = None
    ) -> None:
        try:
            await asyncio.to_thread(watcher.execute, command, arguments)
        except RefusedError as error:
            self.notify(str(error), severity="error", markup=False)
        except ServerError as error:
            self._gone[watcher] = str(error)
            self._views.pop(watcher, None)

    # -- keys

    async def action_cancel(self, which: str) -> None:
        """Cancel the selected vCPU's limit, or all of its server."""
        if at := self._selected():
            arguments: dict[str, object] = {"cpu-index": at[1]} if which == "one" else {}
            await self._tell(at[0], "cancel-vcpu-dirty-limit", arguments)

    async def action_measure(self) -> None:
        """Have the selected vCPU's server measure all of its vCPUs for a second."""
        if at := self._selected():
            arguments: dict[str, object] = {"calc-time": 1, "mode": "dirty-ring"}
            await self._tell(at[0], "calc-dirty-rate", arguments)

    def action_limit(self, which: str) -> None:
        """Ask the user for a limit of the selected vCPU, or of all of its server."""
        at = self._selected()
        if at is None:
            return
        watcher, index = at

        async def answer(text: str) -> None:
            if not text.isdecimal():
                self.notify(f"'{text}' must be a number of MB/s", severity="error", markup=False)
                return
            arguments: dict[str, object] = {"dirty-rate": int(text)}
            if which == "one":
                arguments["cpu-index"] = index
            await self._tell(watcher, "set-vcpu-dirty-limit", arguments)

        which_vcpus = f"vCPU {index}" if which == "one" else "all vCPUs"
        self._prompt(f"limit for {which_vcpus} of {watcher.name}, in MB/s", "", answer)

    def action_filter(self) -> None:
        """Ask the user which text rows must contain."""

        async def answer(text: str) -> None:
            self._only = text
            self.show()

        self._prompt("only rows with this in the server's name, or vcpu N", self._only, answer)

    def action_sort(self) -> None:
        """Sort by the next column."""
        names = list(SORTS)
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self.show()

    def action_leave(self) -> None:
        """Close the prompt."""
        prompt = self.query_one("#prompt", Input)
        prompt.display = False
        self.query_one(DataTable).focus()

    def _prompt(
        self, what: str, value: str, answer: Callable[[str], Coroutine[Any, Any, None]]
    ) -> None:
        prompt = self.query_one("#prompt", Input)
        prompt.placeholder = what
        prompt.value = value
        prompt.display = True
        self._on_answer = answer
        prompt.focus()

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """Use the answer to the prompt."""
        self.action_leave()
        if self._on_answer:
            await self._on_answer(event.value.strip())


class _View(Vertical):
    """Servers above, vCPUs below."""

    def on_resize(self) -> None:
        """Show as much as the new size has room for."""
        if isinstance(self.app, Top) and self.app.looks:
            self.app.show()
