"""Command lines: all options, with values of their kinds and others, and option strings.

A command line makes the same settings each time, or is refused with one line. A program that is
started with settings runs until SIGTERM, which ends it at any moment, or ends with one line; it
leaves nothing, and none of its files.
"""

import asyncio
import contextlib
import io
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from qmpserver.cli import unsupported
from qmpserver.cli.commandline import parse_command_line
from qmpserver.cli.options import OPTIONS, PARAMETERS
from qmpserver.cli.run import run
from qmpserver.cli.settings import CommandLineError, Settings
from qmpserver.keyval import Kind, OptionError, parse_options, parse_size, split_options
from qmpserver.monitor import parse_chardev, parse_device
from qmpserver.vm.machine.runstate import Actions
from tests.fuzz.explore import Case
from tests.fuzz.messages import TEXTS

PATIENCE = 60.0
PARSED = 100  # command lines and strings in a case
RUN = 0.1  # the part of the cases with a program
GROUPS = {"smp": "smp-opts", "m": "memory"}
VALUES = {
    Kind.STRING: ["x", "", "on", "a,,b", "none", "file", "socket", "\u00e9", "help", "?"],
    Kind.BOOL: ["on", "off", "yes", "", "true", "1"],
    Kind.NUMBER: ["0", "1", "2", "-1", "18446744073709551615", "0x10", "1.5", "x", ""],
    Kind.SIZE: ["8K", "1M", "1.5G", "0", "16E", "-1", "8b", "x"],
    Kind.SIZE_IN_MIB: ["8", "64", "128M", "1T", "0", "x", "16777216G"],
}
WORDS = ["kvm", "soft", "pc", "q35", "none", "dirty", "stdio", "null", "unix:q,server=on,wait=off",
         "tcp:127.0.0.1:0,server=on,wait=off", "default", "host", "max", "chardev:c0", "defer",
         "sequential", "kvm:soft", "00000000-0000-0000-0000-000000000001"]  # fmt: skip
# Devices that a program may open: no files of others, no other hosts, no descriptors of ours.
DEVICES = ["null", "unix:q1,server=on,wait=off", "unix:q2,server=on", "unix:nowhere", "fd:999",
           "stdio", "tcp:127.0.0.1:0,server=on,wait=off", "file:out",
           "unix:q3,server=on,wait=off,max-clients=3", "tcp:127.0.0.1:1",
           "pipe:nothing"]  # fmt: skip
RUNNABLE = {
    "S": [""],
    "smp": ["1", "2", "cpus=2,maxcpus=4"],
    "m": ["8", "size=16M"],
    "name": ["x", "a,process=b", ""],
    "uuid": ["00000000-0000-0000-0000-000000000001"],
    "guest": ["dirty", "dirty,size=1M,rate=10", "dirty,pattern=random", "dirty,size=1T"],
    "accel": ["soft", "soft,dirty-ring-size=4096", "soft,dirty-ring-size=7", "kvm"],
    "qmp": DEVICES,
    "qmp-pretty": DEVICES,
    "monitor": [*DEVICES, "none"],
    "serial": [*DEVICES, "none"],
    "qtest": DEVICES,
    "hda": ["nowhere", "/dev/null"],
    "chardev": [f"socket,id=c0,path=c{n},server=on,wait=off" for n in range(2)] + ["null,id=c1"],
    "mon": ["c0", "chardev=c0,mode=control", "chardev=c1,mode=readline", "c2", "c0,mode=x"],
    "pidfile": ["pid", ".", "nowhere/pid"],
    "incoming": ["defer", "unix:m", "tcp:127.0.0.1:0", "tcp:127.0.0.1:x", "exec:true", "fd:999",
                 "file:nothing", "file:zero,offset=8", ""],
    "action": ["panic=pause", "reboot=shutdown,shutdown=pause"],
    "trace": ["enable=*", "-kvm_*,file=trace", "nothing"],
    "fake": ["default", "nothing", "default,fault=late-start", "default,log=log"],
    "http": ["127.0.0.1:0", "unix:web", "127.0.0.1:0,token-file=zero"],
    "no-reboot": [""],
    "nodefaults": [""],
    "display": ["none"],
}  # fmt: skip


def make_words(rng: random.Random) -> list[str]:
    """Make up a command line, most of it sensible."""
    words = []
    others = [*unsupported.FLAGS, "display", "rtc", "boot", "sandbox", "cpu", "global", "hda", "x"]
    for _ in range(rng.randint(1, 6)):
        name = rng.choice([*OPTIONS, *OPTIONS, *others])
        words.append(rng.choice(["-", "-", "-", "--"]) + name)
        known = OPTIONS.get(name)
        if (known is not None and known.argument) or (known is None and rng.random() < 0.7):
            words.append(make_value(rng, name))
    if rng.random() < 0.05:
        words.insert(rng.randrange(len(words) + 1), rng.choice(["", "-", "--", "word", "\udcff"]))
    return words


