"""Descriptions of devices, and how to read them from QEMU's command line.

They are the values of `-chardev`, and the short forms that `-qmp` and `-monitor` take.
`opening` makes devices from them; it says how to add a kind.
"""

import re
from typing import NamedTuple

from qmpserver.keyval import Kind, OptionError, Options, kinds, parse_options

__all__ = [
    "CHARDEV_OPTIONS",
    "Address",
    "Chardev",
    "FdAddress",
    "FileChardev",
    "InetAddress",
    "NullChardev",
    "PipeChardev",
    "PtyChardev",
    "SocketChardev",
    "StdioChardev",
    "UnixAddress",
    "UnsupportedError",
    "parse_chardev",
    "parse_device",
]


class UnixAddress(NamedTuple):
    """A UNIX socket: a path, or a name in the abstract namespace."""

    path: str
    abstract: bool = False
    tight: bool = True


class InetAddress(NamedTuple):
    """A TCP address.

    Attributes:
        host: The host, "" for all addresses.
        port: The first port to try.
        to: The last port to try; None for `port` alone.
        ipv4: Whether to use IPv4; None if unsaid. Combined with `ipv6` as in QEMU.
        ipv6: Whether to use IPv6.
    """

    host: str
    port: str
    to: int | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None


class FdAddress(NamedTuple):
    """A socket that the process has inherited."""

    fd: int


Address = UnixAddress | InetAddress | FdAddress


class SocketChardev(NamedTuple):
    """A socket to listen on, or to connect with.

    Attributes:
        address: The address.
        server: Listen instead of connecting.
        wait: With `server`: nothing should start before the first client has connected.
        reconnect_ms: Without `server`: milliseconds until the next attempt; 0 for one attempt.
        nodelay: Send small TCP packets at once.
        max_clients: How many clients are served at a time; more than one is an extension
            of this program.
        id: The device's name.
    """

    address: Address
    server: bool = False
    wait: bool = False
    reconnect_ms: int = 0
    nodelay: bool = False
    max_clients: int = 1
    id: str = ""


class StdioChardev(NamedTuple):
    """Standard input and output; without `signal`, the terminal sends no signals."""

    signal: bool = True
    id: str = ""


class FileChardev(NamedTuple):
    """A file that is only written to."""

    path: str
    append: bool = False
    id: str = ""


class PipeChardev(NamedTuple):
    """The named pipes `path`.in and `path`.out, or one file for both directions."""

    path: str
    id: str = ""


class PtyChardev(NamedTuple):
    """A new pseudo-terminal."""

    id: str = ""


class NullChardev(NamedTuple):
    """No input, and all output is discarded."""

    id: str = ""


Chardev = SocketChardev | StdioChardev | FileChardev | PipeChardev | PtyChardev | NullChardev


