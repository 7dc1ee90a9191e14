"""The table of options: its parameters are accepted, with QEMU's types; contradictions are not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qmpserver.cli.assembly import choose_accelerators
from qmpserver.cli.commandline import parse_command_line
from qmpserver.cli.options import OPTIONS, PARAMETERS, WithFake
from qmpserver.cli.settings import CommandLineError
from qmpserver.keyval import Kind, OptionError, parse_options
from qmpserver.monitor import parse_chardev
from qmpserver.vm.commands.misc import TYPES
from qmpserver.vm.machine.options import GUEST
from tests.conftest import qemu_programs

FLAGS = {"smp-opts": "smp", "memory": "m"}
FIRST = {"accel": "kvm", "machine": "pc", "guest": "dirty", "add-fd": "fd=3,set=0"}
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
    "add-fd.fd": "3",
}


def _words(group: str, parameter: str, kind: Kind) -> list[str]:
    value = SPECIAL.get(f"{group}.{parameter}", SPECIAL.get(parameter, VALUES[kind]))
    first = f"{FIRST[group]}," if group in FIRST and parameter != group else ""
    return [f"-{FLAGS.get(group, group)}", f"{first}{parameter}={value}"]


PARSED = sorted(PARAMETERS.keys() - {"chardev", "mon"})  # these are parsed when they are opened


def refusal(words: str) -> CommandLineError:
    with pytest.raises(CommandLineError) as refused:
        parse_command_line(words.split())
    return refused.value


def test_every_group_belongs_to_an_option() -> None:
    assert {FLAGS.get(group, group) for group in PARAMETERS} <= OPTIONS.keys()


def test_guest_and_command_line_have_the_same_parameters() -> None:
    assert PARAMETERS["guest"].keys() == {"guest", *GUEST}


@pytest.mark.parametrize("group", PARSED)
def test_listed_parameters_are_accepted(group: str) -> None:
    for parameter, kind in PARAMETERS[group].items():
        parse_command_line(_words(group, parameter, kind))


def test_listed_parameters_of_chardevs_are_accepted() -> None:
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
    assert str(refusal(words)).endswith(message)
    if qemu := next(iter(qemu_programs().values()), None):
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


def test_memory_is_in_mib_without_a_unit() -> None:
    assert parse_command_line([]).ram == 128 << 20
    assert parse_command_line(["-m", "64"]).ram == 64 << 20
    assert parse_command_line(["-m", "size=65536k"]).ram == 64 << 20
    assert parse_command_line(["-m", "1.5G"]).ram == 1536 << 20
    assert parse_command_line(["-m", "8193B"]).ram == 16384
    with pytest.raises(OptionError):
        parse_options("size=x", {"size": Kind.SIZE_IN_MIB})


def test_types_are_qemus(qemu: str) -> None:
    """A parameter that QEMU has too has QEMU's type."""
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
    # The groups have QEMU's names, but for our own.
    assert PARAMETERS.keys() - {option["option"] for option in options} == {"guest"}
    own = {key for key in ours.keys() - theirs.keys() if key[0] not in ("guest", "accel")}
    # QEMU has the others in some of its releases.
    assert own - {("chardev", "reconnect"), ("chardev", "reconnect-ms"), ("machine", "accel")} == {
        ("chardev", "max-clients")
    }


def test_dashes_and_aliases() -> None:
    assert parse_command_line(["--smp", "3"]).cpus == 3
    assert parse_command_line(["-M", "pc,accel=soft"]).machine_accels == ["soft"]
    assert parse_command_line(["-h"]).exit_with == parse_command_line(["--help"]).exit_with


def test_of_an_option_given_twice_the_last_counts() -> None:
    settings = parse_command_line(["-smp", "3", "-smp", "2", "-name", "a", "-name", "b"])
    assert (settings.cpus, settings.name) == (2, "b")


