"""A stand-in shows and refuses displays as QEMU does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qmpserver.releases import NEWEST
from tests.qemu.probe import link_to_stand_in
from tests.qemu.sessions import Command, Session, hold

if TYPE_CHECKING:
    from pathlib import Path

    from qmpserver.releases import Release

QUERIES: tuple[Command, ...] = (
    ("query-vnc", {}),
    ("query-vnc-servers", {}),
    ("query-spice", {}),
    "info vnc",
    "info spice",
)
SOCKET = {"type": "unix", "path": "other.sock"}


def password(protocol: str, **more: str) -> Command:
    return "set_password", {"protocol": protocol, "password": "x", **more}


def expire(protocol: str, time: str, **more: str) -> Command:
    return "expire_password", {"protocol": protocol, "time": time, **more}


def update(*addresses: dict[str, str]) -> Command:
    return "display-update", {"type": "vnc", "addresses": [*addresses]}


COMMANDS: tuple[Command, ...] = (
    password("vnc"),
    password("vnc", connected="disconnect"),
    password("vnc", connected="keep"),
    password("vnc", display="nope"),
    password("spice"),
    ("change-vnc-password", {"password": "x"}),
    *(expire("vnc", time) for time in ("now", "never", "+5", "1900000000", "x")),
    expire("vnc", "now", display="nope"),
    expire("spice", "now"),
    ("display-reload", {"type": "vnc"}),
    ("display-reload", {"type": "vnc", "tls-certs": True}),
    ("client_migrate_info", {"protocol": "vnc", "hostname": "x"}),
    ("client_migrate_info", {"protocol": "spice", "hostname": "x"}),
    *(f"expire_password {words}" for words in ("vnc now", "foo now", "vnc now -d nope")),
    *(f"set_password {words}" for words in ("foo x", "vnc", "vnc x fail", "vnc x -x")),
)
UPDATES = (update(), *QUERIES, update(SOCKET), *QUERIES)

SESSIONS = {
    "none": Session("", (*QUERIES, *COMMANDS, update())),
    "socket": Session("-vnc unix:v.sock", (*QUERIES, *COMMANDS, *UPDATES)),
    "password": Session(
        "-vnc unix:v.sock,password=on",
        (*QUERIES, *COMMANDS, "change vnc password x", "set_password vnc -d default x", *UPDATES),
    ),
    "nowhere": Session("-vnc none", (*QUERIES, *COMMANDS)),
    "two": Session(
        "-vnc unix:a.sock,id=a -display vnc=unix:b.sock,password=on",
        (*QUERIES, password("vnc"), password("vnc", display="vnc2"), *UPDATES),
    ),
    "secret": Session(
        "-object secret,id=s,data=hello -object tls-creds-anon,id=t,endpoint=server "
        "-vnc unix:v.sock,password-secret=s,tls-creds=t -vnc unix:w.sock,tls-creds=t",
        (*QUERIES, *COMMANDS),
    ),
}
SPICE = {
    "open": Session(
        "-spice unix=on,disable-ticketing=on,addr=s.sock",
        (*QUERIES, *COMMANDS, ("client_migrate_info", {"protocol": "spice", "hostname": "x"})),
    ),
    "secret": Session(
        "-object secret,id=s,data=hello -spice unix=on,addr=s.sock,password-secret=s",
        (*QUERIES, *COMMANDS),
    ),
    "unknown": Session("-spice foo=1"),
    "no number": Session("-spice port=x"),
    "no port": Session("-spice port=99999"),
    "no secret": Session("-spice port=5999,password-secret=nope"),
}
OPTIONS = """
-vnc x
-vnc :x
-vnc localhost:-1
-vnc :60000
-vnc :1,foo=1
-vnc :1,id=1
-vnc none,id=a -vnc none,id=a
-vnc :1,share=foo
-vnc :1,password=x
-vnc :1,to=x
-vnc :1,tls-creds=nope
-vnc :1,password-secret=nope
-object secret,id=s,data=hello -vnc :1,password=on,password-secret=s
-vnc :1,audiodev=nope
-vnc :1,display=nope
-display vnc
-display vnc=:x
""".strip().splitlines()
# With ports, which only one test at a time may take.
PORTS = """
-vnc :98
-vnc :98,ipv4=on
-vnc :98,ipv6=off
-vnc 127.0.0.1:98,websocket=on,sasl=on
-vnc [::1]:98
-vnc localhost:98,websocket=5797
-object tls-creds-anon,id=t,endpoint=server -vnc localhost:98,tls-creds=t,websocket=on
""".strip().splitlines()


@pytest.mark.parametrize("name", SESSIONS)
def test_vnc(name: str, release: Release, release_qemu: str, tmp_path: Path) -> None:
    assert_same(SESSIONS[name], release, release_qemu, tmp_path)


@pytest.mark.parametrize("name", SPICE)
def test_spice(name: str, release: Release, release_qemu: str, tmp_path: Path) -> None:
    said = hold(release_qemu, SPICE["unknown"], tmp_path)
    if "modules-spice" in said[0]:
        pytest.skip("this QEMU has no SPICE")
    assert_same(SPICE[name], release, release_qemu, tmp_path)


@pytest.mark.parametrize("options", OPTIONS)
def test_refused(options: str, newest_qemu: str, tmp_path: Path) -> None:
    assert_same(Session(options), NEWEST, newest_qemu, tmp_path)


@pytest.mark.serial
def test_addresses(newest_qemu: str, tmp_path: Path) -> None:
    for number, options in enumerate(PORTS):
        directory = tmp_path / str(number)
        directory.mkdir()
        assert_same(Session(options, QUERIES), NEWEST, newest_qemu, directory)


def assert_same(session: Session, release: Release, qemu: str, directory: Path) -> None:
    """Have a session with the stand-in as a release, and with its QEMU, and compare them."""
    link = link_to_stand_in(release.name, directory)
    assert hold(link, session, directory) == hold(qemu, session, directory)
