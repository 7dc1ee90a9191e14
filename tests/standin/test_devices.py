"""Devices of a stand-in: their buses, and what leaves together with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import RELEASES
from qmpserver.standin import Scenario
from qmpserver.standin.commandline import machine
from qmpserver.standin.state import budget
from tests.standin.conftest import Raw, Serve

BRIDGES = 1500


async def add(client: Raw, **members: object) -> Any:
    """Return the reply to `device_add`."""
    return await client.execute("device_add", members)


async def test_a_controller_takes_its_devices_along(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        await client.execute("blockdev-add", {"driver": "null-co", "node-name": "n"})
        assert await add(client, driver="virtio-scsi-pci", id="s") == {}
        assert await add(client, driver="scsi-hd", id="disk", drive="n") == {}
        assert await client.execute("device_del", {"id": "s"}) == {}
        deleted = [(await client.event())[1] for _ in range(3)]
        path = "/machine/peripheral/"
        assert deleted == [
            {"device": "disk", "path": f"{path}disk"},
            {"path": f"{path}s/virtio-backend"},
            {"device": "s", "path": f"{path}s"},
        ]
        gone = await add(client, driver="scsi-hd", bus="s.0")
        assert gone == {"class": "GenericError", "desc": "Bus 's.0' not found"}


async def test_bridges_below_bridges(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        bus = "pci.0"
        for number in range(BRIDGES):
            name = f"b{number}"
            assert await add(client, driver="pci-bridge", id=name, chassis_nr=1, bus=bus) == {}
            bus = name
        assert await add(client, driver="usb-kbd") == {
            "class": "GenericError",
            "desc": "No 'usb-bus' bus found for device 'usb-kbd'",
        }
        (root,) = await client.execute("query-pci")
        depth = 0
        while root.get("devices"):
            root, depth = root["devices"][-1].get("pci_bridge", {}), depth + 1
        assert depth > 1
        assert await client.execute("device_del", {"id": "b0"}) == {}
        for _ in range(BRIDGES):
            assert (await client.event())[0] == "DEVICE_DELETED"


async def test_a_machine_that_facts_lack_shows_its_devices_too(
    serve: Serve, tmp_path: Path
) -> None:
    infos = RELEASES["qemu-11.1"].introspection
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(infos))
    async with serve({"schema": str(path)}) as served:
        client = await served.client()
        assert await add(client, driver="e1000", id="e", anything=1) == {}
        assert (await add(client, driver="e1000", addr=[]))["desc"] == (
            "Invalid parameter type for 'addr', expected int or str"
        )
        assert await add(client, driver="of-another-release", addr="x") == {}
        (bus,) = await client.execute("query-pci")
        assert [one["slot"] for one in bus["devices"] if one["qdev_id"] == "e"] == [2]


async def test_a_machine_that_takes_any_device(serve: Serve) -> None:
    async with serve({"machine": {"any-device": True}}) as served:
        client = await served.client()
        await client.execute("blockdev-add", {"driver": "null-co", "node-name": "n"})
        for given in (
            {"driver": "of-a-patched-qemu", "id": "a", "anything": {"of": ["any", 1]}},
            {"driver": "ide-hd", "id": "b", "drive": "n", "bus": "ide.0", "unit": 2},
            {"driver": "virtio-rng-pci", "id": "c", "bus": "pci.9", "addr": "0x5"},
            {"driver": "virtio-rng-pci", "id": "d", "bus": "pci.0", "addr": "0x4.0x1"},
            {"driver": "virtio-rng-pci", "id": "e", "bus": "pci.0", "addr": "0x4", "more": 1},
            {"driver": "virtio-rng-pci", "id": "f", "bus": "pci.0", "addr": "0x4"},
            {"driver": "virtio-rng-pci", "id": "g"},
        ):
            assert await add(client, **given) == {}
        (bus,) = await client.execute("query-pci")
        shown = {one["qdev_id"]: (one["slot"], one["function"]) for one in bus["devices"]}
        assert (shown["d"], shown["f"]) == ((4, 1), (4, 0))
        assert "g" in shown
        assert (await add(client, driver="virtio-rng-pci", bus="pci.0", addr="x"))["desc"] == (
            "Property 'virtio-rng-pci.addr' doesn't take value 'x'"
        )
        (block,) = await client.execute("query-block")
        assert block["qdev"] == "b"
        for name in "abcdefg":
            client.send("device_del", {"id": name})
            await client.reply()
        await client.execute("device_del", {"id": "gone"})
        listed = await client.execute("qom-list", {"path": "/machine/peripheral"})
        assert [one["name"] for one in listed if one["type"].startswith("child<")] == []


async def test_devices_without_an_id(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        assert await add(client, driver="qemu-xhci") == {}
        assert await add(client, driver="usb-kbd", bus="usb-bus.0") == {}
        refused = await client.execute("device_del", {"id": "device[0]"})
        assert refused["desc"] == "Device 'device[0]' not found"


async def test_some_leave_without_the_guest(serve: Serve) -> None:
    async with serve({"machine": {"status": "paused"}}) as served:
        client = await served.client()
        for driver, name in (("qemu-xhci", "x"), ("usb-kbd", "k"), ("e1000", "e")):
            assert await add(client, driver=driver, id=name) == {}
        client.send("device_del", {"id": "k"})
        assert (await client.event())[1]["device"] == "k"
        assert await client.reply() == {"return": {}}
        assert await client.execute("device_del", {"id": "e"}) == {}
        assert await client.silent()


@pytest.mark.parametrize("value", [[], {}, 5, None, True])
async def test_any_json_gets_an_answer(serve: Serve, value: object) -> None:
    """On a machine of the release, and on one that it does not know."""
    for scenario in ({}, {"schema": "qemu-7.2"}):
        async with serve(scenario) as served:
            client = await served.client()
            for driver in ("virtio-net-pci", "virtio-blk-pci", "pc-dimm", "scsi-hd", "VGA"):
                for name in ("id", "bus", "netdev", "drive", "memdev", "mac", "addr", "werror"):
                    reply = await add(client, driver=driver, **{name: value})
                    assert reply == {} or "internal" not in str(reply)
            assert (await client.execute("query-status"))["running"]


async def test_a_machine_without_buses_has_no_implied_devices(serve: Serve) -> None:
    options = [("machine", "none"), ("serial", "null"), ("nic", "user")]
    scenario = Scenario.read({}).on_machine(machine.changes(options))
    async with serve(scenario) as served:
        await served.stand_in.launch(options)
        client = await served.client()
        chardevs = await client.execute("query-chardev")
        assert "serial0" in {one["label"] for one in chardevs}
        refused = await add(client, driver="e1000")
        assert refused["desc"] == "No 'PCI' bus found for device 'e1000'"


async def test_properties_have_types_and_defaults(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        assert await add(client, driver="e1000", id="e", addr="1f") == {}
        path = "/machine/peripheral/e"
        listed = await client.execute("qom-list", {"path": path})
        types = {one["name"]: one["type"] for one in listed}
        assert (types["multifunction"], types["romsize"]) == ("bool", "uint32")
        found = {
            name: await client.execute("qom-get", {"path": path, "property": name})
            for name in ("bootindex", "multifunction", "netdev", "addr")
        }
        assert found == {"bootindex": -1, "multifunction": False, "netdev": "", "addr": 0x1F << 3}


async def test_buses_take_memory(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "KEPT", 50_000)
    async with serve("default") as served:
        client = await served.client()
        for _ in range(3):
            added = 0
            while (reply := await add(client, driver="ich9-ahci", id=f"a{added}")) == {}:
                added += 1
            assert reply["desc"] == "a stand-in keeps 50000 bytes of devices, backends and files"
            assert 5 < added < 20
            for number in range(added):
                client.send("device_del", {"id": f"a{number}"})
                assert (await client.reply()) == {"return": {}}
            assert await add(client, driver="nonsense") != {}  # the last one is gone
        assert served.stand_in._state.budget.take(50_000)
