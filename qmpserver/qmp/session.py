"""One client's conversation, as a pure state machine.

Bytes go in with `Session.receive`, commands to execute come out of
`Session.next_command`, their outcome goes in with `Session.reply`,
`Session.fail` or `Session.finish`, and bytes to send come out of
`Session.take_output`.  No sockets, no clocks, no command but the negotiation.

Commands that are allowed in each state:

===============  ==========================  ====================================
state            `execute`                   `exec-oob`
===============  ==========================  ====================================
negotiating      `qmp_capabilities` only     unexpected
ready            all, in order               unexpected
ready, with oob  all, in order               at once, ahead of up to eight queued
===============  ==========================  ====================================

Events are sent only in a ready state.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from qmpserver.qmp.errors import CommandError
from qmpserver.qmp.order import member_order
from qmpserver.qmp.parser import Parser
from qmpserver.qmp.writer import dumps, error_message, event_message, return_message

__all__ = ["MAX_QUEUED", "Request", "Session"]

MAX_QUEUED = 8
"""In-band commands that may wait while out-of-band ones still overtake them."""

_MAX_UNREAD = 64
"""Unread messages; with so many, the session stops parsing and wants no more input."""

MAX_WAITING = 1 << 20
"""Bytes; while there are more, and a message waits for the end of a command, no input is taken."""

_ALL = 1 << 62

_NOT_FOUND = "CommandNotFound"
_NEGOTIATION = "qmp_capabilities"
_OOB = "oob"


class Request:
    """A well-formed command, to be executed by the session's owner."""

    __slots__ = ("arguments", "has_id", "id", "name", "oob")

    def __init__(
        self, name: str, arguments: dict[str, Any], oob: bool, has_id: bool, request_id: Any
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.oob = oob
        self.has_id = has_id
        self.id = request_id

    def __repr__(self) -> str:
        key = "exec-oob" if self.oob else "execute"
        return f"<{key} {self.name} {self.arguments!r}>"


class Session:
    """The server's side of one QMP conversation.

    Not thread-safe.

    Args:
        version: The `version` member of the greeting; None for the guest agent's dialect, which
            has no greeting and no negotiation.
        pretty: Write one member a line.
        offer_oob: Offer out-of-band execution in the greeting.

    Attributes:
        work: The work done so far, in messages and parsing steps.
    """

    __slots__ = (
        "_busy",
        "_input",
        "_negotiated",
        "_negotiates",
        "_offer_oob",
        "_oob",
        "_output",
        "_output_size",
        "_parser",
        "_pretty",
        "_queue",
        "_steps",
        "_unread",
        "_waiting",
        "work",
    )

    def __init__(
        self,
        version: Mapping[str, Any] | None,
        *,
        pretty: bool = False,
        offer_oob: bool = True,
    ) -> None:
        self._pretty = pretty
        self._offer_oob = offer_oob
        self.work = 0
        self._parser = Parser()
        self._input: deque[bytes] = deque()
        self._steps: Iterator[list[Any]] | None = None
        self._unread: deque[Any] = deque()
        self._queue: deque[Any] = deque()
        self._negotiates = version is not None
        self._negotiated = not self._negotiates
        self._oob = False
        self._busy = False
        self._waiting = 0  # bytes of the messages that wait for a command's end, and of others
        self._output: list[bytes] = []
        self._output_size = 0
        if version is not None:
            capabilities = [_OOB] if offer_oob else []
            greeting = {"QMP": {"version": version, "capabilities": capabilities}}
            self._send(dumps(greeting, pretty).replace(b"\n", b"\r\n") + b"\r\n")

    @property
    def negotiated(self) -> bool:
        """Whether negotiation is over; only then are events sent."""
        return self._negotiated

    @property
    def busy(self) -> bool:
        """Whether an in-band command is being executed."""
        return self._busy

    @property
    def idle(self) -> bool:
        """Whether everything that was received has been answered."""
        return not (self._busy or self._queue or self._unread or self._unparsed)

    @property
    def wants_input(self) -> bool:
        """Whether the session takes more input; if not, wait until a command has ended."""
        if self._unparsed or len(self._unread) >= _MAX_UNREAD:
            return False
        return self._waiting <= MAX_WAITING or not (self._unread or self._queue)

    def receive(self, data: bytes) -> None:
        """Take bytes from the client, for `next_command`."""
        if not (self._unread or self._queue):
            self._waiting = 0
        self._waiting += len(data)
        self._input.append(data)

    def take_output(self) -> bytes:
        """Return the bytes to send to the client; they are not returned again."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        self._output_size = 0
        return data

    @property
    def output_size(self) -> int:
        """The number of bytes that `take_output` would return."""
        return self._output_size

    def next_command(self, most: int = _ALL) -> Request | None:
        """Return the next command to execute, or None if there is none yet.

        The session itself answers errors and the negotiation.  The caller must report
        the outcome of each command.

        Args:
            most: Return None also when `work` has grown by so much.
        """
        most += self.work
        while self.work < most:
            if not self._busy:
                if self._queue:
                    message = self._queue.popleft()
                elif self._unread:
                    message = self._unread.popleft()
                elif self._parse():
                    continue
                else:
                    return None
            elif self._oob and self._read_up_to_oob():
                message = self._unread.popleft()
            elif len(self._unread) < _MAX_UNREAD and self._parse():
                continue
            else:
                return None
            self.work += 1
            command = self._command(message)
            if command is not None:
                self._busy = self._busy or not command.oob
                return command
        return None

    def reply(self, command: Request, result: Any) -> None:
        """Report that `command` succeeded; a `result` of None means an empty object.

        Raises:
            TypeError: `result` is not a JSON value; the outcome is not reported.
        """
        if result is None:
            result = {}
        self._send(return_message(result, command.has_id, command.id, self._pretty))
        self.finish(command)

    def fail(self, command: Request, error: CommandError) -> None:
        """Report that `command` failed."""
        self._send(error_message(error, command.has_id, command.id, self._pretty))
        self.finish(command)

    def finish(self, command: Request) -> None:
        """Report that `command` succeeded without a reply, as the schema declares."""
        if not command.oob:
            self._busy = False

    def event(
        self, name: str, data: Mapping[str, Any] | None, seconds: int, microseconds: int
    ) -> None:
        """Send an event if negotiation is over."""
        if self._negotiated:
            self._send(event_message(name, data, seconds, microseconds, self._pretty))

    def encoded_event(self, message: bytes) -> None:
        """Send an event encoded by `event_message` if negotiation is over."""
        if self._negotiated:
            self._send(message)

    def _send(self, message: bytes) -> None:
        self._output.append(message)
        self._output_size += len(message)

    @property
    def _unparsed(self) -> bool:
        return self._steps is not None or bool(self._input)

    def _parse(self) -> bool:
        """Parse one step; return whether there was input."""
        while self._steps is not None or self._input:
            if self._steps is None:
                self._steps = self._parser.steps(self._input.popleft())
            messages = next(self._steps, None)
            if messages is not None:
                self.work += 1
                self._unread.extend(messages)
                return True
            self._steps = None
        return False

    def _read_up_to_oob(self) -> bool:
        """Queue unread messages up to the next out-of-band one; return whether there is one."""
        unread = self._unread
        while unread and len(self._queue) < MAX_QUEUED:
            message = unread[0]
            if type(message) is dict and "exec-oob" in message and "execute" not in message:
                return True
            self._queue.append(unread.popleft())
        return False

    def _command(self, message: Any) -> Request | None:
        """Return the request in `message`, or None after answering it."""
        if type(message) is not dict:
            if not isinstance(message, CommandError):
                message = CommandError("QMP input must be a JSON object")
            self._send(error_message(message, pretty=self._pretty))
            return None
        has_id = "id" in message
        request_id = message["id"] if has_id else None
        oob = False
        name = message.get("execute")
        arguments = message.get("arguments")
        expected = 1 + has_id + (type(arguments) is dict)
        try:
            if type(name) is not str or len(message) != expected:
                name = _check(message, self._oob)
                oob = name == "exec-oob"
                name = message[name]
            if not self._negotiated or (name == _NEGOTIATION and self._negotiates):
                self._negotiate(name, oob, arguments or {})
                self._send(return_message({}, has_id, request_id, self._pretty))
                return None
        except CommandError as error:
            self._send(error_message(error, has_id, request_id, self._pretty))
            return None
        return Request(name, {} if arguments is None else arguments, oob, has_id, request_id)

    def _negotiate(self, name: str, oob: bool, arguments: dict[str, Any]) -> None:
        if name != _NEGOTIATION:
            raise CommandError(
                "Expecting capabilities negotiation with 'qmp_capabilities'", _NOT_FOUND
            )
        if oob:
            raise CommandError(f"The command {name} does not support OOB")
        enabled = _enabled_capabilities(arguments)
        if self._negotiated:
            raise CommandError(
                "Capabilities negotiation is already complete, command ignored", _NOT_FOUND
            )
        if enabled and not self._offer_oob:
            raise CommandError(f"Capability {', '.join(enabled)} not available")
        self._negotiated = True
        self._oob = bool(enabled)


def _check(message: dict[str, Any], allow_oob: bool) -> str:
    """Check the members of a command one by one, in the order in which QEMU meets them.

    Returns:
        The name of the member that names the command.

    Raises:
        CommandError: The first error.
    """
    named_by = None
    for member in member_order(message):
        value = message[member]
        if member == "execute" or (member == "exec-oob" and allow_oob):
            if type(value) is not str:
                raise CommandError(f"QMP input member '{member}' must be a string")
            if named_by is not None:
                raise CommandError(f"QMP input member '{member}' clashes with '{named_by}'")
            named_by = member
        elif member == "arguments":
            if type(value) is not dict:
                raise CommandError("QMP input member 'arguments' must be an object")
        elif member != "id":
            raise CommandError(f"QMP input member '{member}' is unexpected")
    if named_by is None:
        raise CommandError("QMP input lacks member 'execute'")
    return named_by


def _enabled_capabilities(arguments: dict[str, Any]) -> list[str]:
    """Return the value of `enable`, checked as against the schema."""
    enable = arguments.get("enable", [])
    if type(enable) is not list:
        raise CommandError("Invalid parameter type for 'enable', expected: array")
    for index, capability in enumerate(enable):
        if type(capability) is not str:
            raise CommandError(f"Invalid parameter type for 'enable[{index}]', expected: string")
        if capability != _OOB:
            # QEMU calls an element, which has no name, null.
            raise CommandError(f"Parameter 'null' does not accept value '{capability}'")
    for name in arguments:
        if name != "enable":
            raise CommandError(f"Parameter '{name}' is unexpected")
    return enable
