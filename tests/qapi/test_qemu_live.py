"""The schema language held against a running QEMU: what it introspects and what it refuses.

Runs where ``qemu-system-x86_64`` is installed; what needs QEMU's schema besides runs where
``QEMU_SOURCE`` names the source tree of the same version.
"""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmpserver.qapi import Command, ParameterError, Schema
from qmpserver.qapi.model import AlternateType, ArrayType, EnumType, ObjectType, QType, Type

QEMU = shutil.which("qemu-system-x86_64")
SOURCE = Path(os.environ.get("QEMU_SOURCE", "/nonexistent"))
OURS = Path(__file__).parents[2] / "schema" / "qapi-schema.json"

pytestmark = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")

# What the conditions of QEMU's schema were when Debian built its 7.2.
DEBIAN = (
    "CONFIG_CURSES CONFIG_DBUS_DISPLAY CONFIG_FDT CONFIG_FUSE CONFIG_GBM CONFIG_GTK "
    "CONFIG_LIBPMEM CONFIG_LINUX CONFIG_LINUX_IO_URING CONFIG_OPENGL CONFIG_POSIX "
    "CONFIG_REPLICATION CONFIG_SDL CONFIG_SECRET_KEYRING CONFIG_SPICE CONFIG_SPICE_PROTOCOL "
    "CONFIG_TCG CONFIG_TPM CONFIG_VDUSE_BLK_EXPORT CONFIG_VHOST_CRYPTO "
    "CONFIG_VHOST_USER_BLK_SERVER CONFIG_VNC CONFIG_ZSTD HAVE_HOST_BLOCK_DEVICE "
    "HAVE_IPPROTO_MPTCP TARGET_I386"
)

# Where QEMU 11.0, whose vocabulary is ours, differs from 7.2: what there is more (+) or less (-).
SINCE_7_2 = {
    "query-status": {"-ret.singlestep"},
    "calc-dirty-rate": {"+arg.calc-time-unit"},
    "query-dirty-rate": {"+arg.calc-time-unit", "+ret.calc-time-unit"},
    "query-kvm": {"+features.deprecated"},
    "query-cpus-fast": {
        "+ret[].props.book-id",
        "+ret[].props.drawer-id",
        "+ret[].props.module-id",
        "+ret[]=s390x.dedicated",
        "+ret[]=s390x.entitlement",
        "-ret[]=cris",
        "-ret[]=nios2",
        "-ret[].target:cris",
        "-ret[].target:nios2",
    },
    "query-machines": {"+arg.compat-props", "+ret[].acpi", "+ret[].compat-props"},
    "query-target": {"-ret.arch:cris", "-ret.arch:nios2"},
    "trace-event-get-state": {"-arg.vcpu", "-ret[].vcpu"},
    "trace-event-set-state": {"-arg.vcpu"},
    "query-stats": {
        "+arg.target:cryptodev",
        "+arg=cryptodev",
        "+arg.providers[].provider:cryptodev",
        "+arg.providers[].provider:__org.qmpserver_soft",
        "+ret[].provider:cryptodev",
        "+ret[].provider:__org.qmpserver_soft",
    },
    "query-stats-schemas": {
        "+arg.provider:cryptodev",
        "+arg.provider:__org.qmpserver_soft",
        "+ret[].provider:cryptodev",
        "+ret[].provider:__org.qmpserver_soft",
        "+ret[].target:cryptodev",
    },
}


def _at(place: str, differences: str) -> set[str]:
    """Return differences such as "+name -name", all at one place."""
    return {f"{one[0]}{place}{one[1:]}" for one in differences.split()}


_NEW_STATUSES = "+:failing +:postcopy-device +:postcopy-recover-setup"
_NEW_CAPABILITIES = "+:dirty-limit +:mapped-ram +:switchover-ack -:block -:compress -:zero-blocks"
_NEW_PARAMETERS = (
    "+.avail-switchover-bandwidth +.cpr-exec-command +.direct-io +.mode +.multifd-qatzip-level "
    "+.vcpu-dirty-limit +.x-rdma-chunk-size +.x-vcpu-dirty-limit-period +.zero-page-detection "
    "-.block-incremental -.compress-level -.compress-threads -.compress-wait-thread "
    "-.decompress-threads +.__org.qmpserver_total-time"
)
_NEW_TYPES = "+.tls-{0} +.tls-{0}|null +.tls-{0}|string -.tls-{0}"
MIGRATION_SINCE_7_2 = {
    "MIGRATION": _at("arg.status", _NEW_STATUSES),
    "migrate": _at("arg", "+.channels +.uri -.blk -.detach -.inc -.uri"),
    "migrate-continue": _at("arg.state", _NEW_STATUSES),
    "migrate-incoming": _at("arg", "+.channels +.exit-on-error +.uri -.uri"),
    "migrate-set-capabilities": _at("arg.capabilities[].capability", _NEW_CAPABILITIES),
    "migrate-set-parameters": _at("arg", _NEW_PARAMETERS),
    "query-migrate": _at(
        "ret",
        "+.dirty-limit-ring-full-time +.dirty-limit-throttle-time-per-round +.postcopy-latency "
        "+.postcopy-latency-dist +.postcopy-non-vcpu-latency +.postcopy-vcpu-latency +.remaining "
        "-.compression -.disk -.ram.skipped",
    )
    | _at("ret.status", _NEW_STATUSES)
    | _at("ret.socket-address[]=inet.keep-alive", "+-count +-idle +-interval"),
    "query-migrate-capabilities": _at("ret[].capability", _NEW_CAPABILITIES),
    "query-migrate-parameters": _at("ret", _NEW_PARAMETERS).union(
        *(_at("ret", _NEW_TYPES.format(name)) for name in ("authz", "creds", "hostname"))
    ),
}


