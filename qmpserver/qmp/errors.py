"""The errors of the protocol.  Only exceptions that end up as QMP error objects live here."""

__all__ = ["CommandError", "ParseError"]


class CommandError(Exception):
    """An error to be reported to the client as a QMP error object.

    A command handler raises it; the session turns it into the reply.

    Args:
        desc: the human-readable message, in QEMU's words where QEMU has some.
        error_class: the QAPI error class.

    """

    def __init__(self, desc: str, error_class: str = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.error_class = error_class

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.desc!r}, {self.error_class!r})"


class ParseError(CommandError):
    """Input that is not in QEMU's JSON dialect, or exceeds one of its limits."""
