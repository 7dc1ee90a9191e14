"""Each command of the schema on a running server, its result held against the schema.

What someone's own daemon needs is the same loop with its own schema.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError

from qmpserver.cli.options import PARAMETERS
from qmpserver.qapi import Schema
from qmpserver.qapi.validate import ResultError
from tests.cli.conftest import PATIENCE, Start, answer, execute, hang_up

SCHEMA = Schema.load(Path(__file__).parents[2] / "schema" / "qapi-schema.json")
RING_QUERY = "__org.qmpserver_query-dirty-ring"
MACHINE = ("-accel", "soft,dirty-ring-size=1024", "-smp", "2", "-m", "64M", "-name", "tested")

# In this order; what changes the machine is followed by the queries whose results it changes.
CALLS: list[tuple[str, dict[str, object]]] = [
    ("query-version", {}),
    ("query-commands", {}),
    ("query-qmp-schema", {}),
    ("query-command-line-options", {}),
    ("query-command-line-options", {"option": "chardev"}),
    ("query-name", {}),
    ("human-monitor-command", {"command-line": "info cpus", "cpu-index": 0}),
    ("query-chardev", {}),
    ("query-yank", {}),
    ("yank", {"instances": []}),
    ("getfd", {"fdname": "a"}),
    ("closefd", {"fdname": "a"}),
    ("add-fd", {"opaque": "b"}),
    ("query-fdsets", {}),
    ("remove-fd", {"fdset-id": 0}),
    ("query-kvm", {}),
    ("query-accelerators", {}),
    ("query-cpus-fast", {}),
    ("query-stats-schemas", {}),
    ("query-stats", {"target": "vm"}),
    ("query-stats", {"target": "vcpu"}),
    ("query-status", {}),
    ("stop", {}),
    ("query-status", {}),
    ("cont", {}),
    ("query-machines", {}),
    ("query-machines", {"compat-props": True}),
    ("query-target", {}),
    ("query-uuid", {}),
    ("query-memory-size-summary", {}),
    ("query-iothreads", {}),
    ("qom-list", {"path": "/"}),
    ("qom-list", {"path": "/machine/unattached/device[1]"}),
    ("query-block", {}),
    ("query-named-block-nodes", {"flat": True}),
    ("query-jobs", {}),
    ("query-cpu-definitions", {}),
    ("device-list-properties", {"typename": "soft-x86_64-cpu"}),
    ("qom-list-properties", {"typename": "none-machine"}),
    ("qom-list-types", {"implements": "cpu", "abstract": True}),
    ("qom-get", {"path": "/machine", "property": "type"}),
    ("system_reset", {}),
    ("system_powerdown", {}),
    ("set-action", {"panic": "none"}),
    ("watchdog-set-action", {"action": "none"}),
    ("query-dirty-rate", {}),
    ("query-vcpu-dirty-limit", {}),
    (RING_QUERY, {}),
    ("set-vcpu-dirty-limit", {"dirty-rate": 100}),
    ("set-vcpu-dirty-limit", {"cpu-index": 1, "dirty-rate": 20}),
    ("query-vcpu-dirty-limit", {}),
    (RING_QUERY, {}),
    ("cancel-vcpu-dirty-limit", {"cpu-index": 0}),
    ("cancel-vcpu-dirty-limit", {}),
    ("calc-dirty-rate", {"calc-time": 1, "mode": "dirty-ring"}),
    ("query-dirty-rate", {"calc-time-unit": "millisecond"}),
    ("query-migrate-capabilities", {}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}),
    ("query-migrate-parameters", {}),
    ("migrate-set-parameters", {"max-bandwidth": 1 << 20, "__org.qmpserver_total-time": 60_000}),
    ("__org.qmpserver_query-migration-forecast", {}),
    ("migrate", {"uri": "exec:cat >/dev/null"}),
    ("query-migrate", {}),
    ("migrate_cancel", {}),
    ("trace-event-set-state", {"name": "kvm_dirty_*", "enable": False}),
    ("trace-event-get-state", {"name": "*"}),
    ("quit", {}),
]


def test_no_command_is_left_out() -> None:
    # Each connection's start negotiates; two commands need a machine in another state, one fails.
    elsewhere = {
        "qmp_capabilities",
        "migrate-incoming",
        "migrate-continue",
        "query-hotpluggable-cpus",
    }
    assert {name for name, _ in CALLS} == SCHEMA.commands.keys() - elsewhere


@pytest.mark.slow
async def test_results_are_as_declared(start: Start) -> None:
    async with start(*MACHINE) as program:
        client = await program.connect()
        results: dict[str, Any] = {}
        for name, arguments in CALLS:
            if name == "quit":
                # The measurement first, which has more members when it is done.
                info = await answer(
                    client, "query-dirty-rate", lambda got: got["status"] == "measured"
                )
                SCHEMA.commands["query-dirty-rate"].validate_result(info)
                assert len(info["vcpu-dirty-rate"]) == 2
            if name in ("getfd", "add-fd"):
                client.send_fd_scm(0)
            async with asyncio.timeout(PATIENCE):
                results[name] = await client.execute(name, arguments)
            SCHEMA.commands[name].validate_result(results[name])
        # None of these was valid for being empty.
        assert len(results["query-cpus-fast"]) == 2
        assert len(results["query-vcpu-dirty-limit"]) == 2
        assert len(results[RING_QUERY]["vcpus"]) == 2
        assert len(results["query-fdsets"]) == len(results["query-chardev"]) == 1
        assert len(results["query-yank"]) == 1
        assert results["query-qmp-schema"] == SCHEMA.introspect()
        assert {command["name"] for command in results["query-commands"]} == SCHEMA.commands.keys()
        assert await program.wait() == 0
        await hang_up(client)


def test_a_wrong_result_is_caught() -> None:
    """The check itself: a result spoilt anywhere is refused."""
    good: dict[str, Any] = {"status": "running", "running": True}
    check = SCHEMA.commands["query-status"].validate_result
    check(good)
    for name, value in (("status", "asleep"), ("running", 1), ("paused", False)):
        bad = good | {name: value}
        with pytest.raises(ResultError, match=f"command 'query-status' .*'{name}'"):
            check(bad)
    with pytest.raises(ResultError, match="Parameter 'running' is missing"):
        check({"status": "running"})
    with pytest.raises(ResultError, match="command 'stop'"):
        SCHEMA.commands["stop"].validate_result({"stopped": True})


@pytest.mark.slow
async def test_command_line_options(start: Start) -> None:
    async with start(*MACHINE) as program:
        client = await program.connect()
        options: Any = await client.execute("query-command-line-options")
        assert [option["option"] for option in options] == list(PARAMETERS)
        for option in options:
            one = await execute(client, "query-command-line-options", option=option["option"])
            assert one == [option]
        types = {
            f"{option['option']}.{parameter['name']}": parameter["type"]
            for option in options
            for parameter in option["parameters"]
        }
        assert types["accel.dirty-ring-size"] == "number"
        assert types["smp-opts.cpus"] == "number"
        assert types["memory.size"] == "size"
        assert types["name.guest"] == "string"
        assert types["mon.pretty"] == "boolean"
        assert types["chardev.path"] == "string"
        assert "chardev.telnet" not in types  # QEMU's, and refused here
        for name in ("smp", "m", "S", ""):
            with pytest.raises(ExecuteError, match=f"^invalid option name: {name}$"):
                await execute(client, "query-command-line-options", option=name)
        await hang_up(client)
