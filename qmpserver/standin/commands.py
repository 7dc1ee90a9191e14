"""The commands of a stand-in, answered by the scenario, else by the state, else by the schema."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from qmpserver.monitor.adapted import AdaptedRegistry
from qmpserver.monitor.registry import Bound
from qmpserver.qapi import ParameterError
from qmpserver.qapi.fitting import smallest
from qmpserver.qapi.model import EMPTY
from qmpserver.qmp import CommandError, LongString
from qmpserver.standin.expect import shortened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qmpserver.standin.parts import Reply, ScriptedEvent
    from qmpserver.standin.scenario import Scenario

_NEGOTIATION = "qmp_capabilities"  # answered by the session, unless the scenario has a reply
_QUIT = "quit"  # ends the program, also with a scripted reply
MAX_REFUSED = 1000

H = TypeVar("H", bound="Callable[..., Any]")


class Commands(AdaptedRegistry):
    """A registry in which every command of the scenario's schema has an answer.

    A command is bound to it when it is first looked for: few of the schema's are ever used.

    Args:
        scenario: The scenario.
        send: Function that sends the events of a scripted reply.

    Attributes:
        refused: The last commands that the schema refused, each with QEMU's error message.
        set_status: Function that enters a run state.
        shutdown: Function that ends the stand-in, for a reason.
        permits: Function that returns whether a command is permitted at this time.
    """

    def __init__(self, scenario: Scenario, send: Callable[[Iterable[ScriptedEvent]], None]) -> None:
        super().__init__(scenario.schema, scenario.release.words)
        self.refused: deque[str] = deque(maxlen=MAX_REFUSED)
        self.set_status: Callable[[str], None] = lambda _: None
        self.shutdown: Callable[[str], None] = lambda _: None
        self.permits: Callable[[str], bool] = lambda _: True
        self._send = send
        self._unused: set[str] = set()  # commands that were not looked for yet
        self._script: dict[str, list[_Entry]] = {}
        for reply in scenario.replies:
            self._script.setdefault(reply.command, []).append(_Entry(reply))

    def complete(self) -> None:
        """Answer the commands that have no handler by the smallest value of their type.

        Call it once, after the handlers of the state are bound. Handlers that are bound later are
        taken as they are.
        """
        self._undeclared.clear()  # handlers of commands that this schema lacks
        self._unused.update(self.schema.commands)

    def command(
        self, name: str, *, client: bool = False, replace: bool = False
    ) -> Callable[[H], H]:
        """Return a decorator that makes a function the handler, as `Registry.command` does."""
        self._unused.discard(name)
        return super().command(name, client=client, replace=replace)

    @property
    def names(self) -> list[str]:
        """The names of the commands that can be executed, including the negotiation."""
        return sorted({*self.schema.commands, _NEGOTIATION})

    @property
    def handles_negotiation(self) -> bool:
        """Whether `qmp_capabilities` has a handler or a scripted reply."""
        return super().handles_negotiation or _NEGOTIATION in self._script

    def find(self, name: str | LongString, oob: bool = False) -> Bound:
        """Return a command, as `Registry.find` does; note an unknown one in `refused`.

        Raises:
            CommandError: There is no such command.
        """
        if isinstance(name, str) and name in self._unused:
            self._first_use(name)
        try:
            bound = super().find(name, oob)
            if not self.permits(bound.name):
                raise CommandError(
                    f"The command '{bound.name}' is permitted only after machine initialization "
                    "has completed"
                )
        except CommandError as error:
            self._refuse(name, error.desc)
            raise
        return bound

    def call(self, bound: Bound, arguments: dict[str, Any], client: object) -> Any | Awaitable[Any]:
        """Answer a command: return its result, or an awaitable of it.

        Raises:
            CommandError: The schema, the scenario or the state refuses the command.
        """
        try:
            arguments = bound.validate(arguments)
        except ParameterError as error:
            self._refuse(bound.name, error.desc)
            raise CommandError(error.desc) from None
        reply = self._take(bound.name, arguments)
        if reply is not None and reply.delay:
            return self._answer_later(reply, bound, arguments, client)
        return self._answer(reply, bound, arguments, client)

    def prepare(self, name: str, arguments: dict[str, Any]) -> None:
        """Execute a command of the setup: by the state, as scripted replies are for clients.

        Raises:
            CommandError: The schema or the state refuses it, or it needs a client or time.
        """
        bound = self.find(name)
        if bound.wants_client:
            raise CommandError("it needs a client, so it cannot be part of the setup")
        if bound.is_async:
            raise CommandError("it takes time, so it cannot be part of the setup")
        self._execute(bound, arguments, None)

    def _first_use(self, name: str) -> None:
        """Fit the state's handler to the schema; answer by the schema without one."""
        self._unused.remove(name)
        if name in self._bound:
            self.adapt_one(name)
        if name not in self._bound and (name != _NEGOTIATION or name in self._script):
            declaration = self.schema.commands[name]
            value = smallest(declaration.returns or EMPTY)
            self._bound[name] = Bound(name, declaration, _always(value), False)

    def _refuse(self, name: str | LongString, desc: str) -> None:
        self.refused.append(shortened(f"{name}: {desc}"))

    def _take(self, name: str, arguments: dict[str, Any]) -> Reply | None:
        """Return the first scripted reply that fits and is not used up, and count its use."""
        for entry in self._script.get(name, ()):
            if entry.left != 0 and entry.reply.fits(arguments):
                if entry.left is not None:
                    entry.left -= 1
                return entry.reply
        return None

    async def _answer_later(
        self, reply: Reply, bound: Bound, arguments: dict[str, Any], client: object
    ) -> Any:
        await asyncio.sleep(reply.delay)
        answer = self._answer(reply, bound, arguments, client)
        return await answer if inspect.isawaitable(answer) else answer

    def _answer(
        self, reply: Reply | None, bound: Bound, arguments: dict[str, Any], client: object
    ) -> Any:
        if reply is None:
            return self._execute(bound, arguments, client)
        self._send(reply.before)
        try:
            if reply.status is not None:
                self.set_status(reply.status)
            if reply.error is not None:
                raise CommandError(*reply.error)
            if not reply.returns or bound.name == _QUIT:
                return self._execute(bound, arguments, client)
            return reply.result
        finally:
            loop = asyncio.get_running_loop()
            if reply.events:
                loop.call_soon(self._send, reply.events)
            if reply.shutdown is not None:
                loop.call_soon(self.shutdown, reply.shutdown)

    def _execute(self, bound: Bound, arguments: dict[str, Any], client: object) -> Any:
        """Answer by the handler of the state, of a test, or of the schema."""
        return super().call(bound, arguments, client)


class _Entry:
    """A scripted reply, and how many commands it may still answer; None for no bound."""

    __slots__ = ("left", "reply")

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.left = reply.times


def _always(value: object) -> Callable[..., object]:
    return lambda **_: value
