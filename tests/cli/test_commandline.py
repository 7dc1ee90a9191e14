"""The table of options: what it lists is taken, and QEMU's types agree."""

import json
import shutil
import subprocess

import pytest

from qmpserver.cli.commandline import parse_command_line
from qmpserver.cli.options import OPTIONS, PARAMETERS
from qmpserver.cli.settings import CommandLineError
from qmpserver.keyval import Kind, OptionError, parse_options
from qmpserver.monitor import parse_chardev
from qmpserver.vm.commands.misc import TYPES

FLAGS = {"smp-opts": "smp", "memory": "m"}
FIRST = {"accel": "kvm", "machine": "pc", "guest": "dirty"}
VALUES = {Kind.STRING: "x", Kind.BOOL: "on", Kind.NUMBER: "2", Kind.SIZE: "8K"}
VALUES[Kind.SIZE_IN_MIB] = "8"
SPECIAL = {
    "accel": "kvm",
    "machine.accel": "kvm:soft",
    "machine.type": "pc",
    "guest": "dirty",
    "accel.reaper": "poll",
    "accel.dirty-limit": "qemu",
    "action.reboot": "shutdown",
    "action.shutdown": "pause",
    "action.panic": "exit-failure",
    "action.watchdog": "inject-nmi",
    "trace.events": "/dev/null",
}


def _words(group: str, parameter: str, kind: Kind) -> list[str]:
    value = SPECIAL.get(f"{group}.{parameter}", SPECIAL.get(parameter, VALUES[kind]))
    first = f"{FIRST[group]}," if group in FIRST and parameter != group else ""
    return [f"-{FLAGS.get(group, group)}", f"{first}{parameter}={value}"]


PARSED = sorted(PARAMETERS.keys() - {"chardev", "mon"})  # these are read when they are opened


def test_every_option_of_the_table_is_one() -> None:
    assert {FLAGS.get(group, group) for group in PARAMETERS} <= OPTIONS.keys()


@pytest.mark.parametrize("group", PARSED)
def test_listed_parameters_are_taken(group: str) -> None:
    for parameter, kind in PARAMETERS[group].items():
        parse_command_line(_words(group, parameter, kind))


def test_listed_parameters_of_chardevs_are_taken() -> None:
    texts = (
        "backend=socket,path=x,server=on,wait=off,max-clients=2,abstract=on,tight=off",
        "backend=socket,host=h,port=1,to=2,ipv4=on,ipv6=on,server=on,nodelay=on",
        "backend=socket,host=h,port=1,delay=off,reconnect=1",
        "backend=socket,path=x,reconnect-ms=1500",
        "backend=socket,fd=3",
        "backend=stdio,signal=off",
        "backend=file,path=x,append=on",
    )
    for text in texts:
        parse_chardev(f"{text},id=c")
    taken = {part.partition("=")[0] for text in texts for part in text.split(",")}
    assert taken == PARAMETERS["chardev"].keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-accel kvm,foo=1", "-accel kvm,foo=1: Property 'kvm-accel.foo' not found"),
        ("-accel kvm,dirty-ring-size=x", "Parameter 'dirty-ring-size' expects uint64"),
        ("-smp 2,foo=1", "Parameter 'smp.foo' is unexpected"),
        ("-smp abc", "Parameter 'smp.cpus' expects integer"),
        ("-m 1,foo=2", "-m 1,foo=2: Invalid parameter 'foo'"),
        ("-m abc", "Parameter 'size' expects a non-negative number below 2^64"),
        ("-name a,foo=1", "-name a,foo=1: Invalid parameter 'foo'"),
        ("-name a,debug-threads=maybe", "Parameter 'debug-threads' expects 'on' or 'off'"),
    ],
)
def test_refusals(words: str, message: str) -> None:
    with pytest.raises(CommandLineError) as refusal:
        parse_command_line(words.split())
    assert str(refusal.value).endswith(message)
    if qemu := shutil.which("qemu-system-x86_64"):
        argv = [qemu, "-display", "none", "-S", *words.split()]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        assert ended.stderr.splitlines()[0].endswith(message)


@pytest.mark.parametrize(
    ("value", "cpus"),
    [
        ("3", 3),
        ("cpus=3,maxcpus=8", 3),
        ("maxcpus=8", 8),
        ("2,sockets=2,dies=1,cores=1,threads=1", 2),
        ("sockets=2,cores=3,threads=2", 12),
    ],
)
def test_number_of_vcpus(value: str, cpus: int) -> None:
    assert parse_command_line(["-smp", value]).cpus == cpus


def test_memory_is_in_mib_where_no_unit_is_given() -> None:
    assert parse_command_line(["-m", "64"]).ram == 64 << 20
    assert parse_command_line(["-m", "size=65536k"]).ram == 64 << 20
    with pytest.raises(OptionError):
        parse_options("size=x", {"size": Kind.SIZE_IN_MIB})


def test_types_are_qemus() -> None:
    """Where both have a parameter, both say it takes the same."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    commands = ("qmp_capabilities", "query-command-line-options", "quit")
    ended = subprocess.run(
        [qemu, "-machine", "none", "-display", "none", "-qmp", "stdio"],
        input="".join(json.dumps({"execute": command}) + "\n" for command in commands),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    (options,) = (
        reply["return"]
        for reply in map(json.loads, ended.stdout.splitlines())
        if isinstance(reply.get("return"), list)
    )
    theirs = {
        (option["option"], one["name"]): one["type"]
        for option in options
        for one in option["parameters"]
    }
    ours = {
        (group, name): TYPES[kind]
        for group, listed in PARAMETERS.items()
        for name, kind in listed.items()
    }
    shared = ours.keys() & theirs.keys()
    assert len(shared) >= 30
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
    # The groups have QEMU's names; what is beyond them is our own.
    assert PARAMETERS.keys() - {option["option"] for option in options} == {"guest"}
    assert {key for key in ours.keys() - theirs.keys() if key[0] not in ("guest", "accel")} == {
        ("chardev", "max-clients"),
        ("chardev", "reconnect-ms"),  # QEMU's since 9.2
    }
