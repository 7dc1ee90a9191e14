"""What ends `qmpctl` with a line of text and an exit status to script with."""


class QmpctlError(Exception):
    """It can't be done; the text says why."""

    status = 1


class UsageError(QmpctlError):
    """What was asked for makes no sense."""

    status = 2


class ServerError(QmpctlError):
    """The server can't be reached, or does not speak QMP as it should."""

    status = 3
