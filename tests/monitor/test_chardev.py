"""What the command line asks for: -chardev, and the short forms of -qmp."""

import pytest

from qmpserver.keyval import OptionError
from qmpserver.monitor import (
    FdAddress,
    FileChardev,
    InetAddress,
    NullChardev,
    PipeChardev,
    SocketChardev,
    StdioChardev,
    UnixAddress,
    parse_chardev,
    parse_device,
)
from qmpserver.monitor.chardev import Chardev


@pytest.mark.parametrize(
    ("text", "chardev"),
    [
        ("unix:/a", SocketChardev(UnixAddress("/a"))),
        ("unix:/a,,b,server=on", SocketChardev(UnixAddress("/a,b"), server=True, wait=True)),
        ("unix:/a,server,nowait", SocketChardev(UnixAddress("/a"), server=True)),
        ("unix:a,abstract=on", SocketChardev(UnixAddress("a", abstract=True))),
        (
            "unix:/a,server=on,wait=off,max-clients=9",
            SocketChardev(UnixAddress("/a"), server=True, max_clients=9),
        ),
        (
            "tcp:localhost:4444,server=on,wait=off,nodelay=on",
            SocketChardev(InetAddress("localhost", "4444"), server=True, nodelay=True),
        ),
        (
            "tcp::4444,server=on,wait=off,ipv4=on,to=4450",
            SocketChardev(InetAddress("", "4444", to=4450, ipv4=True), server=True),
        ),
        (
            "tcp:[::1]:4444,reconnect=3",
            SocketChardev(InetAddress("::1", "4444"), reconnect_ms=3000),
        ),
        ("unix:/a,reconnect-ms=50", SocketChardev(UnixAddress("/a"), reconnect_ms=50)),
        ("fd:3,server=on,wait=off", SocketChardev(FdAddress(3), server=True)),
        ("stdio", StdioChardev()),
        ("null", NullChardev()),
        ("file:/a,b", FileChardev("/a,b")),
        ("pipe:/a", PipeChardev("/a")),
    ],
)
def test_short_forms(text: str, chardev: Chardev) -> None:
    parsed = parse_device(text, "m0")
    assert parsed.id == "m0"
    assert type(parsed) is type(chardev)
    assert parsed == chardev._replace(id="m0")


@pytest.mark.parametrize(
    ("text", "chardev"),
    [
        (
            "socket,id=c,path=/a,server=on,wait=off",
            SocketChardev(UnixAddress("/a"), server=True, id="c"),
        ),
        ("socket,id=c,host=h,port=1", SocketChardev(InetAddress("h", "1"), id="c")),
        ("backend=stdio,signal=off,id=c", StdioChardev(signal=False, id="c")),
        ("file,id=c,path=/a,append=on", FileChardev("/a", append=True, id="c")),
        ("file,id=c,path=/a,mux=off", FileChardev("/a", id="c")),
        ("null,id=c", NullChardev(id="c")),
    ],
)
def test_chardev(text: str, chardev: Chardev) -> None:
    parsed = parse_chardev(text)
    assert type(parsed) is type(chardev)
    assert parsed == chardev


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("null", "chardev: no id specified"),
        ("id=c", 'chardev: "c" missing backend'),
        ("foo,id=c", "'foo' is not a valid char driver name"),
        ("pty,id=c,path=/x", "chardev: 'path' of a pty is not supported by this program"),
        ("vc,id=c", "chardev: 'vc' is not supported by this program"),
        ("file,id=c", "chardev: file: no filename given"),
        ("pipe,id=c", "chardev: pipe: no device path given"),
        ("null,id=c,foo=1", "Invalid parameter 'foo'"),
        ("socket,id=c,path=/a,host=h", "None or one of 'path', 'fd' or 'host' option required."),
        ("socket,id=c,host=h", "chardev: socket: no port given"),
        ("socket,id=c,path=/a,server=1", "Parameter 'server' expects 'on' or 'off'"),
        (
            "socket,id=c,path=/a,wait=on",
            "'wait' option is incompatible with socket in client connect mode",
        ),
        (
            "socket,id=c,path=/a,server=on,reconnect=1",
            "'reconnect' option is incompatible with socket in server listen mode",
        ),
        (
            "socket,id=c,fd=3,reconnect=1",
            "'reconnect' option is incompatible with 'fd' address type",
        ),
        (
            "socket,id=c,path=/a,reconnect=1,reconnect-ms=1000",
            "'reconnect' and 'reconnect-ms' are mutually exclusive",
        ),
        (
            "socket,id=c,path=/a,server=on,reconnect-ms=1",
            "'reconnect-ms' option is incompatible with socket in server listen mode",
        ),
        ("socket,id=c,fd=x", "Unable to parse FD number x"),
        (
            "socket,id=c,path=/a,delay=on,nodelay=on",
            "'delay' and 'nodelay' are mutually exclusive",
        ),
        (
            "socket,id=c,path=/a,telnet=on",
            "chardev: option 'telnet' is not supported by this program",
        ),
        (
            "socket,id=c,path=/a,websocket=on",
            "chardev: option 'websocket' is not supported by this program",
        ),
        (
            "socket,id=c,path=/a,tls-creds=t",
            "chardev: option 'tls-creds' is not supported by this program",
        ),
        (
            "socket,id=c,path=/a,tn3270=on",
            "chardev: option 'tn3270' is not supported by this program",
        ),
        ("null,id=c,mux=on", "chardev: option 'mux' is not supported by this program"),
        ("null,id=c,logfile=/l", "chardev: option 'logfile' is not supported by this program"),
        ("file,id=c,path=/a,input-path=/b", "Invalid parameter 'input-path'"),
    ],
)
def test_refusals(text: str, words: str) -> None:
    with pytest.raises(OptionError) as refusal:
        parse_chardev(text)
    assert str(refusal.value) == words


@pytest.mark.parametrize("text", ["foo", "foo:bar", "/dev/null", ""])
def test_no_device(text: str) -> None:
    with pytest.raises(OptionError) as refusal:
        parse_device(text, "m0")
    assert str(refusal.value) == f"'{text}' is not a valid char driver"


@pytest.mark.parametrize("device", ["unix:,server=on", "unix:,server=on,abstract=on"])
def test_a_socket_without_a_name_is_refused(device: str) -> None:
    """The kernel would choose one in the abstract namespace, where everybody may connect."""
    with pytest.raises(OptionError, match="a UNIX socket needs a path"):
        parse_device(device, "id")
