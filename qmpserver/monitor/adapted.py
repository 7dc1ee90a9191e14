"""A registry for a schema that its handlers were not written for, such as an older release's.

Handlers are written for the newest schema. They serve another one because what only one of the two
has is left out on the way in, and made up or dropped on the way out.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from qmpserver.monitor.registry import Registry
from qmpserver.qapi import ResultError
from qmpserver.qapi.fitting import fitted
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from qmpserver.monitor.registry import Bound
    from qmpserver.qapi import Command, Schema

    Emit = Callable[..., None]

__all__ = ["AdaptedRegistry"]


class AdaptedRegistry(Registry):
    """A registry whose handlers serve a schema that may differ from theirs.

    Bind the handlers, then call `adapt`. Arguments that a handler does not know are dropped; so are
    members of its result that the schema lacks, and missing ones get their smallest value.

    Args:
        schema: Declares the commands.
        words: Errors in other words: those of handlers, and the words in their place.
    """

    def __init__(self, schema: Schema, words: Mapping[str, str] | None = None) -> None:
        super().__init__(schema)
        self._words = words or {}

    def adapt(self) -> None:
        """Make the bound handlers fit the schema; drop those that cannot serve it."""
        self._undeclared.clear()  # handlers of commands that this schema lacks
        for name in list(self._bound):
            self.adapt_one(name)

    def adapt_one(self, name: str) -> None:
        """Make the bound handler of a command fit the schema, or drop it."""
        bound = self._bound[name]
        handler = adapted(bound, self.schema.commands[name])
        if handler is None:
            del self._bound[name]
        else:
            bound.handler = handler

    def call(self, bound: Bound, arguments: dict[str, Any], client: object) -> Any | Awaitable[Any]:
        """Check `arguments` and call the handler, as `Registry.call` does; fit its result.

        Raises:
            CommandError: An argument does not match the schema.
            BaseException: The exception of the handler.
        """
        try:
            result = super().call(bound, arguments, client)
        except CommandError as error:
            raise self._reworded(error) from None
        if inspect.isawaitable(result):
            return self._fitted_later(bound, result)
        return self._fitted(bound, result)

    def emitter(self, emit: Emit) -> Emit:
        """Return a function that emits the events that the schema has, with the data that fits."""

        def fitting(event: str, data: Mapping[str, Any] | None = None) -> None:
            declared = self.schema.events.get(event)
            if declared is None:
                return
            fit: Any = None if data is None else fitted(data, declared.data)
            try:
                declared.validate(fit)
            except ResultError:  # a value that the schema does not know, such as a new status
                return
            emit(event, fit)

        return fitting

    def _reworded(self, error: CommandError) -> CommandError:
        desc = self._words.get(error.desc)
        return error if desc is None else CommandError(desc, error.error_class)

    async def _fitted_later(self, bound: Bound, result: Awaitable[Any]) -> Any:
        try:
            return self._fitted(bound, await result)
        except CommandError as error:
            raise self._reworded(error) from None

    def _fitted(self, bound: Bound, result: Any) -> Any:
        returns = self.schema.commands[bound.name].returns
        return result if returns is None else fitted(result, returns)


# The types on the wire that a handler's annotation stands for.
_WIRE = {"str": "string", "int": "int", "bool": "boolean", "list": "array", "dict": "object"}


def adapted(bound: Bound, declaration: Command) -> Callable[..., Any] | None:
    """Return a handler that can be called with the command's arguments; None if it cannot be.

    Optional arguments of another release are dropped. But a command of another schema may have the
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

    def with_known(*client: Any, **arguments: Any) -> Any:
        return handler(*client, **{k: v for k, v in arguments.items() if k not in members})

    return with_known
