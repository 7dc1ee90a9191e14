"""The commands of a stand-in, answered by the scenario, else by the state, else by the schema."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections import deque
from typing import TYPE_CHECKING, Any

from qmpserver.monitor.registry import Bound, Registry
from qmpserver.qapi import ParameterError
from qmpserver.qapi.model import EMPTY
from qmpserver.qmp import CommandError, LongString
from qmpserver.standin.expect import shortened
from qmpserver.standin.values import fitted, smallest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qmpserver.qapi import Command
    from qmpserver.standin.parts import Reply, ScriptedEvent
    from qmpserver.standin.scenario import Scenario

_NEGOTIATION = "qmp_capabilities"  # answered by the session, unless the scenario has a reply
_QUIT = "quit"  # ends the program, also with a scripted reply
MAX_REFUSED = 1000


class Commands(Registry):
    """A registry in which every command of the scenario's schema has an answer.

    Args:
        scenario: The scenario.
        send: Function that sends the events of a scripted reply.

    Attributes:
        refused: The last commands that the schema refused, each with QEMU's error message.
        set_status: Function that enters a run state.
        shutdown: Function that ends the stand-in, for a reason.
    """

    def __init__(self, scenario: Scenario, send: Callable[[Iterable[ScriptedEvent]], None]) -> None:
        super().__init__(scenario.schema)
        self.refused: deque[str] = deque(maxlen=MAX_REFUSED)
        self.set_status: Callable[[str], None] = lambda _: None
        self.shutdown: Callable[[str], None] = lambda _: None
        self._send = send
        self._script: dict[str, list[_Entry]] = {}
        for reply in scenario.replies:
            self._script.setdefault(reply.command, []).append(_Entry(reply))

    def complete(self) -> None:
        """Bind the remaining commands to the smallest value of their type.

        Call it once, after the handlers of the state are bound.
        """
        self._undeclared.clear()  # handlers of commands that this schema lacks
        for name, bound in list(self._bound.items()):
            handler = _adapted(bound, self.schema.commands[name])
            if handler is None:
                del self._bound[name]
            else:
                bound.handler = handler
        for name, declaration in self.schema.commands.items():
            if name not in self._bound and (name != _NEGOTIATION or name in self._script):
                value = smallest(declaration.returns or EMPTY)
                self._bound[name] = Bound(name, declaration, _always(value), False)

    def find(self, name: str | LongString, oob: bool = False) -> Bound:
        """Return a command, as `Registry.find` does; note an unknown one in `refused`.

        Raises:
            CommandError: There is no such command.
        """
        try:
            return super().find(name, oob)
        except CommandError as error:
            self._refuse(name, error.desc)
            raise

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
            CommandError: The schema or the state refuses it, or it needs a client.
        """
        bound = self.find(name)
        if bound.wants_client:
            raise CommandError("it needs a client, so it cannot be part of the setup")
        self._execute(bound, arguments, None)

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
        result = super().call(bound, arguments, client)
        if inspect.isawaitable(result):
            return self._fitted_later(bound, result)
        return self._fitted(bound, result)

    async def _fitted_later(self, bound: Bound, result: Awaitable[Any]) -> Any:
        return self._fitted(bound, await result)

    def _fitted(self, bound: Bound, result: Any) -> Any:
        """Drop the members that the schema does not have."""
        returns = self.schema.commands[bound.name].returns
        return result if returns is None else fitted(result, returns)


class _Entry:
    """A scripted reply, and how many commands it may still answer; None for no bound."""

    __slots__ = ("left", "reply")

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.left = reply.times


# The types on the wire that a handler's annotation stands for.
_WIRE = {"str": "string", "int": "int", "bool": "boolean", "list": "array", "dict": "object"}


def _adapted(bound: Bound, declaration: Command) -> Callable[..., Any] | None:
    """Return a handler that can be called with the command's arguments; None if it cannot be.

    Optional arguments of later releases are dropped. But a command of another schema may have the
    name of one of QEMU's and nothing else in common.
    """
    try:
        parameters = list(inspect.signature(bound.handler).parameters.values())
    except ValueError:  # a C function without arguments
        return bound.handler
    members = {one.name.replace("-", "_"): one for one in declaration.arguments.members}
    takes_all = False
    for one in parameters[bound.wants_client :]:
        if one.kind is one.VAR_KEYWORD:
            takes_all = True
            continue
        member = members.pop(one.name, None)
        if one.default is one.empty and (member is None or member.optional):
            return None
        annotated = re.match(r"\w+", str(one.annotation))
        wire = _WIRE.get(annotated[0]) if annotated else None
        if member is not None and wire not in (None, member.type.wire):
            return None
    if takes_all or not members:
        return bound.handler
    if not all(member.optional for member in members.values()):
        return None
    handler = bound.handler

    def adapted(*client: Any, **arguments: Any) -> Any:
        return handler(*client, **{k: v for k, v in arguments.items() if k not in members})

    return adapted


def _always(value: object) -> Callable[..., object]:
    return lambda **_: value
