"""The schema of each release held against a running QEMU: what it introspects and what it refuses.

What needs QEMU's schema besides runs where ``QEMU_SOURCE`` names the source tree of the same
version.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver.qapi import ParameterError, Schema
from qmpserver.releases import Release, own_schema
from tests.conftest import qemu_programs
from tests.qapi.introspection import Tree
from tests.qapi.made_up import Maker, refusal
from tests.qemu.probe import Qemu

SOURCE = Path(os.environ.get("QEMU_SOURCE", "/nonexistent"))
OWN = "__org.qmpserver_"

# What the conditions of QEMU's schema were when Debian built its 7.2.
DEBIAN = (
    "CONFIG_CURSES CONFIG_DBUS_DISPLAY CONFIG_FDT CONFIG_FUSE CONFIG_GBM CONFIG_GTK "
    "CONFIG_LIBPMEM CONFIG_LINUX CONFIG_LINUX_IO_URING CONFIG_OPENGL CONFIG_POSIX "
    "CONFIG_REPLICATION CONFIG_SDL CONFIG_SECRET_KEYRING CONFIG_SPICE CONFIG_SPICE_PROTOCOL "
    "CONFIG_TCG CONFIG_TPM CONFIG_VDUSE_BLK_EXPORT CONFIG_VHOST_CRYPTO "
    "CONFIG_VHOST_USER_BLK_SERVER CONFIG_VNC CONFIG_ZSTD HAVE_HOST_BLOCK_DEVICE "
    "HAVE_IPPROTO_MPTCP TARGET_I386"
)


@pytest.fixture(scope="module")
def asked(release_qemu: str) -> Iterator[Qemu]:
    """The program of each release."""
    qemu = Qemu(release_qemu)
    yield qemu
    qemu.close()


@pytest.fixture(scope="module")
def debian() -> Iterator[Qemu]:
    """Debian's 7.2, whose conditions are known."""
    program = qemu_programs().get("qemu-7.2")
    if program is None:
        pytest.skip("QEMU 7.2 is not here")
    qemu = Qemu(program)
    yield qemu
    qemu.close()


@pytest.fixture(scope="module")
def qemu_schema(debian: Qemu) -> Schema:
    """QEMU's own schema, read by our library under the conditions of the QEMU that runs."""
    root = SOURCE / "qapi" / "qapi-schema.json"
    version = SOURCE / "VERSION"
    if not root.exists() or "7.2" not in (version.read_text() if version.exists() else str(SOURCE)):
        pytest.skip("QEMU_SOURCE names no source tree of QEMU 7.2")
    if "Debian" not in debian.version["package"]:
        pytest.skip("QEMU is not Debian's, whose conditions are known")
    return Schema.load(root, DEBIAN.split())


def test_own_commands_are_introspected_as_the_release_does(release: Release) -> None:
    theirs = Tree(release.introspection)
    ours = Tree(own_schema(release.name).introspect())
    shared = ours.roots() & theirs.roots()
    assert all(name.startswith(OWN) for name in ours.roots() - shared)
    assert len(shared) >= 57
    for name in shared:
        assert {one for one in ours.flat(name) if OWN not in one} == theirs.flat(name), name


def test_the_recorded_schema_is_the_programs(asked: Qemu, release: Release) -> None:
    recorded = Tree(release.introspection)
    theirs = Tree(asked.execute("query-qmp-schema")["return"])
    assert recorded.roots() == theirs.roots()
    assert all(recorded.flat(name) == theirs.flat(name) for name in theirs.roots())


def test_whole_schema_is_introspected_as_qemu_does(debian: Qemu, qemu_schema: Schema) -> None:
    theirs = Tree(debian.execute("query-qmp-schema")["return"])
    ours = Tree(qemu_schema.introspect())
    assert ours.roots() == theirs.roots()
    assert len(ours.roots()) > 250
    for name in sorted(ours.roots()):
        assert ours.flat(name) == theirs.flat(name), name


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("set-vcpu-dirty-limit", {}),
        ("set-vcpu-dirty-limit", {"dirty-rate": "x"}),
        ("set-vcpu-dirty-limit", {"dirty-rate": 1.5}),
        ("set-vcpu-dirty-limit", {"dirty-rate": None, "cpu-index": True}),
        ("set-vcpu-dirty-limit", {"dirty-rate": 1, "cpu-index": True}),
        ("set-vcpu-dirty-limit", {"dirty-rate": 1, "cpu-index": 1 << 63}),
        ("set-vcpu-dirty-limit", {"dirty-rate": 1, "rate": 1}),
        ("cancel-vcpu-dirty-limit", {"cpu-index": "1"}),
        ("cancel-vcpu-dirty-limit", {"cpu-index": 1, "": 1}),
        ("calc-dirty-rate", {}),
        ("calc-dirty-rate", {"calc-time": 1, "mode": "dirty"}),
        ("calc-dirty-rate", {"calc-time": 1, "mode": ["dirty-ring"]}),
        ("qmp_capabilities", {"enable": ["oob", "x{}"]}),
        ("qmp_capabilities", {"enable": ["oob", 1]}),
        ("qmp_capabilities", {"enable": {}}),
        ("query-status", {"a": 1}),
        ("query-command-line-options", {"option": 1}),
    ],
)
def test_own_commands_refuse_in_qemus_words(
    asked: Qemu, release: Release, command: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(ParameterError) as caught:
        own_schema(release.name).commands[command].validate(arguments)
    assert asked.execute(command, arguments)["error"]["desc"] == caught.value.desc


def test_whole_schema_refuses_in_qemus_words(debian: Qemu, qemu_schema: Schema) -> None:
    """Spoil good arguments of each command in one place, and compare what both say."""
    maker = Maker(random.Random(20260101))
    compared = 0
    for name, command in qemu_schema.commands.items():
        if not command.gen:
            continue
        for _ in range(40):
            arguments = maker.spoilt(command.arguments)
            refused = refusal(command, arguments)
            # Only what is refused goes out: nothing is ever done.
            if refused is not None:
                reply = debian.execute(name, arguments)
                assert reply.get("error", {}).get("desc") == refused, (name, arguments)
                compared += 1
    assert compared > 3000
