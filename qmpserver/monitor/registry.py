"""The commands there are: what the schema declares, bound to what does it."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from qmpserver.qapi import Command, ParameterError, Schema
from qmpserver.qmp import QMPError

__all__ = ["Bound", "Registry", "RegistryError"]

_NEGOTIATION = "qmp_capabilities"

H = TypeVar("H", bound=Callable[..., Any])


class RegistryError(Exception):
    """Handlers and schema don't fit together; the message names every case."""


class Bound:
    """A declared command and its handler."""

    __slots__ = (
        "allow_oob",
        "handler",
        "is_async",
        "name",
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
        self.handler = handler
        self.wants_client = wants_client
        self.is_async = inspect.iscoroutinefunction(handler)
        self.allow_oob = declaration.allow_oob
        self.success_response = declaration.success_response
        self.validate = declaration.validate


class Registry:
    """The commands of one machine.

    Fill it before the first client comes; from then on it is only read.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._bound: dict[str, Bound] = {}
        self._undeclared: dict[str, Callable[..., Any]] = {}
        self._keywords: dict[str, str] = {}

    def command(
        self, name: str, *, client: bool = False, replace: bool = False
    ) -> Callable[[H], H]:
        """Return a decorator that makes a function the handler of command *name*.

        The handler gets the arguments as keywords, with ``_`` for ``-``.  It
        returns a JSON value, or None for an empty object, and raises
        `QMPError` to report an error.  A plain function runs at once on the
        event loop and must not block; a coroutine function is awaited, and the
        client's next in-band command waits for it.

        Args:
            name: the command.
            client: pass the `Client` that sent the command as the first argument.
            replace: take the place of the handler that there may be.

        Raises:
            RegistryError: the command has a handler already.

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
        """Hold handlers and schema against each other.

        Raises:
            RegistryError: a handler is not declared, or a declaration has no
                handler, or a handler can't take its client out of band.

        """
        faults = [f"handler of '{name}' is not declared" for name in sorted(self._undeclared)]
        faults += [
            f"command '{name}' has no handler"
            for name in sorted(self.schema.commands)
            if name not in self._bound and name != _NEGOTIATION
        ]
        faults += [
            f"command '{name}' allows out-of-band execution, so its handler can't be a coroutine"
            for name, bound in sorted(self._bound.items())
            if bound.allow_oob and bound.is_async
        ]
        if faults:
            raise RegistryError("; ".join(faults))

    @property
    def names(self) -> list[str]:
        """The commands that can be executed, the negotiation among them."""
        return sorted({*self._bound, _NEGOTIATION})

    def find(self, name: str, oob: bool = False) -> Bound:
        """Return command *name*.

        Raises:
            QMPError: there is none, or it can't be executed out of band.

        """
        bound = self._bound.get(name)
        if bound is None:
            raise QMPError(f"The command {name} has not been found", "CommandNotFound")
        if oob and not bound.allow_oob:
            raise QMPError(f"The command {name} does not support OOB")
        return bound

    def call(self, bound: Bound, arguments: dict[str, Any], client: object) -> Any | Awaitable[Any]:
        """Check *arguments* and call the handler.

        Raises:
            QMPError: an argument does not fit, or what the handler raises.

        """
        try:
            arguments = bound.validate(arguments)
        except ParameterError as error:
            raise QMPError(error.desc) from None
        if arguments:
            keywords = self._keywords
            try:
                arguments = {keywords[name]: value for name, value in arguments.items()}
            except KeyError:
                # Only names that the schema has get past validation: few enough to keep.
                for name in arguments:
                    keywords[name] = name.replace("-", "_")
                arguments = {keywords[name]: value for name, value in arguments.items()}
            if bound.wants_client:
                return bound.handler(client, **arguments)
            return bound.handler(**arguments)
        return bound.handler(client) if bound.wants_client else bound.handler()