@pytest.mark.parametrize(
    ("words", "first", "listed"),
    [
        ("-accel help", "Accelerators supported in qmpserver:", "kvm"),
        ("-machine help", "Supported machines are:", "q35                  the same"),
        ("-chardev help", "Available chardev backend types:", "  socket"),
        ("-cpu help", "Available CPUs:", "  max"),
        ("-display ?", "Available display backend types:", "  none"),
    ],
)
def test_help_as_a_value(words: str, first: str, listed: str) -> None:
    shown = parse_command_line(words.split()).exit_with
    assert shown is not None
    lines = shown.splitlines()
    assert lines[0] == first
    assert listed in lines[1:]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-accel kvm -machine accel=soft", 'The -accel and "-machine accel=" options are inc'),
        ("-accel soft -enable-kvm", 'The -accel and "-machine accel=" options are incompatible'),
        ("-machine pc,usb=on", "-machine pc,usb=on: this program has no USB"),
        ("-machine pc,foo=1", "-machine pc,foo=1: Property 'pc-machine.foo' not found"),
        ("-qmp stdio -monitor stdio", "-monitor stdio: cannot use stdio by multiple character dev"),
        ("-chardev stdio,id=a -qmp stdio -daemonize", "-chardev stdio,id=a: cannot use stdio with"),
        ("-uuid {12345678-9abc-def0-1234-56789abcdef0}", "failed to parse UUID string: wrong form"),
        ("-trace events=/nonexistent", "-trace events=/nonexistent: /nonexistent: No such file"),
        (f"-trace events={sys.executable}", f"{sys.executable}: text is not UTF-8"),
        ("-serial mon:stdio", "-serial mon:stdio: this program has no device that a monitor and"),
        ("-serial vc", "-serial vc: chardev: 'vc' is not supported by this program"),
        ("-serial null -serial null", "-serial null: this program has one serial port"),
        ("-serial stdio -qmp stdio", "-qmp stdio: cannot use stdio by multiple character devices"),
        ("-qtest x", "-qtest x: 'x' is not a valid char driver"),
        ("-drive if=virtio,file=x", "only boot sectors of disks; expected if=ide or if=none"),
        ("-drive format=qcow2,file=x", "only boot sectors of disks; expected format=raw"),
        ("-drive id=d", "-drive id=d: this program has only boot sectors of disks; expected file="),
        ("-drive file=x,foo=1", "-drive file=x,foo=1: Invalid parameter 'foo'"),
        ("-device e1000", "this program has no other devices than 'isa-serial' and 'ide-hd'"),
        ("-device isa-serial,chardev=a -serial null", "this program has one serial port"),
        ("-device isa-serial,foo=1", "Property 'isa-serial.foo' not found"),
        ("-device ide-hd", "-device ide-hd: drive property not set"),
        ("-device ide-hd,drive=d", "Property 'ide-hd.drive' can't find value 'd'"),
        ("-hda x -bios y", "-bios cannot be used with -drive: the vCPUs run one of them"),
        ("-cpu Skylake", "-cpu Skylake: the vCPUs are the host's; expected 'host' or 'max'"),
        ("-global foo", "-global foo: Invalid parameter 'foo'"),
        ("-m 65537G", "-m 65537G: invalid RAM size"),
        ("-smp 1025", "-smp 1025: Invalid SMP CPUs 1025; expected 1 to 1024"),
    ],
)
def test_contradictions_and_wrong_values(words: str, message: str) -> None:
    assert message in str(refusal(words))


def test_hints_say_what_would_be_right() -> None:
    assert refusal("-foo").hint == "Use -help for the list of options."
    assert refusal("-machine foo").hint == "Use -machine help to list supported machines"
    assert refusal("-m x").hint.startswith("Optional suffix k, M, G, T, P or E")


@pytest.mark.parametrize(
    ("words", "monitors"),
    [
        ("-nographic", [("monitor", "stdio")]),
        ("-nographic -nodefaults", []),
        ("-nographic -monitor none", []),
        ("-nographic -qmp null", [("qmp", "null")]),
        ("-nographic -daemonize -monitor none -serial none -parallel none", []),
        ("-nographic -help -daemonize", []),
    ],
)
def test_nographic_places_the_monitor(words: str, monitors: list[tuple[str, str]]) -> None:
    assert parse_command_line(words.split()).monitors == monitors


@pytest.mark.parametrize("missing", ["-monitor", "-serial", "-parallel"])
def test_nographic_with_daemonize_needs_every_device_placed(missing: str) -> None:
    words = "-nographic -daemonize -monitor none -serial none -parallel none"
    assert "-nographic cannot be used" in str(refusal(words.replace(f"{missing} none", "")))


@pytest.mark.parametrize(
    ("words", "warnings"),
    [
        ("-global a.b=c", ["-global a.b=c: warning: global a.b=c not used"]),
        (
            "-global driver=a,property=b,value=c",
            ["-global driver=a,property=b,value=c: warning: global a.b=c not used"],
        ),
        ("-sandbox on", ["-sandbox on: warning: this program does not restrict its system calls"]),
        ("-sandbox off", []),
        ("-cpu max,migratable=on -rtc base=utc -k de -no-hpet -serial chardev:x -nic none", []),
    ],
)
def test_options_without_effect(words: str, warnings: list[str]) -> None:
    assert parse_command_line(words.split()).warnings == warnings


@pytest.mark.parametrize("name", OPTIONS)
def test_options_beside_fake(name: str) -> None:
    words = [f"-{name}", "wrong"] if OPTIONS[name].argument else [f"-{name}"]
    match OPTIONS[name].with_fake:
        case WithFake.IGNORED:
            settings = parse_command_line(["-fake", "default", *words])
            assert name in settings.given
            settings.given.remove(name)
            value = words[1] if len(words) == 2 else ""
            assert settings.machine_options.pop() == (name, value)
            assert vars(settings) == vars(parse_command_line(["-fake", "default"]))
        case WithFake.REFUSED:
            with pytest.raises(CommandLineError, match=f"^-{name} cannot be used with -fake, wh"):
                parse_command_line([*words, "--fake", "default"])
        case WithFake.USED:
            assert name not in ("accel", "bios", "guest", "http", "trace", "action", "incoming")


