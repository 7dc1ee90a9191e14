"""Sockets as QEMU makes them, and its error messages."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver.monitor import DeviceError, FdAddress, InetAddress, UnixAddress
from qmpserver.monitor.chardev import Address
from qmpserver.monitor.sockets import (
    connect,
    describe,
    describe_listening,
    listen,
    remove,
    socket_file,
)


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "s"


def refusal(address: Address, *, server: bool = True) -> DeviceError:
    with pytest.raises(DeviceError) as info:
        listen(address, 1) if server else connect(address)
    return info.value


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o000, 0o600), (0o022, 0o600), (0o777, 0o000)])
def test_a_unix_socket_is_private(path: Path, mask: int, mode: int) -> None:
    os.umask(mask)
    listen(UnixAddress(str(path)), 1).close()
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.umask(0) == mask


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(path: Path) -> None:
    listen(UnixAddress(str(path)), 1).close()
    with listen(UnixAddress(str(path)), 1) as live:
        words = f"Failed to bind socket to {path}: Address already in use"
        assert str(refusal(UnixAddress(str(path)))) == words
        # Nobody has knocked at it.
        with pytest.raises(BlockingIOError):
            live.accept()


def test_a_file_that_is_no_socket_stays(path: Path) -> None:
    path.write_text("precious")
    words = f"Failed to bind socket to {path}: Address already in use"
    assert str(refusal(UnixAddress(str(path)))) == words
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long() -> None:
    error = refusal(UnixAddress("/tmp/" + "x" * 103))
    assert str(error) == f"UNIX socket path '/tmp/{'x' * 103}' is too long"
    assert error.hint == "Path must be less than 108 bytes"
    error = refusal(UnixAddress("x" * 108, abstract=True))
    assert error.hint == "Path must be less than 107 bytes"


def test_a_directory_that_is_not_there(path: Path) -> None:
    words = f"Failed to bind socket to {path}/s: No such file or directory"
    assert str(refusal(UnixAddress(f"{path}/s"))) == words


def test_only_our_own_file_is_removed(path: Path) -> None:
    address = UnixAddress(str(path))
    sock = listen(address, 1)
    ours = socket_file(address)
    path.unlink()
    with listen(address, 1) as others:
        remove(sock, ours)
        assert path.exists()
        remove(others, socket_file(address))
        assert not path.exists()


@pytest.mark.parametrize("tight", [True, False])
def test_the_abstract_namespace(tight: bool) -> None:
    address = UnixAddress(f"qmpserver-test-{os.getpid()}", abstract=True, tight=tight)
    with listen(address, 1) as sock:
        name = sock.getsockname()
        assert name.rstrip(b"\0") == b"\0" + address.path.encode()
        assert (len(name) == 108) is not tight
        connect(address).close()
        shown = f"unix:{address.path},abstract=on{',tight=on' if tight else ''}"
        assert describe(address) == shown
        assert describe_listening(sock) == f"{shown},server=on"


def test_tcp_listens_where_it_is_told_only() -> None:
    with listen(InetAddress("127.0.0.1", "0"), 1) as sock:
        host, port = sock.getsockname()
        assert host == "127.0.0.1"
        assert describe_listening(sock) == f"tcp:127.0.0.1:{port},server=on"
        connect(InetAddress("127.0.0.1", str(port))).close()
        taken = refusal(InetAddress("127.0.0.1", str(port)))
        assert str(taken) == "Failed to find an available port: Address already in use"
        # The next port that is free, as far as it was told to look.
        with listen(InetAddress("127.0.0.1", str(port), to=port + 50), 1) as other:
            assert port < other.getsockname()[1] <= port + 50


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_ipv6() -> None:
    with listen(InetAddress("::1", "0"), 1) as sock:
        port = sock.getsockname()[1]
        assert describe_listening(sock) == f"tcp:::1:{port},server=on"
        connect(InetAddress("::1", str(port), ipv6=True)).close()


def test_tcp_refusals() -> None:
    both_off = refusal(InetAddress("", "1", ipv4=False, ipv6=False))
    assert str(both_off) == "Cannot disable IPv4 and IPv6 at same time"
    unknown = refusal(InetAddress("host.invalid", "1"))
    assert str(unknown).startswith("address resolution failed for host.invalid:1: ")
    with listen(InetAddress("127.0.0.1", "0"), 1) as sock:
        port = sock.getsockname()[1]
    gone = refusal(InetAddress("127.0.0.1", str(port)), server=False)
    assert str(gone) == f"Failed to connect to '127.0.0.1:{port}': Connection refused"


def test_unix_connect_refusal(path: Path) -> None:
    error = refusal(UnixAddress(str(path)), server=False)
    assert str(error) == f"Failed to connect to '{path}': No such file or directory"


def test_a_socket_that_was_passed(path: Path) -> None:
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(str(path))
    with listen(FdAddress(passed.detach()), 1) as sock:
        connect(UnixAddress(str(path))).close()
        assert not sock.get_inheritable()


def test_a_descriptor_has_one_owner(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(path))
        address = FdAddress(os.dup(passed.fileno()))
    with listen(address, 1):
        words = f"File descriptor '{address.fd}' is in use by another device"
        assert str(refusal(address)) == words
        assert str(refusal(address, server=False)) == words
    # The number belongs to whatever has it next.
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{path}2")
        os.dup2(other.fileno(), address.fd)
    listen(address, 1).close()


def test_a_descriptor_that_is_no_socket() -> None:
    reader, writer = os.pipe()
    assert str(refusal(FdAddress(reader))) == f"File descriptor '{reader}' is not a socket"
    os.close(reader)
    os.close(writer)


def test_an_invalid_host_name() -> None:
    error = refusal(InetAddress("a..b", "1"))
    assert str(error) == "address resolution failed for a..b:1: Name or service not known"
