"""Outcomes of a handler that are neither a JSON value nor an ordinary exception."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpserver.monitor import Client, Server
from qmpserver.monitor.channel import Channel
from qmpserver.qmp import CommandError
from tests.monitor.conftest import Commands, until

if TYPE_CHECKING:
    from tests.monitor.conftest import Connect, Peer


class UnprintableError(Exception):
    """An exception that cannot even be shown."""

    def __str__(self) -> str:
        raise ValueError("no str")

    __repr__ = __str__


class EndingError(Exception):
    """An exception that ends the program when it is shown."""

    def __repr__(self) -> str:
        raise SystemExit(3)


class EndingDescriptionError(CommandError):
    """An error whose description cannot be read."""

    def __init__(self) -> None:
        self.error_class = "GenericError"

    def __getattribute__(self, name: str) -> Any:
        if name == "desc":
            raise asyncio.CancelledError
        return super().__getattribute__(name)


class Unclassified:
    """An object that does not even tell its class, as a proxy for an object that is missing."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise LookupError("nothing is bound")


class ForgetfulError(CommandError):
    """A subclass that does not initialize its base."""

    def __init__(self) -> None:
        pass


class AnyAwaitable:
    """Awaitable, and neither a coroutine nor a future."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(0).__await__()
        return self.value


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "q"


Negotiated = Callable[[], Awaitable["Peer"]]


@pytest.fixture
def negotiated(server: Server, path: Path, connect: "Connect") -> Negotiated:
    async def negotiated() -> "Peer":
        await server.serve_unix(path)
        peer = await connect(path)
        await peer.negotiate(oob=True)
        return peer

    return negotiated


async def fails(peer: "Peer", command: bytes) -> str:
    """Execute a command that fails, and one after it; return the description."""
    reply = await peer.execute(b'{"execute": "%b", "id": 1}' % command)
    assert reply["id"] == 1
    assert await peer.execute(b'{"execute": "echo", "id": 2}') == {"return": {}, "id": 2}
    desc = reply["error"]["desc"]
    assert isinstance(desc, str)
    return desc


@pytest.mark.parametrize("itself", [False, True])
async def test_a_command_that_another_one_cancels(
    negotiated: Negotiated, commands: Commands, caplog: pytest.LogCaptureFixture, itself: bool
) -> None:
    """The cancelled command fails, whether its own task was cancelled or one that it awaits."""
    cancelled: list[asyncio.Future[Any]] = []

    @commands.registry.command("block", replace=True)
    async def block() -> None:
        awaited = asyncio.ensure_future(asyncio.Event().wait())
        current = asyncio.current_task()
        assert current is not None
        cancelled.append(current if itself else awaited)
        commands.blocked.set()
        await awaited

    commands.registry.command("release", replace=True)(lambda: cancelled[0].cancel() and None)
    peer = await negotiated()
    peer.send(b'{"execute": "block", "id": 1}')
    await commands.blocked.wait()
    assert await peer.execute(b'{"exec-oob": "release", "id": 2}') == {"return": {}, "id": 2}
    reply = await peer.receive()
    assert reply["id"] == 1
    assert reply["error"]["desc"] == "Internal error in command block: CancelledError()"
    assert caplog.records[0].exc_info is not None
    assert await peer.execute(b'{"execute": "echo"}') == {"return": {}}


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize(
    "outcome",
    [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError()],
    ids=repr,
)
async def test_an_exception_of_any_kind(
    negotiated: Negotiated,
    commands: Commands,
    caplog: pytest.LogCaptureFixture,
    coroutine: bool,
    outcome: BaseException,
) -> None:
    def fail() -> None:
        raise outcome

    async def fail_later() -> None:
        await asyncio.sleep(0)
        raise outcome

    commands.registry.command("boom", replace=True)(fail_later if coroutine else fail)
    peer = await negotiated()
    assert await fails(peer, b"boom") == f"Internal error in command boom: {outcome!r}"
    info = caplog.records[0].exc_info
    assert info is not None
    assert info[1] is outcome


async def test_an_exception_that_cannot_be_shown(
    negotiated: Negotiated, commands: Commands
) -> None:
    @commands.registry.command("boom", replace=True)
    def boom() -> None:
        raise UnprintableError

    peer = await negotiated()
    desc = await fails(peer, b"boom")
    assert desc == "Internal error in command boom: <unprintable UnprintableError object>"


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize(
    ("outcome", "desc"),
    [
        (EndingError(), "<unprintable EndingError object>"),
        (EndingDescriptionError(), "CancelledError()"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_exception_that_ends_its_reader(
    negotiated: Negotiated,
    commands: Commands,
    caplog: pytest.LogCaptureFixture,
    coroutine: bool,
    outcome: Exception,
    desc: str,
) -> None:
    def fail() -> Any:
        if coroutine:
            return later(outcome)
        raise outcome

    commands.registry.command("boom", replace=True)(fail)
    peer = await negotiated()
    assert await fails(peer, b"boom") == f"Internal error in command boom: {desc}"
    assert caplog.records[0].exc_info is not None


async def test_an_error_whose_description_is_replaced(
    negotiated: Negotiated, commands: Commands
) -> None:
    @commands.registry.command("boom", replace=True)
    def boom() -> None:
        error = CommandError("before")
        error.desc = 5  # type: ignore[assignment]
        raise error

    peer = await negotiated()
    assert await fails(peer, b"boom") == "5"


@pytest.mark.parametrize("pretty", [False, True])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
async def test_a_result_with_a_number_that_json_does_not_have(
    server: Server,
    commands: Commands,
    path: Path,
    connect: "Connect",
    number: float,
    pretty: bool,
) -> None:
    commands.registry.command("boom", replace=True)(lambda: [1.5, {"a": number}])
    await server.serve_unix(path, pretty=pretty)
    peer = await connect(path)
    peer.send(b'{"execute": "qmp_capabilities"}{"execute": "boom"}')
    peer.writer.write_eof()
    said = (await peer.ends()).decode()
    assert f"Internal error in command boom: TypeError('{number} is not JSON" in said


async def test_a_result_that_does_not_tell_its_class(
    negotiated: Negotiated, commands: Commands
) -> None:
    commands.registry.command("boom", replace=True)(Unclassified)
    peer = await negotiated()
    assert "nothing is bound" in await fails(peer, b"boom")


@pytest.mark.parametrize(
    ("error", "error_class", "desc"),
    [
        (CommandError(OSError(2, "gone")), "GenericError", "[Errno 2] gone"),
        (CommandError(None, "KVMMissingCap"), "KVMMissingCap", "None"),
        (CommandError("no", 5), "5", "no"),
        (
            CommandError(UnprintableError()),
            "GenericError",
            "<unprintable UnprintableError object>",
        ),
        (CommandError("\udc80 \ud800"), "GenericError", "\ufffd \ufffd"),
        (
            ForgetfulError(),
            "GenericError",
            "Internal error in command boom: "
            "AttributeError(\"'ForgetfulError' object has no attribute 'desc'\")",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_error_with_a_description_that_is_no_string(
    negotiated: Negotiated,
    commands: Commands,
    error: CommandError,
    error_class: str,
    desc: str,
) -> None:
    @commands.registry.command("boom", replace=True)
    def boom() -> None:
        raise error

    peer = await negotiated()
    reply = await peer.execute(b'{"execute": "boom"}')
    assert reply == {"error": {"class": error_class, "desc": desc}}
    assert await peer.execute(b'{"execute": "echo"}') == {"return": {}}


def test_a_description_that_is_a_string_is_kept() -> None:
    error = CommandError("plain", "DeviceNotFound")
    assert (error.desc, error.error_class, str(error)) == ("plain", "DeviceNotFound", "plain")
    assert repr(error) == "CommandError('plain', 'DeviceNotFound')"


async def test_a_result_that_contains_itself(negotiated: Negotiated, commands: Commands) -> None:
    circular: dict[str, Any] = {}
    circular["a"] = [circular]
    commands.registry.command("boom", replace=True)(lambda: circular)
    peer = await negotiated()
    assert "contains itself" in await fails(peer, b"boom")


async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(value, Exception):
        raise value
    return value


@pytest.mark.parametrize(
    "make", [later, lambda value: asyncio.ensure_future(later(value)), AnyAwaitable]
)
async def test_a_plain_function_that_returns_an_awaitable(
    negotiated: Negotiated, commands: Commands, make: Callable[[Any], Any]
) -> None:
    commands.registry.command("block", replace=True)(lambda: make({"blocked": True}))
    commands.registry.command("boom", replace=True)(lambda: make(object()))
    peer = await negotiated()
    peer.send(b'{"execute": "block", "id": 1}{"execute": "echo", "id": 2}')
    assert await peer.receive() == {"return": {"blocked": True}, "id": 1}
    assert await peer.receive() == {"return": {}, "id": 2}
    assert "not JSON serializable" in await fails(peer, b"boom")


async def test_an_awaitable_that_fails(negotiated: Negotiated, commands: Commands) -> None:
    commands.registry.command("boom", replace=True)(lambda: later(CommandError("not now")))
    peer = await negotiated()
    assert await fails(peer, b"boom") == "not now"


async def test_an_out_of_band_command_must_answer_at_once(
    negotiated: Negotiated, commands: Commands
) -> None:
    """Its coroutine is closed: a warning that it was never awaited would fail this test."""
    commands.registry.command("release", replace=True)(lambda: later({}))
    peer = await negotiated()
    reply = await peer.execute(b'{"exec-oob": "release", "id": 1}')
    assert reply["id"] == 1
    assert "its handler must not return an awaitable" in reply["error"]["desc"]
    assert await peer.execute(b'{"execute": "release"}') == {"return": {}}
    assert await peer.execute(b'{"execute": "echo"}') == {"return": {}}


async def test_a_handler_that_waits_for_the_end_of_its_server(
    negotiated: Negotiated, server: Server, commands: Commands
) -> None:
    @commands.registry.command("boom", replace=True)
    async def boom() -> None:
        await server.close()

    peer = await negotiated()
    assert "a handler cannot await it" in await fails(peer, b"boom")


async def test_a_handler_that_waits_for_a_task_that_ends_its_server(
    negotiated: Negotiated, server: Server, commands: Commands
) -> None:
    """The task abandons the handler after the grace period; neither waits for ever."""
    ended: list[BaseException] = []

    @commands.registry.command("boom", replace=True)
    async def boom() -> None:
        try:
            await asyncio.create_task(server.close(grace=0.01))
        except asyncio.CancelledError as error:
            ended.append(error)
            raise

    peer = await negotiated()
    peer.send(b'{"execute": "boom"}')
    assert await peer.ends() == b""
    await until(lambda: ended)
    assert (server.devices, server.clients) == ([], 0)


@pytest.mark.slow
def test_a_command_that_outlives_its_event_loop() -> None:
    """The interpreter closes its coroutine, which is no outcome."""
    commands = Commands()
    ours, theirs = socket.socketpair()

    async def begin() -> Server:
        server = Server(commands.registry)
        server.connect(Channel(asyncio.get_running_loop(), theirs), "other")
        ours.sendall(b'{"execute": "qmp_capabilities"}{"execute": "block"}')
        await commands.blocked.wait()
        return server

    with ours, closing(asyncio.new_event_loop()) as loop:
        server = loop.run_until_complete(begin())
        assert commands.task is not None
        coroutine = commands.task.get_coro()
        assert coroutine is not None
        coroutine.close()  # as the interpreter does, but this raises what went wrong
        loop.run_until_complete(server.close())


async def test_a_handler_that_waits_for_the_end_of_its_client(
    negotiated: Negotiated, commands: Commands
) -> None:
    @commands.registry.command("boom", client=True, replace=True)
    async def boom(client: Client) -> None:
        await client.close()

    peer = await negotiated()
    assert "a handler cannot await it" in await fails(peer, b"boom")


async def test_a_handler_that_has_its_client_disconnected(
    negotiated: Negotiated, server: Server, commands: Commands
) -> None:
    """Its own reply is sent, commands after it are not executed."""
    closings = []

    @commands.registry.command("boom", client=True, replace=True)
    def boom(client: Client) -> None:
        closings.append(asyncio.create_task(client.close()))

    peer = await negotiated()
    peer.send(b'{"execute": "boom"}' + b'{"execute": "echo"}' * 100)
    replies = await peer.ends()
    assert replies.startswith(b'{"return": {}}\r\n')
    assert len(commands.executed) < 100
    await closings[0]
    assert server.clients == 0


async def test_a_client_that_ends_its_input_after_its_last_command(
    negotiated: Negotiated, commands: Commands
) -> None:
    """Commands after it stay unanswered, but do not keep the connection open."""

    @commands.registry.command("block", client=True, replace=True)
    async def block(client: Client) -> dict[str, bool]:
        client.execute_no_more()
        await asyncio.sleep(0)
        return {"blocked": True}

    peer = await negotiated()
    peer.send(b'{"execute": "block"}{"execute": "echo"}')
    peer.writer.write_eof()
    assert await peer.ends() == b'{"return": {"blocked": true}}\r\n'
    assert commands.executed == []


def test_public_attributes_of_a_client() -> None:
    assert {name for name in dir(Client) if not name.startswith("_")} == {
        "close",
        "execute_no_more",
        "monitor",
        "server",
        "take_fd",
    }
