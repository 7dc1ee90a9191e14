"""Sockets as QEMU makes them, and its error messages."""

import contextlib
import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmpserver.monitor import DeviceError, FdAddress, InetAddress, UnixAddress, sockets
from qmpserver.monitor.chardev import Address
from qmpserver.monitor.sockets import (
    connect,
    describe,
    describe_listening,
    listen,
    remove,
    socket_file,
)

LINUX = sys.platform == "linux"


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


def test_another_server_between_the_check_and_the_removal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly one of two servers that find a stale file has the path, whenever the other comes."""
    listen(UnixAddress(str(path)), 1).close()
    begun: list[bool] = []
    refused: list[DeviceError] = []
    is_bound = sockets._is_bound

    def interrupted(checked: Any) -> bool:
        bound = is_bound(checked)
        if not begun:
            begun.append(True)
            refused.append(refusal(UnixAddress(str(path))))
        return bound

    monkeypatch.setattr(sockets, "_is_bound", interrupted)
    monkeypatch.setattr(sockets, "_LOCK_PATIENCE", 0.01)
    with listen(UnixAddress(str(path)), 1) as ours:
        words = f"Failed to bind socket to {path}: Address already in use"
        assert [str(error) for error in refused] == [words]
        with connect(UnixAddress(str(path))):
            ours.accept()[0].close()


CONTENDER = """
import sys
from qmpserver.monitor import DeviceError, UnixAddress
from qmpserver.monitor.sockets import listen

kept = []
print("ready", flush=True)
for path in sys.stdin.readline().split():
    try:
        kept.append(listen(UnixAddress(path), 1))
    except DeviceError as error:
        assert "Address already in use" in str(error), error
    else:
        print(path)
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.slow
def test_one_of_several_that_come_at_once(directory: Path, stale: bool) -> None:
    """Processes listen on the same paths at the same time; each path has one winner."""
    paths = [str(directory / str(number)) for number in range(200)]
    if stale:
        for path in paths:
            with socket.socket(socket.AF_UNIX) as ended:
                ended.bind(path)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", CONTENDER], text=True, **pipes)
            )
            for _ in range(4)
        ]
        ends = [(program.stdin, program.stdout) for program in programs]
        for _, output in ends:
            assert output is not None
            assert output.readline() == "ready\n"
        for given, _ in ends:
            assert given is not None
            stack.callback(given.close)
            given.write(" ".join(paths) + "\n")
            given.flush()
        won = [line for _, output in ends if output for line in iter(output.readline, "done\n")]
        assert sorted(line.rstrip() for line in won) == sorted(paths)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any directory")
def test_a_directory_that_cannot_be_locked(path: Path) -> None:
    """A new socket is no problem; a stale one cannot be replaced safely."""
    path.parent.chmod(0o300)
    try:
        listen(UnixAddress(str(path)), 1).close()
        assert "Address already in use" in str(refusal(UnixAddress(str(path))))
    finally:
        path.parent.chmod(0o700)


def test_a_directory_that_somebody_has_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_LOCK_PATIENCE", 0.01)
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        listen(UnixAddress(str(path)), 1).close()
        assert "Address already in use" in str(refusal(UnixAddress(str(path))))
    finally:
        os.close(fd)
    listen(UnixAddress(str(path)), 1).close()


def test_a_file_that_is_no_socket_stays(path: Path) -> None:
    path.write_text("precious")
    words = f"Failed to bind socket to {path}: Address already in use"
    assert str(refusal(UnixAddress(str(path)))) == words
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long() -> None:
    room = 108 if LINUX else 104
    path = "/tmp/".ljust(room, "x")
    error = refusal(UnixAddress(path))
    assert str(error) == f"UNIX socket path '{path}' is too long"
    assert error.hint == f"Path must be less than {room} bytes"


@pytest.mark.skipif(not LINUX, reason="has no abstract namespace")
def test_an_abstract_name_that_is_too_long() -> None:
    error = refusal(UnixAddress("x" * 108, abstract=True))
    assert error.hint == "Path must be less than 107 bytes"


@pytest.mark.skipif(LINUX, reason="has the abstract namespace")
def test_no_abstract_namespace() -> None:
    error = refusal(UnixAddress("x", abstract=True))
    assert str(error) == "UNIX socket 'x': abstract=on is for Linux only"


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


@pytest.mark.skipif(not LINUX, reason="has no abstract namespace")
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