def test_memory_hotplug_beside_fake() -> None:
    words = ["-fake", "default", "-m", "size=1G,slots=2,maxmem=4G"]
    assert parse_command_line(words).ram == 1 << 30
    with pytest.raises(CommandLineError, match="Invalid parameter 'slots'"):
        parse_command_line(words[2:])


@pytest.mark.parametrize(
    ("words", "accelerators"),
    [
        ("", [("kvm", 4096), ("soft", 4096)]),
        ("-enable-kvm", [("kvm", 0)]),
        ("-machine accel=soft:kvm", [("soft", 0), ("kvm", 0)]),
        ("-accel kvm -accel soft,dirty-ring-size=512", [("kvm", 0), ("soft", 512)]),
    ],
)
def test_accelerators_to_try(words: str, accelerators: list[tuple[str, int]]) -> None:
    tried = choose_accelerators(parse_command_line(words.split()))
    assert [(one.name, one.dirty_ring_size) for one in tried] == accelerators


def test_trace_events_from_a_file(tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.write_text("# a comment\nkvm_*\n\n-kvm_run_exit\n")
    settings = parse_command_line(["-trace", f"one,events={events},file=a", "-trace", "enable=two"])
    assert settings.trace == ["one", "kvm_*", "-kvm_run_exit", "two"]
    assert settings.trace_file == "a"


def test_actions_add_up() -> None:
    assert parse_command_line([]).actions is None
    words = "-action reboot=shutdown,panic=none -no-shutdown -watchdog-action pause"
    actions = parse_command_line(words.split()).actions
    assert actions is not None
    assert (actions.reboot, actions.shutdown) == ("shutdown", "pause")
    assert (actions.panic, actions.watchdog) == ("none", "pause")
    actions = parse_command_line(["-no-reboot"]).actions
    assert actions is not None
    assert (actions.reboot, actions.shutdown) == ("shutdown", "poweroff")


def test_character_devices_beside_fake() -> None:
    """A stand-in opens those that a monitor may be on, and connects none but a monitor's."""
    words = "-chardev null,id=n -chardev ringbuf,id=r -chardev socket,id=s,path=/s,server=on"
    words += " -chardev socket,id=c,path=/c -chardev socket,id=m,path=/m -mon chardev=m"
    settings = parse_command_line(["-fake", "default", *words.split()])
    assert [device.id for _, _, device in settings.devices] == ["n", "s", "m"]
    left = [value for option, value in settings.machine_options if option == "chardev"]
    assert left == ["ringbuf,id=r", "socket,id=c,path=/c"]
    with pytest.raises(CommandLineError, match=r"^-chardev null,id=1: Parameter 'id' expects"):
        parse_command_line(["-fake", "default", "-chardev", "null,id=1"])


@pytest.mark.parametrize(
    ("words", "names", "unknown"),
    [
        ("-accel kvm -accel foo", ["kvm"], []),
        ("-accel foo -accel soft", ["soft"], ["-accel foo: invalid accelerator foo"]),
        ("-machine accel=kvm:tcg", ["kvm"], ["invalid accelerator tcg"]),
        ("-machine accel=tcg:qtest", ["qtest"], ["invalid accelerator tcg"]),
    ],
)
def test_unknown_accelerators_are_passed_over(
    words: str, names: list[str], unknown: list[str]
) -> None:
    settings = parse_command_line(words.split())
    assert [one.name for one in choose_accelerators(settings)] == names
    assert settings.unknown_accels == unknown


@pytest.mark.parametrize(
    ("words", "disk"),
    [
        ("-drive file=a,format=raw", "a"),
        ("-hda a -hda b", "a"),
        ("-drive file=a,if=none,id=d", None),
        ("-drive file=a,if=none,id=d -device ide-hd,drive=d,secs=1,cyls=1,heads=1", "a"),
        ("-drive file=a,,b", "a,b"),
    ],
)
def test_the_disk_to_boot_from(words: str, disk: str | None) -> None:
    assert parse_command_line(words.split()).boot_disk == disk


@pytest.mark.parametrize(
    ("value", "monitor"),
    [
        ("monitor-qmp,id=m,chardev=c", "chardev=c,mode=control"),
        ("id=m,chardev=c,pretty=on,qom-type=monitor-qmp", "chardev=c,mode=control,pretty=on"),
        ('{"qom-type": "monitor-hmp", "id": "m", "chardev": "c"}', "chardev=c,mode=readline"),
        ("iothread,id=i", None),
        ("monitor-qmp,id=m", None),
        ("{", None),
    ],
)
def test_monitors_that_are_objects(value: str, monitor: str | None) -> None:
    settings = parse_command_line(["-fake", "default", "-chardev", "null,id=c", "-object", value])
    assert settings.monitors == ([] if monitor is None else [("mon", monitor)])
