"""The commands of a schema, bound to their handlers.

To add a command: declare it in the schema, and bind a function to its name.
"""

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any, TypeVar

from qmpserver.qapi import Command, ParameterError, Schema
from qmpserver.qapi.steps import LONG, check_in_steps
from qmpserver.qmp import CommandError, Large, LongString, Steps, refusal

__all__ = ["MAX_ARGUMENTS", "MAX_STRINGS", "Bound", "Registry", "RegistryError"]

MAX_ARGUMENTS = 16384
"""Values in the arguments of a command that is executed, nested ones included."""

MAX_STRINGS = 8 << 20
"""Bytes that the strings in them take; a character may take four."""

_NEGOTIATION = "qmp_capabilities"

H = TypeVar("H", bound=Callable[..., Any])


class RegistryError(Exception):
    """Handlers and schema do not match; the message names every case."""


class Bound:
    """A declared command and its handler.

    Attributes:
        succeeded: How often it was executed with success.
        failed: How often it was executed and failed.
    """

    __slots__ = (
        "_given",
        "allow_oob",
        "declaration",
        "failed",
        "handler",
        "name",
        "succeeded",
        "success_response",
        "validate",
        "wants_client",
    )

    def __init__(
        self,
        name: str,
        declaration: Command,
        handler: Callable[..., Any],
        wants_client: bool,
    ) -> None:
        self.name = name
        self.handler = handler  # another one if it is adapted to a schema
        self._given = handler
        self.wants_client = wants_client
        self.allow_oob = declaration.allow_oob
        self.declaration = declaration
        self.success_response = declaration.success_response
        self.validate = declaration.validate
        self.succeeded = 0
        self.failed = 0

    @property
    def is_async(self) -> bool:
        """Whether the handler is a coroutine function, or an object with such a `__call__`."""
        call = getattr(self._given, "__call__", None)  # noqa: B004 -- an object may be a handler
        return any(map(inspect.iscoroutinefunction, (self._given, call)))


