"""One client's conversation, as a pure state machine.

Bytes go in with `Session.receive`, commands to execute come out of
`Session.next_command`, their outcome goes in with `Session.reply`,
`Session.fail` or `Session.finish`, and bytes to send come out of
`Session.take_output`.  No sockets, no clocks, no command but the negotiation, which
the owner may also execute.

Commands that are allowed in each state:

===============  ==========================  ====================================
state            `execute`                   `exec-oob`
===============  ==========================  ====================================
negotiating      `qmp_capabilities` only     unexpected
ready            all, in order               unexpected
ready, with oob  all, in order               at once, ahead of up to eight queued
===============  ==========================  ====================================

Events are sent only in a ready state.  A negotiation that the owner executes has ended for events
when it begins, and is undone if it fails.

A large message, or a reply with a part of one, takes many steps; nothing else is sent between
those of a reply. A large `exec-oob` waits for its turn, and with a large message waiting the
session takes no more input, so that there is never more than one.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

from qmpserver.qmp.errors import CommandError, as_text
from qmpserver.qmp.large import (
    Large,
    LongError,
    LongString,
    Name,
    Steps,
    bucket_in_steps,
    refusal,
)
from qmpserver.qmp.order import member_order
from qmpserver.qmp.parser import Parser
from qmpserver.qmp.writer import (
    LONG_TEXT,
    dumps,
    error_message,
    error_steps,
    event_message,
    return_message,
    return_steps,
)

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
_MEMBERS = frozenset({"execute", "exec-oob", "arguments", "id"})


class Request:
    """A well-formed command, to be executed by the session's owner.

    Attributes:
        name: The command; a `LongString` if it is long.
        arguments: The arguments; `Large` if they are large.
        oob: Whether it is to be executed out of band.
        has_id: Whether it has an `id`.
        id: Its `id`; `Large` if it is large.
        large: The message, if it is large.
    """

    __slots__ = ("arguments", "has_id", "id", "large", "name", "oob")

    def __init__(
        self,
        name: Any,
        arguments: Any,
        oob: bool,
        has_id: bool,
        request_id: Any,
        large: Large | None = None,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.oob = oob
        self.has_id = has_id
        self.id = request_id
        self.large = large

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
        error_places: Begin the texts of parse errors with the line and the column, as QEMU does
            since 11.1.

    Attributes:
        work: The work done so far, in messages and parsing steps.
        hand_out_negotiation: Whether `next_command` returns a valid negotiation for the owner to
            execute, instead of answering it; at first, it does not.
    """

    __slots__ = (
        "_backlog",
        "_busy",
        "_held",
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
        "_reading",
        "_steps",
        "_unread",
        "_unsent",
        "_waiting",
        "hand_out_negotiation",
        "work",
    )

    def __init__(
        self,
        version: Mapping[str, Any] | None,
        *,
        pretty: bool = False,
        offer_oob: bool = True,
        error_places: bool = False,
    ) -> None:
        self._pretty = pretty
        self._offer_oob = offer_oob
        self.work = 0
        self._parser = Parser(error_places=error_places)
        self._input: deque[bytes] = deque()
        self._steps: Iterator[list[Any]] | None = None
        self._unread: deque[Any] = deque()
        self._queue: deque[Any] = deque()
        self.hand_out_negotiation = False
        self._negotiates = version is not None
        self._negotiated = not self._negotiates
        self._oob = False
        self._busy = False
        self._backlog = 0  # bytes of the messages that wait for a command's end, and of others
        self._output: list[bytes] = []
        self._output_size = 0
        self._held = 0  # bytes of messages after that reply
        self._waiting: Large | None = None  # neither executed nor refused yet
        self._reading: Generator[None, None, Request | None] | None = None
        # Messages after the reply that is being written, which is the first.
        self._unsent: deque[bytes | Iterator[bytes]] = deque()
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
        return not (
            self._busy
            or self._queue
            or self._unread
            or self._unparsed
            or self._unsent
            or self._reading
        )

    @property
    def wants_input(self) -> bool:
        """Whether the session takes more input; if not, wait until a command has ended."""
        if self._unparsed or len(self._unread) >= _MAX_UNREAD:
            return False
        return self._backlog <= MAX_WAITING or not (self._unread or self._queue)

    @property
    def replying(self) -> bool:
        """Whether `next_command` has more to write of replies to earlier commands."""
        return bool(self._unsent)

    @property
    def held(self) -> int:
        """The bytes of events and replies that wait for the end of a large reply."""
        return self._held

    def receive(self, data: bytes) -> None:
        """Take bytes from the client, for `next_command`."""
        if not (self._unread or self._queue):
            self._backlog = 0
        self._backlog += len(data)
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
            if self._unsent:
                self.write_reply()
                continue
            if self._reading is not None:
                self.work += 1
                command = self._read()
                if command is not None:
                    return command
                continue
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

    def write_reply(self) -> None:
        """Write one step of a large reply."""
        self.work += 1
        first = self._unsent[0]
        part = first if isinstance(first, bytes) else next(first, None)
        if isinstance(first, bytes):
            self._held -= len(first)
        if part is first or part is None:
            self._unsent.popleft()
        if part:
            self._output.append(part)
            self._output_size += len(part)

    def release(self) -> Steps:
        """Free large messages in steps; the session cannot be used afterwards."""
        self._steps = self._reading = None
        self._input.clear()
        while self._unsent:
            first = self._unsent.popleft()
            if isinstance(first, _Release):
                for _ in first:
                    yield
        if self._waiting is not None:
            yield from self._waiting.tape.release()
        yield from self._parser.release()

    def reply(self, command: Request, result: Any) -> None:
        """Report that `command` succeeded; a `result` of None means an empty object.

        Raises:
            TypeError: `result` is not a JSON value; the outcome is not reported.
        """
        if result is None:
            result = {}
        if command.large is None:  # most are not, and this is the shortest way
            self._send(return_message(result, command.has_id, command.id, self._pretty))
            if not command.oob:
                self._busy = False
            return
        self._send_return(result, command.has_id, command.id)
        self.finish(command)

    def fail(self, command: Request, error: CommandError) -> None:
        """Report that `command` failed; a negotiation can be tried again then."""
        if command.name == _NEGOTIATION and self._negotiates:
            self._negotiated = self._oob = False
        self._send_error(error, command.has_id, command.id)
        self.finish(command)

    def finish(self, command: Request) -> None:
        """Report that `command` succeeded without a reply, as the schema declares."""
        if command.large is not None:
            self._unsent.append(_Release(command.large))
            self._busy = False
        elif not command.oob:
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

    def _send_return(self, value: Any, has_id: bool, request_id: Any) -> None:
        if type(request_id) is Large:
            self._unsent.append(return_steps(value, request_id, self._pretty))
        else:
            self._send(return_message(value, has_id, request_id, self._pretty))

    def _send_error(
        self, error: CommandError, has_id: bool = False, request_id: Any = None
    ) -> None:
        long = isinstance(error, LongError) or len(as_text(error.desc)) > LONG_TEXT
        if long or type(request_id) is Large:
            self._unsent.append(error_steps(error, has_id, request_id, self._pretty))
        else:
            self._send(error_message(error, has_id, request_id, self._pretty))

    def _send(self, message: bytes) -> None:
        if self._unsent:
            self._unsent.append(message)
            self._held += len(message)
            return
        self._output.append(message)
        self._output_size += len(message)

    @property
    def _unparsed(self) -> bool:
        return self._steps is not None or bool(self._input)

    def _parse(self) -> bool:
        """Parse one step; return whether there was input."""
        if self._waiting is not None:
            return False
        while self._unparsed:
            if self._steps is None:
                self._steps = self._parser.steps(self._input.popleft())
            messages = next(self._steps, None)
            if messages is not None:
                self.work += 1
                self._unread.extend(messages)
                for message in messages:
                    if type(message) is Large:
                        self._waiting = message
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
        """Return the request in `message`, or None after answering it or if it is large."""
        if type(message) is not dict:
            if type(message) is Large:
                self._reading = self._large_command(message)
                return None
            if not isinstance(message, CommandError):
                message = CommandError("QMP input must be a JSON object")
            self._send_error(message)
            return None
        has_id = "id" in message
        request_id = message["id"] if has_id else None
        oob = False
        name = message.get("execute")
        arguments = message.get("arguments")
        expected = 1 + has_id + (type(arguments) is dict)
        try:
            if type(name) is not str or len(message) != expected:
                name = _check(message, member_order(message), self._oob)
                oob = name == "exec-oob"
                name = message[name]
            if not self._negotiated or (name == _NEGOTIATION and self._negotiates):
                self._negotiate(name, oob, arguments or {})
                if not self.hand_out_negotiation:
                    self._send_return({}, has_id, request_id)
                    return None
        except CommandError as error:
            self._send_error(error, has_id, request_id)
            return None
        return Request(name, {} if arguments is None else arguments, oob, has_id, request_id)

    def _read(self) -> Request | None:
        """Read one step of a large message."""
        assert self._reading is not None
        try:
            next(self._reading)
        except StopIteration as end:
            self._reading = self._waiting = None
            command: Request | None = end.value
            self._busy = self._busy or command is not None
            return command
        return None

    def _large_command(self, large: Large) -> Generator[None, None, Request | None]:
        """Return the request in a large message, or None after answering it; in steps."""
        has_id, request_id = False, None
        try:
            if large.value is not dict:
                raise CommandError("QMP input must be a JSON object")
            message, order = yield from _known_members(large)
            has_id, request_id = "id" in message, message.get("id")
            named_by = _check(message, order, self._oob)
            oob = named_by == "exec-oob"
            name = message[named_by]
            arguments = message.get("arguments", {})
            if self._negotiated and not (name == _NEGOTIATION and self._negotiates):
                return Request(name, arguments, oob, has_id, request_id, large)
            if name == _NEGOTIATION and not oob and type(arguments) is Large:
                arguments = yield from _large_capabilities(arguments)
            self._negotiate(name, oob, arguments)
            if self.hand_out_negotiation:
                return Request(name, arguments, oob, has_id, request_id, large)
            self._send_return({}, has_id, request_id)
        except CommandError as error:
            self._send_error(error, has_id, request_id)
        self._unsent.append(_Release(large))
        return None

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


