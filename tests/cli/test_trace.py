"""Trace events switched by clients and by people."""

import pytest
from qemu.qmp import ExecuteError

from tests.cli.conftest import Start, execute, hang_up


async def test_switching(start: Start) -> None:
    async with start("-accel", "soft,dirty-ring-size=1024") as program:
        client = await program.connect()

        async def states(name: str) -> dict[str, str]:
            told = await execute(client, "trace-event-get-state", name=name)
            return {event["name"]: event["state"] for event in told}

        async def person(line: str) -> str:
            text: str = await execute(client, "human-monitor-command", command_line=line)
            return text

        assert set((await states("*")).values()) == {"disabled"}
        await execute(client, "trace-event-set-state", name="dirtylimit_set_*", enable=True)
        assert await states("dirtylimit_set_vcpu") == {"dirtylimit_set_vcpu": "enabled"}
        assert await person("info trace-events dirtylimit_set_*") == (
            "dirtylimit_set_vcpu : state 1\r\n"
        )
        assert await person("trace-event dirtylimit_set_vcpu off") == ""
        assert await states("dirtylimit_set_vcpu") == {"dirtylimit_set_vcpu": "disabled"}
        assert await person("trace-event nope on") == 'unknown event "nope"\r\n'
        assert await person("trace-event kvm_run_exit maybe") == (
            "Expected 'on' or 'off'\r\nTry \"help trace-event\" for more information\r\n"
        )
        assert len((await person("info trace-events")).splitlines()) == len(await states("*"))
        with pytest.raises(ExecuteError, match=r'^unknown event "nope"$'):
            await execute(client, "trace-event-get-state", name="nope")
        await hang_up(client)