def make_value(rng: random.Random, name: str) -> str:
    """Make up a value of an option."""
    parameters = PARAMETERS.get(GROUPS.get(name, name), {})
    parts = [rng.choice([*WORDS, *RUNNABLE.get(name, [])])] if rng.random() < 0.7 else []
    for _ in range(rng.randrange(4)):
        if parameters and rng.random() < 0.9:
            key = rng.choice(list(parameters))
            value = rng.choice([*VALUES[parameters[key]], *WORDS])
        else:
            key, value = rng.choice(TEXTS[:5]), rng.choice(TEXTS)
        if key in ("events", "token-file", "tls-cert", "tls-key"):
            value = rng.choice(["nothing", "zero", "."])
        parts.append(rng.choice([f"{key}={value}", f"{key}={value}", key, f"no{key}"]))
    return ",".join(parts)


def parse(words: list[str]) -> Settings | str:
    """Return the settings, or the refusal."""
    try:
        return parse_command_line(words)
    except CommandLineError as error:
        shown = str(error)
        assert shown, words
        given = "".join(words)
        assert "\n" not in shown or "\n" in given, shown
        return shown


def told(settings: Settings) -> dict[str, Any]:
    """Return what a command line says, in values that can be compared."""
    return {
        name: vars(value) if isinstance(value, Actions) else value
        for name, value in vars(settings).items()
    }


def check_words(rng: random.Random) -> int:
    """Parse a command line twice."""
    words = make_words(rng)
    first, second = parse(words), parse(words)
    if isinstance(first, Settings) and isinstance(second, Settings):
        first.http = second.http = None  # its token is made up each time
        assert told(first) == told(second), words
    else:
        assert first == second, words
    return 1


def check_strings(rng: random.Random) -> int:
    """Write option strings, and read them again; parse others."""
    pairs = [
        (rng.choice(["a", "b", "long-name"]), rng.choice([*TEXTS, ",", ",,", "a=b,", "x,y=z"]))
        for _ in range(rng.randint(1, 5))
    ]
    text = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in pairs)
    assert [(one.name, one.value) for one in split_options(text)] == pairs, text
    values = [value for some in VALUES.values() for value in some]
    for value in rng.choices([*values, *TEXTS, text], k=4):
        for function in (
            lambda: parse_size("x", value),  # noqa: B023 -- called at once
            lambda: parse_options(value, {"a": Kind.NUMBER, "b": Kind.SIZE}, implied="a"),  # noqa: B023
            lambda: parse_chardev(rng.choice(["socket,", "file,id=x,", ""]) + value),  # noqa: B023
            lambda: parse_device(rng.choice(["tcp:", "unix:", "udp:", ""]) + value, "label"),  # noqa: B023
        ):
            with contextlib.suppress(OptionError):
                function()
    return 17


def check_run(rng: random.Random) -> int:
    """Run a program for a moment; SIGTERM ends it."""
    Path("zero").write_bytes(bytes(100))
    words = [] if rng.random() < 0.2 else ["-accel", "soft", "-m", "8"]
    for _ in range(rng.randint(1, 5)):
        name = rng.choice(list(RUNNABLE))
        words.append(f"-{name}")
        if value := rng.choice(RUNNABLE[name]):
            words.append(value)
        elif name in OPTIONS and OPTIONS[name].argument:
            words.append("")
    settings = parse(words)
    if isinstance(settings, str) or settings.exit_with is not None:
        return 1
    if settings.ram > 128 << 20:
        return 1
    moment = rng.choice([0, 0.0001, 0.001, 0.01])
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, moment))
    except CommandLineError as error:
        assert "\n" not in str(error)  # noqa: PT017 -- either is right
    finally:
        signal.alarm(0)  # a program may see to its own end
    left = {path.name for path in Path().iterdir()} - {"zero", "out", "trace", "log"}
    assert not left, (words, left)
    return 1


async def _run(settings: Settings, moment: float) -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(moment, os.kill, os.getpid(), signal.SIGTERM)
    with contextlib.redirect_stderr(io.StringIO()):
        async with asyncio.timeout(PATIENCE):
            await run(settings)


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Each case has command lines and strings; after some of them, a program runs."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.environ.pop("LISTEN_FDS", None)

    def case(rng: random.Random) -> int:
        inputs = sum(rng.choice([check_words, check_strings])(rng) for _ in range(PARSED))
        return inputs + (check_run(rng) if rng.random() < RUN else 0)

    yield case
