"""Measure how fast commands are answered: one at a time, and pipelined by one client and by many.

By default this measures QEMU and this server, in turn. A server that is already running has one
client. QEMU serves one client on each monitor, so it gets as many monitors as there are clients;
this server gets one monitor with 'max-clients'. One thread generates the load: it sends prepared
bytes and counts the ends of lines.

A round trip is measured with client and server on one processor, and with each on its own; most of
the latter is the scheduler's time, which wakes the other process twice. Beside the servers an echo
is measured, a process that answers each line with the same bytes: no server can be faster.

With `--large`, round trips are measured while another client sends one large message.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from qmpserver.bench.launch import launch
from qmpserver.bench.report import Result, Series, add_output, give, progress
from qmpserver.bench.servers import Candidate, add_servers, launched, ours, qemu
from qmpserver.bench.vm import peer
from qmpserver.qmp.client import HUNG_UP, encode
from qmpserver.tools.address import ServerAddress, servers
from qmpserver.tools.client import REPLY_S, Client
from qmpserver.tools.errors import ServerError, sensible
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

REQUEST = encode("query-status") + b"\n"
ANSWER = b'{"return": {"status": "prelaunch", "running": false}}\r\n'
DEPTH = 200  # commands of a client that are not answered yet
ROUND_TRIPS = 100  # a window

ESCAPE = b"\\u1234"
PAUSE_S = 0.001  # between round trips beside a large message

NO_MORE = "the server has stopped answering"
ECHO = "an echo"
BESIDE = "round trip beside a large message, ms"
ROUND_TRIPS_ON = {1: "round trip, on one processor, us", 2: "round trip, on two, us"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--windows", type=at_least(1), default=10, help="of each (%(default)s)")
    parser.add_argument(
        "--seconds",
        type=at_least(0.01, float),
        default=0.3,
        help="of a window (%(default)s)",
    )
    parser.add_argument(
        "--clients",
        type=at_least(1),
        nargs="+",
        default=[1, 10, 100],
        help="numbers of clients (1 10 100)",
    )
    parser.add_argument(
        "--large",
        type=at_least(1),
        metavar="MIB",
        help="send a message of this size from another client (none)",
    )
    add_servers(parser)
    parser.add_argument("--no-qemu", action="store_true", help="measure this server alone")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    candidates = launched(args, [ours(args)] if args.no_qemu else [qemu(args), ours(args)])
    with ExitStack() as stack:
        loads = [stack.enter_context(_load(one, max(2, *args.clients))) for one in candidates]
        loads += [stack.enter_context(_running(address)) for address in servers(args)]
        echo = stack.enter_context(_echo())
        processors = sorted(os.sched_getaffinity(0))
        trips = {n: what for n, what in ROUND_TRIPS_ON.items() if n <= len(processors)}
        rows = [*trips.values(), *(_row(clients) for clients in args.clients)]
        rows += [BESIDE] if args.large else []
        everyone = [*loads, echo]
        series = {(load.name, what): Series(load.name, what) for what in rows for load in everyone}
        done = stack.enter_context(progress("qmp", args.windows))
        for window in range(args.windows):
            for load in everyone if window % 2 else everyone[::-1]:
                for number, what in trips.items():
                    with load.placed(processors[:number]):
                        series[load.name, what].samples += load.round_trips(ROUND_TRIPS)
                for clients in args.clients if load is not echo else ():
                    if clients > len(load.sockets):
                        continue
                    rate = flood(load.sockets[:clients], args.seconds) / 1e3
                    series[load.name, _row(clients)].samples.append(rate)
                if args.large and len(load.sockets) > 1:
                    series[load.name, BESIDE].samples += load.beside(args.large << 20)
            done(window + 1)
        notes = [f"{one.name}: {_idle(one.idle_kib)}" for one in loads[: len(candidates)]]
        rate = flood(echo.sockets, args.seconds) / 1e3
    notes.append(f"the load by itself: {rate:.0f} thousand commands/s")
    result = Result(
        "qmp",
        "query-status",
        "",
        list(series.values()),
        show=("median", "min", "max"),
        digits=1,
        paired=True,
        notes=["\n".join(notes)],
    )
    return give(args, result)


def _idle(kib: float) -> str:
    if kib < 1:  # memory that its start needed may be released while clients connect
        return "no measurable growth for idle clients"
    return f"{kib:.0f} KiB for each idle client"


def _row(clients: int) -> str:
    return f"pipelined, {clients} client{'s' * (clients > 1)}, thousand/s"


class Load:
    """A server with its clients, whose sockets are past the negotiation."""

    def __init__(
        self, name: str, pid: int, sockets: Sequence[socket.socket], idle_kib: float
    ) -> None:
        self.name = name
        self.pid = pid
        self.sockets = sockets
        self.idle_kib = idle_kib

    @contextmanager
    def placed(self, processors: Sequence[int]) -> Iterator[None]:
        """Run this thread on the first of some processors, and the server on the last."""
        threads = [int(name) for name in os.listdir(f"/proc/{self.pid}/task")]
        before = {thread: os.sched_getaffinity(thread) for thread in (0, *threads)}
        try:
            for thread in threads:
                os.sched_setaffinity(thread, processors[-1:])
            os.sched_setaffinity(0, processors[:1])
            yield
        finally:
            for thread, allowed in before.items():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(thread, allowed)

    def round_trips(self, count: int) -> list[float]:
        """Return the microseconds that each of `count` commands took, one after the other.

        Raises:
            ServerError: The server hangs up, or stops answering.
        """
        client = self.sockets[0]
        client.settimeout(REPLY_S)
        took = []
        for _ in range(count):
            start = time.monotonic_ns()
            _send(client, REQUEST)
            while not _received(client, 4096).endswith(b"\n"):
                pass
            took.append((time.monotonic_ns() - start) / 1e3)
        return took

    def beside(self, size: int) -> list[float]:
        """Return the milliseconds of round trips while another client sends one large message.

        Raises:
            ServerError: The server hangs up, or stops answering.
        """
        child = os.fork()
        if not child:
            with suppress(BaseException):
                _send_large(self.sockets[1], size)
            os._exit(0)
        took = []
        try:
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                took += [us / 1e3 for us in self.round_trips(1)]
                time.sleep(PAUSE_S)
        except ServerError:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        return took


def _send_large(client: socket.socket, size: int) -> None:
    """Send a message with a large `id`, and read its reply."""
    client.settimeout(None)
    text = ESCAPE * (size // len(ESCAPE))
    message = b'{"execute": "query-status", "id": "%b"}\n' % text
    sender = threading.Thread(target=client.sendall, args=(message,))
    sender.start()
    while not client.recv(1 << 20).endswith(b"\n"):
        pass
    sender.join()


def _send(client: socket.socket, data: bytes | memoryview) -> None:
    """Send all of `data`; raise ServerError."""
    try:
        client.sendall(data)
    except OSError:
        raise ServerError(HUNG_UP) from None


def _received(client: socket.socket, size: int) -> bytes:
    """Return some bytes; raise ServerError if the server hangs up or stops answering."""
    try:
        data = client.recv(size)
    except TimeoutError:
        raise ServerError(NO_MORE) from None
    except OSError:
        data = b""
    if not data:
        raise ServerError(HUNG_UP)
    return data


def flood(sockets: Sequence[socket.socket], seconds: float) -> float:
    """Keep `DEPTH` commands of each client under way; return the answers a second of all together.

    Raises:
        ServerError: The server hangs up, or stops answering.
    """
    requests = memoryview(REQUEST * DEPTH)
    size = len(REQUEST)
    epoll = select.epoll(len(sockets))
    clients = {client.fileno(): client for client in sockets}
    for number, client in clients.items():
        client.settimeout(REPLY_S)
        epoll.register(number, select.EPOLLIN)
        _send(client, requests)
    open_commands = DEPTH * len(clients)
    answered = 0
    start = time.monotonic()
    end = start + seconds
    stopped = start
    while open_commands:
        ready = epoll.poll(REPLY_S)
        if not ready:
            raise ServerError(NO_MORE)
        going_on = time.monotonic() < end or not answered  # however busy the machine is
        for number, _ in ready:
            lines = _received(clients[number], 1 << 16).count(b"\n")
            if going_on:
                answered += lines
                _send(clients[number], requests[: lines * size])
            else:
                open_commands -= lines
        if going_on:
            stopped = time.monotonic()
    epoll.close()
    return answered / (stopped - start)


@contextmanager
def _load(server: Candidate, count: int) -> Iterator[Load]:
    """Run a server with `count` clients; its vCPU is stopped."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="qmpctl-"))
        if "qemu-system" in server.command:
            paths = [f"{directory}/{number}" for number in range(count)]
            devices = [f"unix:{path},server=on,wait=off" for path in paths]
        else:
            paths = [f"{directory}/qmp"] * count
            devices = [f"unix:{paths[0]},server=on,wait=off,max-clients={count}"]
        command = f"{server.command} -S " + " ".join(f"-qmp {device}" for device in devices)
        vm = stack.enter_context(launch(command, vcpus=1, accel=server.accel, name=server.name))
        before = _resident_kib(vm.pid)
        clients = []
        for path in paths:
            clients.append(Client(ServerAddress(path)))
            stack.callback(clients[-1].close)
        sockets = [client.socket for client in clients]
        yield Load(server.name, vm.pid, sockets, (_resident_kib(vm.pid) - before) / count)