class UnsupportedError(OptionError):
    """QEMU has such a character device, this program has not.

    Args:
        what: What is not supported.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"chardev: {what} is not supported by this program")


CHARDEV_OPTIONS = kinds(
    string="backend path host port fd",
    boolean="ipv4 ipv6 wait server delay nodelay signal append tight abstract",
    number="to reconnect reconnect-ms max-clients",
)
# Further options that QEMU accepts with any backend.
_KINDS = CHARDEV_OPTIONS | kinds(
    string="localaddr localport tls-creds tls-authz name chardev logfile",
    boolean="telnet tn3270 websocket mux logappend mouse clipboard",
    number="width height cols rows debug",
    size="size",
)
_UNSUPPORTED = ("telnet", "tn3270", "websocket", "tls-creds", "tls-authz", "mux", "logfile")
# QEMU's other backends, as opposed to words that are not the name of a backend.
_QEMU_BACKENDS = frozenset(
    """braille console dbus hub memory msmouse mux parallel parport qemu-vdagent ringbuf
    serial spiceport spicevmc testdev tty udp vc wctablet""".split()  # noqa: SIM905
)
_HOST_PORT = r"(?:([^:]{1,64}))?:([^,]{1,32})(?:,|$)"
_BRACKETED = r"\[([^\]]{1,64})\]:([^,]{1,32})(?:,|$)"


def parse_chardev(text: str) -> Chardev:
    """Read the value of `-chardev`.

    Raises:
        OptionError: The value is invalid; in QEMU's words where QEMU refuses it, too.
    """
    options = parse_options(text, _KINDS, implied="backend")
    if options.id is None:
        raise OptionError("chardev: no id specified")
    return _chardev(options)


def parse_device(text: str, label: str) -> Chardev:
    """Read a device in the short form that `-qmp` and `-monitor` take.

    Args:
        text: `unix:PATH,..`, `tcp:HOST:PORT,..`, `stdio`, `file:PATH`,
            `pipe:PATH`, `fd:N`, `pty` or `null`.
        label: The name for the device.

    Raises:
        OptionError: The value is invalid; in QEMU's words where QEMU refuses it, too.
    """
    scheme, colon, rest = text.partition(":")
    if text in ("stdio", "null", "pty"):
        options = Options()
        options.set("backend", text)
    elif colon and scheme in ("file", "pipe"):
        options = Options()
        options.set("backend", scheme)
        options.set("path", rest)
    elif colon and scheme == "unix":
        options = parse_options(rest, _KINDS, implied="path")
        options.set("backend", "socket")
    elif colon and scheme == "fd":
        options = parse_options(rest, _KINDS, implied="fd")
        options.set("backend", "socket")
    elif colon and scheme in ("tcp", "telnet", "tn3270", "websocket"):
        match = re.match(_BRACKETED, rest) or re.match(_HOST_PORT, rest)
        if match is None:
            raise OptionError(f"parse error: {text}")
        options = parse_options(rest[match.end() :], _KINDS)
        options.set("backend", "socket")
        options.set("host", match[1] or "")
        options.set("port", match[2])
        if scheme != "tcp":
            options.set(scheme, True)
    elif scheme in _QEMU_BACKENDS:
        raise UnsupportedError(f"'{scheme}'")
    else:
        raise OptionError(f"'{text}' is not a valid char driver")
    options.id = label
    return _chardev(options)


def _chardev(options: Options) -> Chardev:
    name = options.id or ""
    backend = options.string("backend")
    if backend is None:
        raise OptionError(f'chardev: "{name}" missing backend')
    if backend in _QEMU_BACKENDS:
        raise UnsupportedError(f"'{backend}'")
    path = options.string("path")
    chardev: Chardev
    match backend:
        case "socket":
            chardev = _socket(options, name)
        case "stdio":
            chardev = StdioChardev(signal=options.bool("signal", True), id=name)
        case "file":
            if path is None:
                raise OptionError("chardev: file: no filename given")
            chardev = FileChardev(path, append=options.bool("append"), id=name)
        case "pipe":
            if path is None:
                raise OptionError("chardev: pipe: no device path given")
            chardev = PipeChardev(path, id=name)
        case "pty":
            if path is not None:
                raise UnsupportedError("'path' of a pty")
            chardev = PtyChardev(id=name)
        case "null":
            chardev = NullChardev(id=name)
        case _:
            raise OptionError(f"'{backend}' is not a valid char driver name")
    for option in _UNSUPPORTED:
        if option in options and (option not in _SWITCHES or options.bool(option)):
            raise UnsupportedError(f"option '{option}'")
    return chardev


_SWITCHES = frozenset(name for name, kind in _KINDS.items() if kind is Kind.BOOL)


def _socket(options: Options, name: str) -> SocketChardev:
    if sum(kind in options for kind in ("path", "fd", "host")) > 1:
        raise OptionError("None or one of 'path', 'fd' or 'host' option required.")
    if "host" in options and "port" not in options:
        raise OptionError("chardev: socket: no port given")
    if "delay" in options and "nodelay" in options:
        raise OptionError("'delay' and 'nodelay' are mutually exclusive")
    address = _address(options)
    server = options.bool("server")
    # As in QEMU, an option without meaning for this direction is an error.
    for reconnect in ("reconnect", "reconnect-ms"):
        if reconnect in options and isinstance(address, FdAddress):
            raise OptionError(f"'{reconnect}' option is incompatible with 'fd' address type")
        if reconnect in options and server:
            words = "option is incompatible with socket in server listen mode"
            raise OptionError(f"'{reconnect}' {words}")
    if "reconnect" in options and "reconnect-ms" in options:
        raise OptionError("'reconnect' and 'reconnect-ms' are mutually exclusive")
    if not server and "wait" in options:
        raise OptionError("'wait' option is incompatible with socket in client connect mode")
    if not server and "max-clients" in options:
        raise OptionError("'max-clients' option is incompatible with socket in client connect mode")
    max_clients = options.number("max-clients", 1)
    if max_clients < 1:
        raise OptionError("Parameter 'max-clients' expects a positive number")
    return SocketChardev(
        address,
        server=server,
        wait=server and options.bool("wait", True),
        reconnect_ms=options.number("reconnect-ms", options.number("reconnect") * 1000),
        nodelay=options.bool("nodelay") or not options.bool("delay", True),
        max_clients=max_clients,
        id=name,
    )


def _address(options: Options) -> Address:
    path, host, port, fd = map(options.string, ("path", "host", "port", "fd"))
    if path is not None:
        if not path:  # the kernel would choose an abstract name, open to every user
            raise OptionError("a UNIX socket needs a path")
        return UnixAddress(path, options.bool("abstract"), options.bool("tight", True))
    if host is not None and port is not None:
        return InetAddress(
            host,
            port,
            to=options.number("to") if "to" in options else None,
            ipv4=options.bool("ipv4") if "ipv4" in options else None,
            ipv6=options.bool("ipv6") if "ipv6" in options else None,
        )
    if fd is None:
        raise OptionError("chardev: socket: no path, host or fd given")
    if not fd.isdecimal():
        raise OptionError(f"Unable to parse FD number {fd}")
    return FdAddress(int(fd))