class _Release:
    """Frees a large message in steps; part of what is to be sent, of which it adds nothing."""

    def __init__(self, large: Large) -> None:
        self._steps = large.tape.release()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        next(self._steps)
        return b""


def _known_members(
    large: Large,
) -> Generator[None, None, tuple[dict[Name, Any], list[Name]]]:
    """Return the members of a message that may have any number of others, in steps.

    Returns:
        The known members, and of the others that one which QEMU meets first; and their names in
        the order in which QEMU meets them.
    """
    message: dict[Name, Any] = {}
    buckets: dict[Name, int] = {}
    unexpected: Name | None = None
    for member in large.members():
        if member is None:
            yield
            continue
        name, value = member
        chosen = yield from bucket_in_steps(name)
        if name not in _MEMBERS:
            if unexpected is not None:
                if chosen > buckets[unexpected]:
                    continue
                del message[unexpected]
            unexpected = name
        buckets[name] = chosen
        small = value.small()
        if small is value and name != "id" and isinstance(value.value, LongString):
            small = value.value
        message[name] = small
    # Within one bucket, the member that was inserted last comes first.
    latest_first = list(reversed(message))
    return message, sorted(latest_first, key=buckets.__getitem__)


def _check(message: Mapping[Any, Any], order: Iterable[Any], allow_oob: bool) -> str:
    """Check the members of a command one by one, in the order in which QEMU meets them.

    Returns:
        The name of the member that names the command.

    Raises:
        CommandError: The first error.
    """
    named_by = None
    for member in order:
        value = message[member]
        if member == "execute" or (member == "exec-oob" and allow_oob):
            if not isinstance(value, str | LongString):
                raise CommandError(f"QMP input member '{member}' must be a string")
            if named_by is not None:
                raise CommandError(f"QMP input member '{member}' clashes with '{named_by}'")
            named_by = member
        elif member == "arguments":
            if type(value) is not dict and not (type(value) is Large and value.value is dict):
                raise CommandError("QMP input member 'arguments' must be an object")
        elif member != "id":
            raise refusal("QMP input member '", member, "' is unexpected")
    if named_by is None:
        raise CommandError("QMP input lacks member 'execute'")
    return str(named_by)


def _large_capabilities(arguments: Large) -> Generator[None, None, dict[str, Any]]:
    """Check large arguments of the negotiation in steps, as `_enabled_capabilities` does.

    Returns:
        Small ones with the same meaning.

    Raises:
        CommandError: The first error.
    """
    enable, unexpected = None, None
    for member in arguments.members():
        if member is None:
            yield
        elif member[0] == "enable":
            enable = member[1]
        elif unexpected is None:
            unexpected = member[0]
    index = 0
    for element in [] if enable is None or enable.value is not list else enable.elements():
        if element is None:
            yield
            continue
        if not isinstance(element.value, str | LongString):
            raise CommandError(f"Invalid parameter type for 'enable[{index}]', expected: string")
        if element.value != _OOB:
            raise refusal("Parameter 'null' does not accept value '", element.value, "'")
        index += 1
    if enable is not None and enable.value is not list:
        raise CommandError("Invalid parameter type for 'enable', expected: array")
    if unexpected is not None:
        raise refusal("Parameter '", unexpected, "' is unexpected")
    return {"enable": [_OOB] if index else []}


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
