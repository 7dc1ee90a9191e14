"""Commands and events, each with the validation of its arguments, result or data."""

from qmpserver.qapi import validate
from qmpserver.qapi.model import (
    EMPTY,
    AlternateType,
    Definition,
    Entity,
    EnumType,
    ObjectType,
    Type,
)


class Command(Entity):
    """A command of the protocol."""

    kind = "command"

    def __init__(self, name: str, definition: Definition) -> None:
        super().__init__(name, definition)
        value = definition.value
        self.boxed = "boxed" in value
        self.gen = "gen" not in value
        self.success_response = "success-response" not in value
        self.allow_oob = "allow-oob" in value
        self.allow_preconfig = "allow-preconfig" in value
        self.coroutine = "coroutine" in value
        self.arguments: ObjectType = EMPTY
        self.returns: Type | None = None
        self._visit: validate.VisitObject | None = None
        self._check: validate.Check | None = None

    def validate(self, arguments: dict[str, object]) -> dict[str, object]:
        """Check and convert a client's arguments; absent optional ones stay absent.

        The handler of a command with `'gen': false` checks its arguments itself; they are returned
        unchanged.

        Raises:
            ParameterError: The schema does not allow an argument; the text is QEMU's.
        """
        if not self.gen:
            return dict(arguments)
        try:
            visit = self._visit
            if visit is None:
                # Two threads may both compile the function; either one is right.
                visit = self._visit = validate.arguments(self.arguments)
            return visit(arguments)
        except RecursionError:
            raise validate.ParameterError("Arguments are nested too deeply") from None

    def validate_result(self, value: object) -> None:
        """Check a handler's result.

        Raises:
            ResultError: The schema does not allow it.
        """
        if self._check is None:
            self._check = validate.output(f"command '{self.name}'", self.returns or EMPTY)
        self._check(value)


class Event(Entity):
    """An event of the protocol."""

    kind = "event"

    def __init__(self, name: str, definition: Definition) -> None:
        super().__init__(name, definition)
        self.boxed = "boxed" in definition.value
        self.data: ObjectType = EMPTY
        self._check: validate.Check | None = None

    def validate(self, data: object) -> None:
        """Check an event's data; None stands for no data.

        Raises:
            ResultError: The schema does not allow it.
        """
        if self._check is None:
            self._check = validate.output(f"event '{self.name}'", self.data)
        self._check({} if data is None else data)


Named = EnumType | ObjectType | AlternateType | Command | Event