class Registry:
    """The commands of one machine.

    Bind the handlers before the first client connects.  Handlers are called on the event
    loop's thread.

    Args:
        schema: Declares the commands.

    Attributes:
        schema: As above.
        not_found: How often clients sent a command that does not exist.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._bound: dict[str, Bound] = {}
        self._undeclared: dict[str, Callable[..., Any]] = {}
        self._keywords: dict[str, str] = {}
        self.not_found = 0

    def command(
        self, name: str, *, client: bool = False, replace: bool = False
    ) -> Callable[[H], H]:
        """Return a decorator that makes a function the handler of command `name`.

        The handler gets the arguments as keywords, with `_` for `-`; those of
        a command with `'gen': false`, whose names are free, unchanged.  It
        returns a JSON value, or None for an empty object, and raises
        `CommandError` to report an error.  It runs on the event loop and must
        not block.  If it returns an awaitable, as a coroutine function does,
        the awaitable is awaited; the client's next in-band command waits for it.

        Args:
            name: The command.
            client: Pass the `Client` that sent the command as the first argument.
            replace: Replace the handler that the command may have already.

        Raises:
            RegistryError: The command has a handler already.
        """

        def bind(handler: H) -> H:
            if not replace and (name in self._bound or name in self._undeclared):
                raise RegistryError(f"command '{name}' has two handlers")
            declaration = self.schema.commands.get(name)
            if declaration is None:
                self._undeclared[name] = handler
            else:
                self._bound[name] = Bound(name, declaration, handler, client)
            return handler

        return bind

    def check(self) -> None:
        """Check handlers against the schema.

        Raises:
            RegistryError: A handler's command is not declared; a command has no handler; a
                handler cannot be called with the command's arguments; the handler of a command
                that allows out-of-band execution is a coroutine function.
        """
        faults = [f"handler of '{name}' is not declared" for name in sorted(self._undeclared)]
        faults += [
            f"command '{name}' has no handler"
            for name in sorted(self.schema.commands)
            if name not in self._bound and name != _NEGOTIATION
        ]
        faults += [
            f"command '{name}' allows out-of-band execution, so its handler must not be a coroutine"
            for name, bound in sorted(self._bound.items())
            if bound.allow_oob and bound.is_async
        ]
        for name, bound in sorted(self._bound.items()):
            faults += _misfits(bound, self.schema.commands[name])
        if faults:
            raise RegistryError("; ".join(faults))

    @property
    def names(self) -> list[str]:
        """The names of the commands that can be executed, including the negotiation."""
        return sorted({*self._bound, _NEGOTIATION})

    @property
    def handles_negotiation(self) -> bool:
        """Whether `qmp_capabilities` has a handler; without one, it always succeeds."""
        return _NEGOTIATION in self._bound

    @property
    def commands(self) -> Collection[Bound]:
        """All commands that have a handler."""
        return self._bound.values()

    def count_failure(self, name: str | LongString) -> None:
        """Count a failure of command `name`, also if there is no such command."""
        bound = self._bound.get(name) if isinstance(name, str) else None
        if bound is not None:
            bound.failed += 1
        else:
            self.not_found += 1

    def find(self, name: str | LongString, oob: bool = False) -> Bound:
        """Return command `name`.

        Raises:
            CommandError: There is no such command, or it cannot be executed out of band.
        """
        bound = self._bound.get(name) if isinstance(name, str) else None
        if bound is None:
            raise refusal(
                "The command ", name, " has not been found", error_class="CommandNotFound"
            )
        if oob and not bound.allow_oob:
            raise CommandError(f"The command {name} does not support OOB")
        return bound

    def check_large(self, bound: Bound, arguments: Large) -> Steps:
        """Check in steps that large arguments may be passed to `call`.

        Raises:
            CommandError: They do not match the schema, or they are too large.
        """
        if arguments.size <= MAX_ARGUMENTS and (yield from arguments.memory()) <= MAX_STRINGS:
            return
        if bound.declaration.gen:
            try:
                yield from check_in_steps(bound.declaration.arguments, arguments)
            except ParameterError as error:
                before, mark, after = error.desc.partition(LONG)
                if isinstance(error.long, LongString) and mark:
                    raise refusal(before, error.long, after) from None
                raise CommandError(error.desc) from None
        raise CommandError(
            f"Arguments of {bound.name} are too large: at most {MAX_ARGUMENTS} values and "
            f"{MAX_STRINGS >> 20} MiB of strings are possible"
        )

    def call(self, bound: Bound, arguments: dict[str, Any], client: object) -> Any | Awaitable[Any]:
        """Check `arguments` and call the handler.

        Raises:
            CommandError: An argument does not match the schema.
            BaseException: The exception of the handler.
        """
        try:
            arguments = bound.validate(arguments)
        except ParameterError as error:
            raise CommandError(error.desc) from None
        if arguments and bound.declaration.gen:
            keywords = self._keywords
            try:
                arguments = {keywords[name]: value for name, value in arguments.items()}
            except KeyError:
                arguments = self._as_keywords(arguments)
        if arguments:
            if bound.wants_client:
                return bound.handler(client, **arguments)
            return bound.handler(**arguments)
        return bound.handler(client) if bound.wants_client else bound.handler()

    def _as_keywords(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with `_` for `-` in their names, which are the schema's."""
        self._keywords |= {name: name.replace("-", "_") for name in arguments}
        return {self._keywords[name]: value for name, value in arguments.items()}


def _misfits(bound: Bound, declaration: Command) -> Iterator[str]:
    """Yield the reasons why the handler cannot be called with the command's arguments."""
    taken = declaration.arguments
    try:
        parameters = list(inspect.signature(bound.handler).parameters.values())
    except (TypeError, ValueError):  # a C function without a signature
        return
    kinds = inspect.Parameter
    if bound.wants_client:
        if not parameters or parameters[0].kind in (kinds.KEYWORD_ONLY, kinds.VAR_KEYWORD):
            yield f"handler of '{bound.name}' does not take the client first"
        elif parameters[0].kind is not kinds.VAR_POSITIONAL:
            del parameters[0]
    if taken.branches or not declaration.gen:
        return  # the members depend on values
    by_name = {
        one.name: one
        for one in parameters
        if one.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    takes_all = any(one.kind is kinds.VAR_KEYWORD for one in parameters)
    for member in taken.members:
        parameter = by_name.pop(member.name.replace("-", "_"), None)
        if parameter is None:
            if not takes_all:
                yield f"handler of '{bound.name}' does not take argument '{member.name}'"
        elif member.optional and parameter.default is kinds.empty:
            yield f"handler of '{bound.name}' has no default for optional argument '{member.name}'"
    for parameter in by_name.values():
        if parameter.default is kinds.empty:
            yield f"handler of '{bound.name}' needs '{parameter.name}', which is no argument of it"
    if any(p.kind is kinds.POSITIONAL_ONLY and p.default is kinds.empty for p in parameters):
        yield f"handler of '{bound.name}' does not take its arguments as keywords"
