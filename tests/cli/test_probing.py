"""The commands with which a client finds out what this server's machine can be."""

import pytest
from qemu.qmp import ExecuteError

from tests.cli.conftest import Start, execute, hang_up


async def test_types_have_the_properties_of_their_objects(start: Start, accel: str) -> None:
    async with start("-accel", f"{accel},dirty-ring-size=1024", "-m", "64M") as program:
        client = await program.connect()
        (vcpu,) = await execute(client, "query-cpus-fast")
        shown = await execute(client, "qom-list", path=vcpu["qom-path"])
        listed = await execute(client, "qom-list-properties", typename=vcpu["qom-type"])
        assert listed == shown
        device = await execute(client, "device-list-properties", typename=vcpu["qom-type"])
        assert device == [one for one in listed if one["name"].endswith("-id")]
        assert {one["name"] for one in device} == vcpu["props"].keys()
        machine = await execute(client, "qom-list-properties", typename="pc-machine")
        assert [one["name"] for one in machine] == ["type", "memory"]
        # libvirt 11 ends with a segmentation fault if there is no such type.
        pc = await execute(client, "qom-list-properties", typename="generic-pc-machine")
        assert pc == machine
        kinds = await execute(client, "qom-list-types", implements="generic-pc-machine")
        assert {one["name"] for one in kinds} == {"pc-machine", "q35-machine", "isapc-machine"}
        await hang_up(client)


async def test_each_type_is_listed_with_its_properties(start: Start) -> None:
    async with start("-accel", "qtest", "-m", "64M") as program:
        client = await program.connect()
        devices = []
        for one in await execute(client, "qom-list-types", abstract=True):
            found = await execute(client, "qom-list-properties", typename=one["name"])
            assert found[0] == {"name": "type", "type": "string"}
            try:
                await execute(client, "device-list-properties", typename=one["name"])
            except ExecuteError as error:
                assert "expects a non-abstract device type" in str(error)  # noqa: PT017
            else:
                devices.append(one["name"])
        models = await execute(client, "query-cpu-definitions")
        assert devices
        assert {one["typename"] for one in models} <= set(devices)
        others = {name for name in devices if not name.endswith("-x86_64-cpu")}
        assert others == {"isa-serial"}
        await hang_up(client)


async def test_cpu_models_are_those_of_the_option(start: Start, accel: str) -> None:
    async with start("-accel", accel, "-m", "64M", "-cpu", "host") as program:
        client = await program.connect()
        models = await execute(client, "query-cpu-definitions")
        assert [one["name"] for one in models] == ["host", "max"]
        (vcpu,) = await execute(client, "query-cpus-fast")
        assert {one["typename"] for one in models} == {vcpu["qom-type"]}
        await hang_up(client)


async def test_no_vcpu_can_be_added(start: Start) -> None:
    async with start("-accel", "qtest", "-m", "64M") as program:
        client = await program.connect()
        machines = await execute(client, "query-machines")
        assert not any(one["hotpluggable-cpus"] for one in machines)
        with pytest.raises(ExecuteError, match=r"^machine does not support hot-plugging CPUs$"):
            await execute(client, "query-hotpluggable-cpus")
        await hang_up(client)