@contextmanager
def _running(address: ServerAddress) -> Iterator[Load]:
    """Connect one client to a server that is already running; it goes on running afterwards."""
    with Client(address) as qmp:
        with sensible(address, "query-status"):
            qmp.execute("query-status")["status"]
        yield Load(str(address), peer(qmp.socket), [qmp.socket], 0)


@contextmanager
def flooding(paths: Sequence[str]) -> Iterator[int]:
    """Start a process that floods the monitors at `paths`, stopped at first; yield its pid."""
    child = os.fork()
    if not child:
        with suppress(BaseException):
            sockets = [Client(ServerAddress(path)).socket for path in paths]
            os.kill(os.getpid(), signal.SIGSTOP)
            while True:
                flood(sockets, 1.0)
        os._exit(0)
    try:
        os.waitpid(child, os.WUNTRACED)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _resident_kib(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


@contextmanager
def _echo() -> Iterator[Load]:
    """Start a process that answers each line."""
    mine, childs = socket.socketpair()
    child = os.fork()
    if not child:
        mine.close()
        while data := childs.recv(1 << 16):
            childs.sendall(ANSWER * data.count(b"\n"))
        os._exit(0)
    childs.close()
    try:
        yield Load(ECHO, child, [mine], 0)
    finally:
        mine.close()
        os.waitpid(child, 0)
