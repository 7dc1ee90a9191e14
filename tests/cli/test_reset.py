"""system_reset, set-action and the events around them, on the whole program."""

import asyncio
import random
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from qemu.qmp import EventListener, ExecuteError, QMPClient

from qmpserver.vm.accel.native._native import lib
from tests.cli.conftest import PATIENCE, Program, Start, event, execute, hang_up

RESET = {"guest": False, "reason": "host-qmp-system-reset"}


class Listening(NamedTuple):
    client: QMPClient
    events: EventListener


async def listen(program: Program) -> Listening:
    client = await program.connect()
    events = EventListener()
    client.register_listener(events)
    return Listening(client, events)


async def status(client: QMPClient) -> str:
    answer: dict[str, Any] = await execute(client, "query-status")
    assert answer["running"] == (answer["status"] == "running")
    return cast("str", answer["status"])


async def test_states_and_events(start: Start, machine: list[str]) -> None:
    async with start(*machine, "-S") as program:
        client, events = await listen(program)
        for command, expected, state in (
            ("system_reset", ["RESET"], "prelaunch"),
            ("cont", ["RESUME"], "running"),
            ("system_reset", ["RESET"], "running"),
            ("system_powerdown", ["POWERDOWN"], "running"),
            ("stop", ["STOP"], "paused"),
            ("system_reset", ["RESET"], "prelaunch"),
            ("stop", [], "prelaunch"),
            ("cont", ["RESUME"], "running"),
        ):
            await execute(client, command)
            for name in expected:
                assert await event(events, name) == (RESET if name == "RESET" else None)
            assert events.empty()
            assert await status(client) == state
        await hang_up(client)


@pytest.mark.slow
async def test_reboot_as_shutdown_pauses(start: Start, machine: list[str]) -> None:
    async with start(*machine) as program:
        client, events = await listen(program)
        await execute(client, "set-action", reboot="shutdown", shutdown="pause")
        await execute(client, "system_reset")
        assert await event(events, "SHUTDOWN") == RESET
        await event(events, "STOP")
        assert await status(client) == "shutdown"
        with pytest.raises(ExecuteError, match=r"^Resetting the Virtual Machine is required$"):
            await execute(client, "cont")
        await execute(client, "set-action", reboot="reset")
        await execute(client, "system_reset")
        await event(events, "RESET")
        assert await status(client) == "prelaunch"
        await execute(client, "cont")
        await event(events, "RESUME")
        # `quit` ends it whatever the action is.
        await execute(client, "quit")
        assert await event(events, "SHUTDOWN") == {"guest": False, "reason": "host-qmp-quit"}
        assert await program.wait() == 0
        await hang_up(client)


async def test_reboot_as_shutdown_ends(start: Start, machine: list[str]) -> None:
    async with start(*machine) as program:
        client, events = await listen(program)
        await execute(client, "set-action", reboot="shutdown")
        await execute(client, "system_reset")
        assert await event(events, "SHUTDOWN") == RESET
        assert await program.wait() == 0
        await hang_up(client)


STORM = 400


@pytest.mark.slow
async def test_a_storm_from_two_monitors(start: Start, machine: list[str]) -> None:
    async with start(*machine, socket="server=on,wait=off,max-clients=2") as program:

        async def storm(seed: int) -> None:
            rng = random.Random(seed)
            client = await program.connect()
            for _ in range(STORM):
                command = rng.choice(["system_reset", "stop", "cont", "set", "cancel"])
                if command == "set":
                    rate = rng.choice([1, 50, 1000])
                    await execute(client, "set-vcpu-dirty-limit", dirty_rate=rate)
                elif command == "cancel":
                    await execute(client, "cancel-vcpu-dirty-limit")
                else:
                    await execute(client, command)
            await hang_up(client)

        async with asyncio.timeout(2 * PATIENCE):
            await asyncio.gather(storm(1), storm(2))
        client, events = await listen(program)
        await execute(client, "cancel-vcpu-dirty-limit")
        await execute(client, "system_reset")
        await event(events, "RESET")
        if await status(client) != "running":
            await execute(client, "cont")
        assert await status(client) == "running"
        await execute(client, "set-vcpu-dirty-limit", dirty_rate=50)
        ring: Any = await execute(client, "__org.qmpserver_query-dirty-ring")
        assert len(ring["vcpus"]) == 2
        # quit while the other monitor goes on resetting
        other = await program.connect()

        async def reset_until_the_end() -> None:
            while True:
                await execute(other, "system_reset")

        task = asyncio.create_task(reset_until_the_end())
        for _ in range(20):
            await event(events, "RESET")
        await execute(client, "quit")
        assert await program.wait() == 0
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done()
        assert task.exception()
        await hang_up(other)
        await hang_up(client)


def spoil_code(pid: int) -> None:
    """Overwrite the guest's code with HLT, which is not for user mode."""
    files = Path(f"/proc/{pid}/fd").iterdir()
    ram = next(file for file in files if "qmpserver-ram" in str(file.readlink()))
    with ram.open("r+b") as memory:
        memory.seek(lib.GUEST_CODE)
        memory.write(b"\xf4" * (lib.guest_dirty_code_end - lib.guest_dirty_code))


@pytest.mark.slow
@pytest.mark.parametrize("accel", ["kvm"], indirect=True)
async def test_a_triple_fault_resets(start: Start, machine: list[str]) -> None:
    """The guest's code is overwritten from outside; the reset brings it back."""
    async with start(*machine) as program:
        client, events = await listen(program)
        fault = {"guest": True, "reason": "guest-reset"}
        # Often: the other vCPU may be stopped with its own triple fault pending, which must go.
        for _ in range(100):
            spoil_code(program.process.pid)
            assert await event(events, "RESET") == fault
            for _ in range(20):  # let both run
                assert await status(client) == "running"
            assert events.empty()
        await execute(client, "set-action", reboot="shutdown", shutdown="pause")
        spoil_code(program.process.pid)
        assert await event(events, "SHUTDOWN") == fault
        await event(events, "STOP")
        assert await status(client) == "shutdown"
        await execute(client, "set-action", reboot="reset")
        await execute(client, "system_reset")
        assert await event(events, "RESET") == RESET
        await execute(client, "cont")
        await event(events, "RESUME")
        assert await status(client) == "running"
        await hang_up(client)