class Qemu:
    """A QEMU without a machine, spoken to over its standard input and output."""

    def __init__(self) -> None:
        assert QEMU is not None
        self.process = subprocess.Popen(
            [QEMU, "-machine", "none", "-display", "none", "-qmp", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        greeting = json.loads(self.process.stdout.readline())
        self.version = greeting["QMP"]["version"]
        self.execute("qmp_capabilities")

    def execute(self, command: str, arguments: object = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"execute": command, "arguments": {} if arguments is None else arguments}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        while True:
            reply: dict[str, Any] = json.loads(self.process.stdout.readline())
            if "event" not in reply:
                return reply

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def qemu() -> Iterator[Qemu]:
    qemu = Qemu()
    yield qemu
    qemu.close()


@pytest.fixture(scope="module")
def qemu_schema(qemu: Qemu) -> Schema:
    """QEMU's own schema, read by our library under the conditions of the QEMU that runs."""
    root = SOURCE / "qapi" / "qapi-schema.json"
    version = SOURCE / "VERSION"
    if not root.exists() or "7.2" not in (version.read_text() if version.exists() else str(SOURCE)):
        pytest.skip("QEMU_SOURCE names no source tree of QEMU 7.2")
    numbers = qemu.version["qemu"]
    if (numbers["major"], numbers["minor"]) != (7, 2) or "Debian" not in qemu.version["package"]:
        pytest.skip("QEMU is not Debian's 7.2, whose conditions are known")
    return Schema.load(root, DEBIAN.split())


def test_own_commands_are_introspected_as_qemu_does(qemu: Qemu) -> None:
    theirs = Tree(qemu.execute("query-qmp-schema")["return"])
    ours = Tree(Schema.load(OURS).introspect())
    shared = ours.roots() & theirs.roots()
    assert len(shared) >= 18
    assert {
        name: difference
        for name in shared
        if (difference := _difference(theirs.flat(name), ours.flat(name)))
    } == SINCE_7_2 | MIGRATION_SINCE_7_2


def test_migration_is_introspected_as_by_qemu_11_1() -> None:
    theirs = Tree(json.loads(Path(__file__).with_name("migration-11.1.json").read_text()))
    ours = Tree(Schema.load(OURS).introspect())
    assert len(theirs.roots()) == 11
    for name in theirs.roots():
        added = {one for one in ours.flat(name) if "__org.qmpserver_" in str(one)}
        assert ours.flat(name) - added == theirs.flat(name), name


def test_whole_schema_is_introspected_as_qemu_does(qemu: Qemu, qemu_schema: Schema) -> None:
    theirs = Tree(qemu.execute("query-qmp-schema")["return"])
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
    qemu: Qemu, command: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(ParameterError) as caught:
        Schema.load(OURS).commands[command].validate(arguments)
    assert qemu.execute(command, arguments)["error"]["desc"] == caught.value.desc


def test_whole_schema_refuses_in_qemus_words(qemu: Qemu, qemu_schema: Schema) -> None:
    """Spoil good arguments of each command in one place, and compare what both say."""
    maker = Maker(random.Random(20260101))
    compared = 0
    for name, command in qemu_schema.commands.items():
        if not command.gen:
            continue
        for _ in range(40):
            arguments = maker.spoilt(command.arguments)
            refusal = _refusal(command, arguments)
            # Only what is refused goes out: nothing is ever done.
            if refusal is not None:
                reply = qemu.execute(name, arguments)
                assert reply.get("error", {}).get("desc") == refusal, (name, arguments)
                compared += 1
    assert compared > 3000


def _refusal(command: Command, arguments: dict[str, object]) -> str | None:
    try:
        command.validate(arguments)
    except ParameterError as error:
        return error.desc
    return None


class Tree:
    """Introspection with the names of types resolved."""

    def __init__(self, infos: list[dict[str, Any]]) -> None:
        self._infos = {info["name"]: info for info in infos}

    def roots(self) -> set[str]:
        kinds = ("command", "event")
        return {name for name, info in self._infos.items() if info["meta-type"] in kinds}

    def flat(self, name: str) -> set[str]:
        """Return all that is said of a command or event, a line each."""
        info = self._infos[name]
        lines = {f"oob={info.get('allow-oob', False)}", f"meta={info['meta-type']}"}
        lines.update(f"features.{feature}" for feature in info.get("features", ()))
        for role in ("arg", "ret"):
            if f"{role}-type" in info:
                self._type(info[f"{role}-type"], role, lines, ())
        return lines

    def _type(self, name: str, path: str, lines: set[str], outer: tuple[str, ...]) -> None:
        if name in outer:
            lines.add(f"{path} is {len(outer) - outer.index(name)} levels up")
            return
        info = self._infos[name]
        inner = (*outer, name)
        lines.add(f"{path} is {info.get('json-type', info['meta-type'])}")
        lines.update(f"{path} has {feature}" for feature in info.get("features", ()))
        for value in info.get("values", ()):
            lines.add(f"{path}:{value}")
        if "element-type" in info:
            self._type(info["element-type"], f"{path}[]", lines, inner)
        for member in info.get("members", ()):
            if info["meta-type"] == "enum":
                lines.add(f"{path}:{member['name']} is a value {member.get('features', [])}")
            elif info["meta-type"] == "alternate":
                kind = self._infos[member["type"]]
                self._type(
                    member["type"], f"{path}|{kind.get('json-type', kind['meta-type'])}", lines,
                    inner,
                )  # fmt: skip
            else:
                where = f"{path}.{member['name']}"
                lines.add(f"{where} optional={'default' in member} {member.get('features', [])}")
                self._type(member["type"], where, lines, inner)
        if "tag" in info:
            lines.add(f"{path} by {info['tag']}")
        for variant in info.get("variants", ()):
            self._type(variant["type"], f"{path}={variant['case']}", lines, inner)


def _difference(old: set[str], new: set[str]) -> set[str]:
    """Return the places that came (+) and went (-), without what lies within these places."""
    places = {f"{'+' if line in new else '-'}{line.split(' ')[0]}" for line in old ^ new}
    return {
        place
        for place in places
        if not any(place.startswith((f"{other}:", f"{other}.", f"{other}[")) for other in places)
    }


class Maker:
    """Makes arguments that fit a type, and spoils them in one place."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def spoilt(self, type_: Type) -> dict[str, object]:
        value = self.value(type_, 0)
        assert isinstance(value, dict)
        places = list(self._places(value))
        owner = self._chance.choice(places)
        if isinstance(owner, list):
            owner[self._chance.randrange(len(owner))] = self._anything()
            return value
        names = list(owner)
        how = self._chance.randrange(4) if names else 0
        if how == 0:
            owner["no-such-thing"] = 1
        elif how == 1:
            del owner[self._chance.choice(names)]
        else:
            owner[self._chance.choice(names)] = self._anything()
        return value

    def _places(self, value: object) -> Iterator[Any]:
        if isinstance(value, dict):
            yield value
            for item in value.values():
                yield from self._places(item)
        elif isinstance(value, list) and value:
            yield value
            for item in value:
                yield from self._places(item)

    def _anything(self) -> object:
        return self._chance.choice(
            [None, True, 1.5, -1, 300, 70000, 1 << 32, 1 << 63, (1 << 64) - 1, -(1 << 63), "", "on",
             "bad value", [], [1], {}, {"driver": 1}, {"type": "x"}]
        )  # fmt: skip

    def value(self, type_: Type, depth: int) -> object:
        if isinstance(type_, EnumType | QType):
            return self._chance.choice(type_.values).name
        if isinstance(type_, ArrayType):
            count = self._chance.randrange(3) if depth < 4 else 0
            return [self.value(type_.element, depth + 1) for _ in range(count)]
        if isinstance(type_, AlternateType):
            branches = list(type_.branches.values())
            if depth > 3:
                branches = [one for one in branches if one.type.wire != "object"] or branches
            return self.value(self._chance.choice(branches).type, depth + 1)
        if isinstance(type_, ObjectType):
            return self._object(type_, depth)
        return {
            "string": "text",
            "number": 0.5,
            "int": 7,
            "boolean": False,
            "null": None,
            "value": "anything",
        }[type_.wire]

    def _object(self, type_: ObjectType, depth: int) -> dict[str, object]:
        made: dict[str, object] = {}
        members = list(type_.members)
        for member in members:
            if not member.optional or (depth < 4 and self._chance.random() < 0.3):
                made[member.name] = self.value(member.type, depth + 1)
        if type_.tag is not None:
            branch = type_.branches[str(made[type_.tag.name])].type
            made.update(self.value(branch, depth))  # type: ignore[call-overload]
        return made
