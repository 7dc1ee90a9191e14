"""What a command is answered: by the scenario, else by the state, else by the schema."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qmpserver.monitor.registry import Bound, Registry
from qmpserver.qapi import ParameterError
from qmpserver.qapi.model import EMPTY
from qmpserver.qmp import CommandError
from qmpserver.standin.values import fitted, smallest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qmpserver.standin.parts import Reply, ScriptedEvent
    from qmpserver.standin.scenario import Scenario

_NEGOTIATION = "qmp_capabilities"
_QUIT = "quit"  # ends the program, whoever answers


class Commands(Registry):
    """The commands of the scenario's schema, each of them answered.

    Attributes:
        refused: What clients sent that the schema does not allow, and why.
    """

    def __init__(self, scenario: Scenario, send: Callable[[Iterable[ScriptedEvent]], None]) -> None:
        super().__init__(scenario.schema)
        self.refused: list[str] = []
        self.set_status: Callable[[str], None] = lambda _: None
        self.shutdown: Callable[[str], None] = lambda _: None
        self._send = send
        self._script: dict[str, list[list[Any]]] = {}  # each a reply, and how often it is left
        for reply in scenario.replies:
            self._script.setdefault(reply.command, []).append([reply, reply.times])

    def complete(self) -> None:
        """Have the schema answer where nobody does; call it when handlers are bound."""
        self._undeclared.clear()  # commands of other releases
        for name, declaration in self.schema.commands.items():
            if name != _NEGOTIATION and name not in self._bound:
                value = smallest(declaration.returns or EMPTY)
                self._bound[name] = Bound(name, declaration, _always(value), False)
        for name, script in self._script.items():
            if name in self._bound and any(reply.delay for reply, _ in script):
                self._bound[name].is_async = True

    def find(self, name: str, oob: bool = False) -> Bound:
        """Return command *name*, and note if there is none.

        Raises:
            CommandError: As of `Registry`.
        """
        try:
            return super().find(name, oob)
        except CommandError as error:
            self.refused.append(f"{name}: {error.desc}")
            raise

    def call(self, bound: Bound, arguments: dict[str, Any], client: object) -> Any | Awaitable[Any]:
        """Answer a command.

        Raises:
            CommandError: The schema, the scenario or the state refuses it.
        """
        try:
            arguments = bound.validate(arguments)
        except ParameterError as error:
            self.refused.append(f"{bound.name}: {error.desc}")
            raise CommandError(error.desc) from None
        reply = self._take(bound.name, arguments)
        if bound.is_async:
            return self._later(reply, bound, arguments, client)
        return self._answer(reply, bound, arguments, client)

    def _take(self, name: str, arguments: dict[str, Any]) -> Reply | None:
        for entry in self._script.get(name, ()):
            reply, left = entry
            if left != 0 and reply.fits(arguments):
                if left is not None:
                    entry[1] -= 1
                return reply  # type: ignore[no-any-return]
        return None

    async def _later(
        self, reply: Reply | None, bound: Bound, arguments: dict[str, Any], client: object
    ) -> Any:
        if reply is not None and reply.delay:
            await asyncio.sleep(reply.delay)
        return self._answer(reply, bound, arguments, client)

    def _answer(
        self, reply: Reply | None, bound: Bound, arguments: dict[str, Any], client: object
    ) -> Any:
        if reply is None:
            return self._done(bound, arguments, client)
        self._send(reply.before)
        try:
            if reply.status is not None:
                self.set_status(reply.status)
            if reply.error is not None:
                raise CommandError(*reply.error)
            if not reply.returns or bound.name == _QUIT:
                return self._done(bound, arguments, client)
            return reply.result
        finally:
            loop = asyncio.get_running_loop()
            if reply.events:
                loop.call_soon(self._send, reply.events)
            if reply.shutdown is not None:
                loop.call_soon(self.shutdown, reply.shutdown)

    def _done(self, bound: Bound, arguments: dict[str, Any], client: object) -> Any:
        returns = self.schema.commands[bound.name].returns
        result = super().call(bound, arguments, client)
        return result if returns is None else fitted(result, returns)


def _always(value: object) -> Callable[..., object]:
    return lambda **_: value
