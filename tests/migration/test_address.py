"""The addresses that URIs and channels name; `test_recorded.py` has the refusals."""

from typing import Any

import pytest

from qmpserver.migration.address import (
    Address,
    ExecAddress,
    FdAddress,
    FileAddress,
    TcpAddress,
    UnixAddress,
    check_transport,
    parse_address,
    parse_channels,
    parse_uri,
)
from qmpserver.migration.capabilities import Capabilities
from qmpserver.qmp import CommandError

UNIX = {"transport": "socket", "type": "unix", "path": "/x"}


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("unix:/run/a:b,c=d", UnixAddress("/run/a:b,c=d")),
        ("tcp:host:4446", TcpAddress("host", "4446")),
        ("tcp::0", TcpAddress("", "0")),
        ("tcp:[::1]:https", TcpAddress("::1", "https")),
        ("tcp:h:1,to=9,ipv4=off,ipv6", TcpAddress("h", "1", 9, False, True)),
        ("tcp:h:1,,2", TcpAddress("h", "1,2")),
        ("fd:stream", FdAddress("stream")),
        ("fd:7", FdAddress("7")),
        ("exec:cat >/x,y", ExecAddress(("/bin/sh", "-c", "cat >/x,y"))),
        ("file:/x", FileAddress("/x", 0)),
        ("file:/x,y,offset=0x1000", FileAddress("/x,y", 4096)),
        ("file:/x,offset=1.5k", FileAddress("/x", 1536)),
    ],
)
def test_uris(uri: str, address: Address) -> None:
    assert parse_uri(uri) == address
    assert parse_address(uri, [], "source") == parse_address(uri, None, "destination") == address


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (UNIX, UnixAddress("/x")),
        ({**UNIX, "abstract": True}, UnixAddress("\0/x")),
        ({**UNIX, "abstract": False}, UnixAddress("/x")),
        (
            {"transport": "socket", "type": "inet", "host": "h", "port": "1"},
            TcpAddress("h", "1"),
        ),
        (
            {"transport": "socket", "type": "inet", "host": "h", "port": "1", "to": 9,
             "ipv4": True, "ipv6": False},
            TcpAddress("h", "1", 9, True, False),
        ),
        ({"transport": "socket", "type": "fd", "str": "stream"}, FdAddress("stream")),
        ({"transport": "exec", "args": ["/bin/nc", "h"]}, ExecAddress(("/bin/nc", "h"))),
        ({"transport": "file", "filename": "/x,offset=3", "offset": 7},
         FileAddress("/x,offset=3", 7)),
    ],
)  # fmt: skip
def test_channels(given: dict[str, Any], address: Address) -> None:
    channels = [{"channel-type": "main", "addr": given}]
    assert parse_channels(channels) == address
    assert parse_address(None, channels, "destination") == address


def test_the_channel_of_another_mode_is_ignored_by_the_source() -> None:
    channels = [{"channel-type": "cpr", "addr": {}}, {"channel-type": "main", "addr": UNIX}]
    assert parse_channels(channels) == UnixAddress("/x")


@pytest.mark.parametrize(
    ("channels", "refusal"),
    [
        ([{"channel-type": "cpr", "addr": UNIX}], "Channel list must have only one entry"),
        (
            [{"channel-type": "main", "addr": {"transport": "exec", "args": []}}],
            "Parameter 'args' expects a command",
        ),
        (
            [{"channel-type": "main", "addr": {"transport": "rdma", "host": "h", "port": "1"}}],
            "uri is not a valid migration protocol",
        ),
        (
            [{"channel-type": "main",
              "addr": {"transport": "socket", "type": "vsock", "cid": "1", "port": "1"}}],
            "socket family AF_VSOCK unsupported",
        ),
    ],
)  # fmt: skip
def test_what_qemu_fails_at_is_refused(channels: list[dict[str, Any]], refusal: str) -> None:
    """The first two end QEMU 11.1.3; the others are those of a QEMU that was built without."""
    with pytest.raises(CommandError, match=refusal):
        parse_channels(channels)


@pytest.mark.parametrize("uri", ["vsock:3:1", "rdma:host:1"])
def test_protocols_that_are_not_served(uri: str) -> None:
    with pytest.raises(
        CommandError, match=r"AF_VSOCK unsupported|unknown migration protocol: rdma"
    ):
        parse_uri(uri)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("multifd", [False, True])
def test_transports(mapped: bool, multifd: bool) -> None:
    capabilities = Capabilities()
    states = {"mapped-ram": mapped, "multifd": multifd}
    capabilities.set(states, ring=False, under_way=False)
    served = {
        UnixAddress: not mapped,
        TcpAddress: not mapped,
        FdAddress: not mapped and not multifd,
        ExecAddress: not mapped and not multifd,
        FileAddress: mapped or not multifd,
    }
    for uri in ("unix:/x", "tcp:h:1", "fd:x", "exec:x", "file:/x"):
        address = parse_uri(uri)
        try:
            check_transport(address, capabilities)
        except CommandError:
            assert not served[type(address)], uri
        else:
            assert served[type(address)], uri
