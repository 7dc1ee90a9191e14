"""The errors of the protocol: exceptions that become QMP error objects."""

from collections.abc import Callable

__all__ = ["CommandError", "ParseError", "as_text", "printable"]


class CommandError(Exception):
    """An error that the client receives as a QMP error object.

    A command handler raises it; the session turns it into the reply. `testing.MonitorClient` raises
    it where a server replies with such an object.

    Args:
        desc: The human-readable message, in QEMU's words where QEMU has some. Anything but a
            string, such as another exception, is converted with `str`.
        error_class: The QAPI error class.
    """

    def __init__(self, desc: object, error_class: object = "GenericError") -> None:
        self.desc = as_text(desc)
        self.error_class = as_text(error_class)
        super().__init__(self.desc)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.desc!r}, {self.error_class!r})"


class ParseError(CommandError):
    """Input that is not in QEMU's JSON dialect, or exceeds one of its limits."""


def as_text(value: object) -> str:
    """Return a string as it is, and anything else converted with `str`."""
    return value if type(value) is str else printable(value)


def printable(value: object, convert: Callable[[object], str] = str) -> str:
    """Return `value` as text, also where its own conversion raises, whatever it raises.

    Args:
        value: Any object.
        convert: `str` or `repr`.
    """
    try:
        return "".join(convert(value))  # a plain string, whatever subclass it was
    except BaseException:
        return f"<unprintable {type(value).__name__} object>"
