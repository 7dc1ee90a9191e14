"""The whole program as a client and an operator see it, on both accelerators."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError

from qmpserver.qapi import Schema
from tests.cli.conftest import PATIENCE, Start, answer, event, execute, hang_up

RING_QUERY = "__org.qmpserver_query-dirty-ring"
SCHEMA = Schema.load(Path(__file__).parents[2] / "schema" / "qapi-schema.json")


@pytest.mark.slow
async def test_every_query_keeps_to_the_schema(start: Start, machine: list[str]) -> None:
    async with start(*machine, "-name", "tested") as program:
        client = await program.connect()
        listed = {command["name"] for command in await execute(client, "query-commands")}
        assert listed == set(SCHEMA.commands)
        others = {"query-stats", "query-hotpluggable-cpus"}  # needs arguments; always refused
        queries = [name for name in listed - others if "query" in name]
        for name in queries:
            SCHEMA.commands[name].validate_result(await execute(client, name))
        assert len(queries) >= 9
        assert await execute(client, "query-name") == {"name": "tested"}
        threads = {cpu["thread-id"] for cpu in await execute(client, "query-cpus-fast")}
        assert threads <= {int(t) for t in os.listdir(f"/proc/{program.process.pid}/task")}
        await hang_up(client)


@pytest.mark.serial
async def test_limits_and_rates(start: Start, machine: list[str]) -> None:
    async with start(*machine) as program:
        client = await program.connect()
        assert await execute(client, "query-vcpu-dirty-limit") == []
        await execute(client, "set-vcpu-dirty-limit", dirty_rate=-1)  # QEMU accepts it
        limits: Any = await execute(client, "query-vcpu-dirty-limit")
        assert {limit["limit-rate"] for limit in limits} == {2**64 - 1}
        await execute(client, "set-vcpu-dirty-limit", dirty_rate=100)
        await execute(client, "set-vcpu-dirty-limit", dirty_rate=20, cpu_index=1)
        await execute(client, "calc-dirty-rate", calc_time=1, mode="dirty-ring")
        with pytest.raises(ExecuteError, match="the dirty rate is already being measured"):
            await execute(client, "calc-dirty-rate", calc_time=1, mode="dirty-ring")
        info = await answer(client, "query-dirty-rate", lambda got: got["status"] == "measured")
        rates = [vcpu["dirty-rate"] for vcpu in info["vcpu-dirty-rate"]]
        assert rates == pytest.approx([100, 20], rel=0.3)
        assert info["dirty-rate"] == sum(rates)

        def hold(limits: Any) -> bool:  # in the end: a busy machine gives a vCPU less
            rates = [limit["current-rate"] for limit in limits]
            return bool(rates == pytest.approx([100, 20], rel=0.3))

        limits = await answer(client, "query-vcpu-dirty-limit", hold)
        assert [limit["limit-rate"] for limit in limits] == [100, 20]
        await execute(client, "set-vcpu-dirty-limit", dirty_rate=0, cpu_index=0)
        limits = await execute(client, "query-vcpu-dirty-limit")
        assert [limit["cpu-index"] for limit in limits] == [1]
        start_ns = time.monotonic_ns()
        await execute(client, "cancel-vcpu-dirty-limit")

        def let_go(ring: Any) -> bool:
            woke: int = ring["reaper"]["last-idle-wake-time"]
            return woke > start_ns and not any(vcpu["throttled"] for vcpu in ring["vcpus"])

        ring = await answer(client, RING_QUERY, let_go)
        assert ring["reaper"]["last-idle-wake-time"] - start_ns < 200_000_000
        assert not ring["in-service"]
        assert ring["reset-shortfalls"] == 0
        await hang_up(client)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (
            "set-vcpu-dirty-limit",
            {"dirty-rate": 5, "cpu-index": 2},
            "incorrect cpu index specified",
        ),
        (
            "set-vcpu-dirty-limit",
            {"dirty-rate": 5, "cpu-index": -1},
            "incorrect cpu index specified",
        ),
        ("set-vcpu-dirty-limit", {}, "Parameter 'dirty-rate' is missing"),
        ("set-vcpu-dirty-limit", {"dirty-rate": 1.5}, "Parameter 'dirty-rate' expects uint64"),
        ("cancel-vcpu-dirty-limit", {"cpu": 1}, "Parameter 'cpu' is unexpected"),
        (
            "calc-dirty-rate",
            {"calc-time": 1, "mode": "dirty-bitmap"},
            "mode dirty-bitmap is not enabled, use other method",
        ),
        ("calc-dirty-rate", {"calc-time": 61}, "Calculation time is out of range"),
        ("no-such-command", {}, "The command no-such-command has not been found"),
    ],
)
async def test_refusals(
    start: Start, command: str, arguments: dict[str, object], words: str
) -> None:
    async with start("-accel", "soft,dirty-ring-size=4096", "-smp", "2") as program:
        client = await program.connect()
        with pytest.raises(ExecuteError, match=words):
            await client.execute(command, arguments)
        if "cancel" not in command:  # without a limit there is nothing to refuse
            assert await execute(client, "query-vcpu-dirty-limit") == []
        await hang_up(client)


@pytest.mark.slow
async def test_no_ring_no_limit(start: Start, accel: str) -> None:
    async with start("-accel", accel) as program:
        client = await program.connect()
        with pytest.raises(ExecuteError, match="requires KVM with accelerator property"):
            await execute(client, "set-vcpu-dirty-limit", dirty_rate=5)
        assert await execute(client, "cancel-vcpu-dirty-limit", cpu_index=7) == {}
        await hang_up(client)


@pytest.mark.slow
async def test_run_states_and_events(start: Start, machine: list[str]) -> None:
    async with start(*machine, "-S") as program:
        client = await program.connect()
        with client.listener() as events:
            assert (await execute(client, "query-status"))["status"] == "prelaunch"
            await execute(client, "cont")
            assert await event(events, "RESUME") is None
            await execute(client, "set-vcpu-dirty-limit", dirty_rate=1)
            for _ in range(5):  # a stop ends a throttle wait
                await execute(client, "stop")
                assert await event(events, "STOP") is None
                assert (await execute(client, "query-status")) == {
                    "status": "paused",
                    "running": False,
                }
                await execute(client, "cont")
                assert await event(events, "RESUME") is None
            await execute(client, "quit")
            assert await event(events, "SHUTDOWN") == {"guest": False, "reason": "host-qmp-quit"}
        assert await program.wait() == 0
        await hang_up(client)


async def test_stop_and_cont_from_two_monitors(start: Start, machine: list[str]) -> None:
    async with start(*machine, socket="server=on,wait=off,max-clients=2") as program:
        one, two = await program.connect(), await program.connect()
        async with asyncio.timeout(PATIENCE):
            for _ in range(30):
                await asyncio.gather(execute(one, "stop"), execute(two, "cont"))
        await hang_up(one)
        await hang_up(two)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_end_it(
    start: Start, machine: list[str], number: signal.Signals, tmp_path: Path
) -> None:
    pidfile = tmp_path / "pid"
    async with start(*machine, "-pidfile", str(pidfile)) as program:
        client = await program.connect()
        assert int(pidfile.read_text()) == program.process.pid
        with client.listener() as events:
            program.signal(number)
            assert await event(events, "SHUTDOWN") == {"guest": False, "reason": "host-signal"}
        assert await program.wait() == 0
        await hang_up(client)
    assert not pidfile.exists()


async def test_a_second_client_waits_ungreeted(start: Start) -> None:
    async with start("-accel", "soft,dirty-ring-size=1024") as program:
        client = await program.connect()
        reader, writer = await asyncio.open_unix_connection(str(program.path))
        greeting = asyncio.create_task(reader.readline())
        await execute(client, "query-status")
        assert not greeting.done()
        await hang_up(client)
        async with asyncio.timeout(PATIENCE):
            assert "QMP" in json.loads(await greeting)
        writer.close()
        await writer.wait_closed()


@pytest.mark.slow
async def test_a_client_vanishes_in_mid_command(start: Start, machine: list[str]) -> None:
    async with start(*machine) as program:
        for tail in (b'{"execute":"stop"}', b'{"execute":"cont"}', b'{"execute":"query-st'):
            plain = socket.socket(socket.AF_UNIX)
            plain.connect(str(program.path))
            plain.sendall(b'{"execute":"qmp_capabilities"}' + tail)
            plain.close()
        client = await program.connect()
        assert (await execute(client, "query-status"))["status"] in ("running", "paused")
        await hang_up(client)


@pytest.mark.slow
async def test_tcp_and_chardev(start: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["-chardev", f"socket,id=c,host=127.0.0.1,port={port},server=on,wait=off"]
    async with start("-accel", "soft", *options, "-mon", "chardev=c,mode=control"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(PATIENCE):
            assert "QMP" in json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()


async def test_qmp_shell(start: Start) -> None:
    async with start("-accel", "soft,dirty-ring-size=1024") as program:
        shell = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("qmp-shell")), str(program.path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": str(program.path.parent)},
        )
        async with asyncio.timeout(PATIENCE):
            said, _ = await shell.communicate(
                b"set-vcpu-dirty-limit dirty-rate=100\nquery-vcpu-dirty-limit\nquit\n"
            )
            assert await program.wait() == 0
        assert b'"limit-rate": 100' in said


async def test_other_users_cannot_connect(start: Start) -> None:
    async with start("-accel", "soft") as program:
        assert program.path.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_kvm_missing(tmp_path: Path) -> None:
    """Without a usable /dev/kvm the default falls back and says so; `-accel kvm` fails."""
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("hiding /dev/kvm needs a mount namespace")
    script = 'test ! -e /dev/kvm || mount --bind /dev/null /dev/kvm; exec "$@"'
    argv = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "qmpserver.cli"]
    argv += ["-qmp", "stdio"]
    quit_ = b'{"execute":"qmp_capabilities"}{"execute":"query-accelerators"}{"execute":"quit"}'
    ran = subprocess.run(argv, input=quit_, capture_output=True, timeout=PATIENCE, check=True)
    assert b'"enabled": "tcg"' in ran.stdout
    assert b"falling back to soft" in ran.stderr
    ran = subprocess.run(
        [*argv, "-accel", "kvm"], capture_output=True, timeout=PATIENCE, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(b"qmpserver: failed to initialize kvm: ")


TOO_LONG = "/tmp/" + "x" * 120


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-foo", "-foo: invalid option"),
        ("image.qcow2", "image.qcow2: this program has no disks"),
        ("-smp", "-smp: requires an argument"),
        ("-smp 0", "-smp 0: Invalid SMP CPUs 0"),
        ("-accel soft -smp 251", "251 vCPUs; expected 1 to 250"),
        ("-accel soft,dirty-ring-size=4095", "dirty-ring-size must be a power of two."),
        ("-accel kvm,dirty-ring-size=x", "Parameter 'dirty-ring-size' expects uint64"),
        ("-accel soft,dirty-ring-size=131072", "a power of two from 128 to 65536"),
        ("-accel kvm,foo=1", "Property 'kvm-accel.foo' not found"),
        ("-accel foo", "-accel foo: invalid accelerator foo"),
        ("-machine accel=foo:bar", "qmpserver: invalid accelerator foo"),
        ("-accel qtest,dirty-ring-size=64", "invalid dirty ring size 64"),
        ("-accel soft,reaper=x", "Parameter 'reaper' does not accept value 'x'"),
        ("-accel soft,dirty-limit=", "Parameter 'dirty-limit' does not accept value ''"),
        ("-m 1M -accel soft", "need 3 MiB of RAM, but the machine has 1 MiB"),
        ("-m 12Q", "Parameter 'size' expects a non-negative number below 2^64"),
        ("-guest foo", "there is no guest 'foo', only 'dirty' and 'stress'"),
        ("-guest stress -accel soft", "runs the guest 'dirty' and no other program"),
        ("-guest dirty,size=1G -accel soft", "need 1026 MiB of RAM, but the machine has 128 MiB"),
        ("-guest dirty,foo=1 -accel soft", "guest dirty: unknown option 'foo'; expected "),
        ("-accel soft -qmp unix:/nonexistent/q,server=on,wait=off", "No such file or directory"),
        (f"-accel soft -qmp unix:{TOO_LONG},server=on,wait=off", "is too long"),
        ("-accel soft -qmp foo", "'foo' is not a valid char driver"),
        (
            "-accel soft -pidfile /nonexistent/pid",
            "cannot create PID file: Could not create '/nonexistent/pid': No such",
        ),
        ("-accel soft -mon chardev=x", 'chardev "x" not found'),
        ("-display gtk", "-display gtk: this program can only do 'none'"),
        ("-cdrom x", "-cdrom x: this program has no disks"),
        ("-accel soft -hda /nonexistent", "Could not open '/nonexistent': No such file"),
        (f"-accel soft -hda {__file__}", "has no boot sector: 512 bytes that end in 55 aa"),
        ("-accel soft -serial chardev:x", '-serial chardev:x: chardev "x" not found'),
        ("-accel soft -qtest unix:/nonexistent/q", "-qtest unix:/nonexistent/q: Failed to connect"),
        ("-kernel x", "-kernel x: this program has no boot loader"),
        ("-monitor vc", "-monitor vc: chardev: 'vc' is not supported by this program"),
        ("-machine foo", "qmpserver: unsupported machine type"),
        ("-uuid x", "-uuid x: failed to parse UUID string: wrong format"),
        ("-action reboot=x", "Parameter 'reboot' does not accept value 'x'"),
        ("-daemonize -qmp stdio", "-qmp stdio: cannot use stdio with -daemonize"),
        ("-daemonize -nographic", "-nographic cannot be used with -daemonize"),
        ("-bios x -guest dirty", "-bios cannot be used with -guest"),
        ("-accel soft -bios x -trace enable=a,foo=1", "Invalid parameter 'foo'"),
        ("-sandbox on,foo=1", "-sandbox on,foo=1: Invalid parameter 'foo'"),
        ("-D /nonexistent/log", "Error opening logfile /nonexistent/log: No such file"),
        ("-accel soft -trace x,file=/nonexistent/t", "-trace file=/nonexistent/t: No such file"),
    ],
)
def test_bad_command_lines(options: str, words: str) -> None:
    refuse(options, words)


def test_firmware_that_is_missing(kvm: None) -> None:
    refuse("-accel kvm -bios /none", "could not load PC BIOS '/none': No such file or directory")


def refuse(options: str, words: str) -> None:
    """Run the program, which must end with these words in its first line."""
    argv = [sys.executable, "-m", "qmpserver.cli", *options.split()]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 1
    assert ran.stdout == ""
    first = ran.stderr.splitlines()[0]
    assert first.startswith("qmpserver: ")
    assert words in first
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("option", "reply"),
    [
        ("-qmp", '\n{"return": {"status": "running", '),
        ("-qmp-pretty", '\n{\n    "return": {\n        "status": "running",\n'),
    ],
)
def test_pretty_replies(option: str, reply: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "qmpserver.cli", "-fake", "default", option, "stdio"],
        input='{"execute":"qmp_capabilities"}{"execute":"query-status"}{"execute":"quit"}',
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert reply in ran.stdout


@pytest.mark.slow
async def test_a_taken_path_is_refused(start: Start) -> None:
    async with start("-accel", "soft") as program:
        argv = [sys.executable, "-m", "qmpserver.cli", "-accel", "soft"]
        argv += ["-qmp", f"unix:{program.path},server=on,wait=off"]
        other = await asyncio.create_subprocess_exec(*argv, stderr=subprocess.PIPE)
        async with asyncio.timeout(PATIENCE):
            _, said = await other.communicate()
        assert other.returncode == 1
        assert b"Failed to bind socket to" in said
        client = await program.connect()
        await hang_up(client)


@pytest.mark.slow
async def test_quit_with_a_limit_in_service(start: Start, machine: list[str]) -> None:
    """The sampling of rates must not outlive the engine."""
    for _ in range(5):
        async with start(*machine) as program:
            client = await program.connect()
            await execute(client, "set-vcpu-dirty-limit", dirty_rate=100)
            await execute(client, "calc-dirty-rate", calc_time=1, mode="dirty-ring")
            await asyncio.sleep(0.08)  # a sample is due about when the engine is freed
            await execute(client, "quit")
            assert await program.wait() == 0
            await hang_up(client)


@pytest.mark.slow
async def test_rates_are_known_while_tracking_is_on(start: Start, machine: list[str]) -> None:
    """The rate of a vCPU without a limit is known, too, without a measurement."""
    async with start(*machine) as program:
        client = await program.connect()
        ring = await execute(client, RING_QUERY)
        assert not any("current-rate" in vcpu for vcpu in ring["vcpus"])
        await execute(client, "set-vcpu-dirty-limit", cpu_index=1, dirty_rate=20)
        ring = await answer(
            client,
            RING_QUERY,
            lambda got: got["tracking"] and got["vcpus"][0].get("current-rate", 0) > 20,
        )
        assert len(ring["vcpus"]) == 2
        await execute(client, "cancel-vcpu-dirty-limit")
        await answer(client, RING_QUERY, lambda got: "current-rate" not in got["vcpus"][0])
        await hang_up(client)
