"""query-stats and query-stats-schemas on a running machine, and beside QEMU on the same kernel."""

import asyncio
import json
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError

from tests.cli.conftest import Start, answer, execute, hang_up

PROVIDER = {"kvm": "kvm", "soft": "__org.qmpserver_soft"}
CPUS = [f"/machine/unattached/device[{index}]" for index in range(2)]


def values(result: dict[str, Any]) -> dict[str, Any]:
    return {stat["name"]: stat["value"] for stat in result["stats"]}


@pytest.mark.slow
async def test_values_agree_with_their_schema(start: Start, machine: list[str], accel: str) -> None:
    async with start(*machine) as program:
        client = await program.connect()
        schemas: Any = await client.execute("query-stats-schemas")
        assert [schema["target"] for schema in schemas] == ["vcpu", "vm"]
        for schema in schemas:
            assert schema["provider"] == PROVIDER[accel]
            results = await execute(client, "query-stats", target=schema["target"])
            paths = [result.get("qom-path") for result in results]
            assert paths == (CPUS[::-1] if schema["target"] == "vcpu" else [None])
            for result in results:
                read = values(result)
                assert list(read) == [stat["name"] for stat in schema["stats"]]
                for stat in schema["stats"]:
                    histogram = stat["type"].endswith("histogram")
                    boolean = stat.get("unit") == "boolean"
                    kind = list if histogram else bool if boolean else int
                    assert type(read[stat["name"]]) is kind, stat
        await hang_up(client)


async def test_they_count(start: Start, machine: list[str], accel: str) -> None:
    name = "exits" if accel == "kvm" else "dirty_pages"
    async with start(*machine) as program:
        client = await program.connect()
        await execute(client, "set-vcpu-dirty-limit", dirty_rate=200)

        async def read() -> Any:
            providers = [{"provider": PROVIDER[accel], "names": [name]}]
            return await execute(
                client, "query-stats", target="vcpu", vcpus=[CPUS[1]], providers=providers
            )

        [result] = await read()
        assert result["qom-path"] == CPUS[1]
        before = values(result)
        assert list(before) == [name]
        await answer(
            client,
            "query-stats",
            lambda results: values(results[0])[name] > before[name],
            target="vcpu",
        )
        await hang_up(client)


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": "vcpu", "vcpus": []},
        {"target": "vcpu", "vcpus": ["/nope"]},
        {"target": "vm", "providers": []},
        {"target": "vm", "providers": [{"provider": "cryptodev"}]},
        {"target": "cryptodev"},
    ],
)
async def test_nothing_is_wanted(start: Start, arguments: dict[str, object]) -> None:
    async with start("-accel", "soft") as program:
        client = await program.connect()
        assert await client.execute("query-stats", arguments) == []
        providers = [{"provider": PROVIDER["soft"], "names": []}]
        assert await execute(client, "query-stats", target="vm", providers=providers) == []
        assert await execute(client, "query-stats-schemas", provider="cryptodev") == []
        with pytest.raises(ExecuteError, match=r"^Parameter 'vcpus' is unexpected$"):
            await execute(client, "query-stats", target="vm", vcpus=[])
        await hang_up(client)


@pytest.mark.slow
async def test_as_qemu_tells_them(start: Start, kvm: None, qemu: str, tmp_path: Path) -> None:
    """The same kernel's statistics, in the same order; what they count differs."""
    options = "-accel kvm -smp 2 -nodefaults -display none -qmp stdio"
    process = await asyncio.create_subprocess_exec(qemu, *options.split(), stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"execute": "qmp_capabilities"}')
    await process.stdout.readline()
    await process.stdout.readline()
    async with start("-accel", "kvm", "-smp", "2") as program:
        client = await program.connect()
        for command, arguments in QUESTIONS:
            process.stdin.write(json.dumps({"execute": command, "arguments": arguments}).encode())
            theirs = json.loads(await process.stdout.readline())["return"]
            if command == "query-stats-schemas":  # this machine has no such device
                theirs = [one for one in theirs if one["provider"] != "cryptodev"]
            assert shape(await client.execute(command, arguments)) == shape(theirs), arguments
        await hang_up(client)
    process.stdin.write(b'{"execute": "quit"}')
    await process.communicate()


QUESTIONS: list[tuple[str, dict[str, object]]] = [
    ("query-stats-schemas", {}),
    ("query-stats-schemas", {"provider": "kvm"}),
    ("query-stats", {"target": "vm"}),
    ("query-stats", {"target": "vcpu"}),
    ("query-stats", {"target": "vm", "providers": [{"provider": "kvm"}] * 2}),
]


def shape(results: Any) -> Any:
    """Results without the values, and without the paths, which depend on what else there is."""
    if results and "target" in results[0]:
        return results
    return [[(s["name"], type(s["value"])) for s in result["stats"]] for result in results]
