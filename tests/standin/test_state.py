"""The simulated state of the machine: how commands affect each other."""

import asyncio
import base64
import os
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import NEWEST, Release
from qmpserver.standin import Scenario
from qmpserver.standin.state.block.graph import MAX_LAYERS
from tests.qemu.probe import Qemu
from tests.standin.conftest import Raw, Serve

NODE = {"driver": "null-co", "node-name": "n"}


async def do(client: Raw, text: str, **arguments: Any) -> Any:
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    return await client.execute(text, named or None)


async def test_run_states(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        client.send("stop")
        client.send("stop")
        client.send("cont")
        said = [(await client.receive()).get("event", "reply") for _ in range(5)]
        assert said == ["STOP", "reply", "reply", "RESUME", "reply"]
        client.send("system_reset")
        assert await client.event() == (
            "RESET",
            {"guest": False, "reason": "host-qmp-system-reset"},
        )


@pytest.mark.parametrize("status", ["shutdown", "paused", "postmigrate"])
async def test_after_a_reset_a_stopped_machine_is_new(serve: Serve, status: str) -> None:
    async with serve({"machine": {"status": status}}) as served:
        client = await served.client()
        if status == "shutdown":
            refused = await do(client, "cont")
            assert refused["desc"] == "Resetting the Virtual Machine is required"
        assert await do(client, "system_reset") == {}
        assert (await do(client, "query-status"))["status"] == "prelaunch"
        assert await do(client, "cont") == {}
        assert (await do(client, "query-status"))["running"]


async def test_the_human_monitor(serve: Serve) -> None:
    async with serve({"machine": {"name": "vm", "status": "prelaunch"}}) as served:
        client = await served.client()

        async def human(line: str) -> Any:
            return await do(client, "human-monitor-command", command_line=line)

        assert await human("info status") == "VM status: paused (prelaunch)\r\n"
        assert await human("c") == ""
        assert await human("info status") == "VM status: running\r\n"
        assert await human("info name") == "vm\r\n"
        assert await human("info version") == f"{NEWEST.version}\r\n"
        assert await human("info uuid") == "00000000-0000-0000-0000-000000000000\r\n"
        assert await human("device_del x") == "Error: Device 'x' not found\r\n"
        assert await human("savevm x") == ""
        assert "stop|s" in await human("help")
        assert "uuid" in await human("info")
        await human("q")
        assert served.stand_in.finished.is_set()


async def test_actions(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        await do(client, "set-action", reboot="shutdown", shutdown="pause")
        reset = {"guest": False, "reason": "host-qmp-system-reset"}
        client.send("system_reset")
        assert [await client.event() for _ in range(2)] == [("SHUTDOWN", reset), ("STOP", None)]
        assert await client.reply() == {"return": {}}
        assert (await do(client, "query-status"))["status"] == "shutdown"
        await do(client, "set-action", shutdown="poweroff")
        await do(client, "system_reset")
        assert served.stand_in.finished.is_set()


async def test_a_guest_that_shuts_down_when_asked(serve: Serve) -> None:
    async with serve({"machine": {"powerdown-time": 0.01}}) as served:
        client = await served.client()
        client.send("system_powerdown")
        said = [await client.event(), await client.receive(), await client.event()]
        assert said == [
            ("POWERDOWN", None),
            {"return": {}},
            ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}),
        ]


async def test_hotplug(serve: Serve) -> None:
    async with serve({"machine": {"unplug-time": 60}}) as served:
        client = await served.client()
        assert await do(client, "netdev_add", type="user", id="net0") == {}
        nic = {"driver": "virtio-net-pci", "netdev": "net0", "id": "nic0", "addr": "0x5.0x1"}
        assert await do(client, "device_add", **nic) == {}
        (bus,) = await do(client, "query-pci")
        (shown,) = [one for one in bus["devices"] if one["qdev_id"] == "nic0"]
        assert (shown["slot"], shown["function"]) == (5, 1)
        assert shown["class_info"] == {"class": 512, "desc": "Ethernet controller"}
        listed = await do(client, "qom-list", path="/machine/peripheral")
        assert {"name": "nic0", "type": "child<virtio-net-pci>"} in listed
        assert await do(client, "qom-get", path="/machine/peripheral/nic0", property="netdev")
        assert await do(client, "device_del", id="nic0") == {}
        assert await do(client, "device_del", id="nic0") == {}  # the guest is asked again
        client.send("system_reset")  # a reset guest releases its devices
        assert (await client.event())[0] == "RESET"
        assert (await client.event())[1] == {"path": "/machine/peripheral/nic0/virtio-backend"}
        assert (await client.event())[1]["device"] == "nic0"
        assert await client.reply() == {"return": {}}
        assert (await do(client, "device_del", id="nic0"))["class"] == "DeviceNotFound"
        assert await do(client, "netdev_del", id="net0") == {}


async def test_devices_without_an_id(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        await do(client, "device_add", driver="e1000", id="named")
        again = await do(client, "device_add", driver="e1000", id="named")
        assert again["desc"] == "Duplicate device ID 'named'"
        await do(client, "device_add", driver="e1000")
        client.send("device_del", {"id": "named"})
        assert await client.receive() == {"return": {}}
        assert (await client.event())[0] == "DEVICE_DELETED"
        await do(client, "device_add", driver="e1000")
        (bus,) = await do(client, "query-pci")
        assert [one["class_info"]["class"] for one in bus["devices"]].count(0x0200) == 2


async def test_a_stopped_guest_releases_nothing(serve: Serve) -> None:
    async with serve({"machine": {"status": "paused"}}) as served:
        client = await served.client()
        await do(client, "device_add", driver="e1000", id="n")
        assert await do(client, "device_del", id="n") == {}
        again = await do(client, "device_del", id="n")
        assert again["desc"] == "Device n is already in the process of unplug"
        client.send("cont")
        said = [(await client.receive()).get("event", "reply") for _ in range(3)]
        assert said == ["RESUME", "reply", "DEVICE_DELETED"]


async def test_a_reset_ends_an_unplug(serve: Serve) -> None:
    async with serve({"machine": {"unplug-time": 60}}) as served:
        client = await served.client()
        await do(client, "device_add", driver="e1000", id="n")
        await do(client, "device_del", id="n")
        client.send("system_reset")
        assert [(await client.event())[0] for _ in range(2)] == ["RESET", "DEVICE_DELETED"]


async def test_memory_hotplug(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        size = 1 << 30
        await do(client, "object-add", qom_type="memory-backend-ram", id="m0", size=size)
        assert await do(client, "device_add", driver="pc-dimm", id="d0", memdev="m0") == {}
        (dimm,) = await do(client, "query-memory-devices")
        assert dimm["data"]["memdev"] == "/objects/m0"
        assert dimm["data"]["size"] == size
        summary = await do(client, "query-memory-size-summary")
        assert summary["plugged-memory"] == size
        refused = await do(client, "object-del", id="m0")
        assert refused["desc"] == "Cannot delete host memory backend 'm0' which is mapped"
        await do(client, "device_del", id="d0")
        assert (await client.event())[0] == "DEVICE_DELETED"
        assert await do(client, "object-del", id="m0") == {}


async def test_chardevs(serve: Serve, tmp_path: Path) -> None:
    async with serve("default") as served:
        client = await served.client()
        address = {"type": "unix", "data": {"path": str(tmp_path / "x")}}
        backend = {"type": "socket", "data": {"addr": address, "wait": False}}
        assert await do(client, "chardev-add", id="c0", backend=backend) == {}
        pty = await do(client, "chardev-add", id="c1", backend={"type": "pty", "data": {}})
        assert stat.S_ISCHR(os.stat(pty["pty"]).st_mode)
        shown = {one["label"]: one for one in await do(client, "query-chardev")}
        assert shown["c0"]["filename"] == f"disconnected:unix:{tmp_path}/x,server=on"
        assert shown["c1"]["filename"] == f"pty:{pty['pty']}"
        assert shown["compat_monitor0"]["frontend-open"]
        busy = await do(client, "chardev-remove", id="compat_monitor0")
        assert busy["desc"] == "Chardev 'compat_monitor0' is busy"
        assert await do(client, "chardev-remove", id="c0") == {}
        (kept,) = [one for one in await do(client, "query-chardev") if one["label"] == "c1"]
        assert kept["filename"] == f"pty:{pty['pty']}"
        second = await do(client, "chardev-add", id="c2", backend={"type": "pty", "data": {}})
        assert second["pty"] != pty["pty"]


async def test_passed_descriptors(serve: Serve) -> None:
    async with serve("default") as served:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(served.path))
            message = b'{"execute": "qmp_capabilities"} {"execute": "getfd", "arguments": '
            socket.send_fds(client, [message + b'{"fdname": "tap0"}}'], [client.fileno()])
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            said = b""
            while said.count(b"\n") < 3:
                said += await loop.sock_recv(client, 4096)
        assert said.endswith(b'{"return": {}}\r\n{"return": {}}\r\n')


async def test_balloon(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        inactive = await do(client, "query-balloon")
        assert inactive["class"] == "DeviceNotActive"
        await do(client, "device_add", driver="virtio-balloon-pci", id="b")
        assert await do(client, "query-balloon") == {"actual": 128 << 20}
        client.send("balloon", {"value": 64 << 20})
        assert await client.event() == ("BALLOON_CHANGE", {"actual": 64 << 20})
        assert await client.receive() == {"return": {}}
        assert await do(client, "query-balloon") == {"actual": 64 << 20}


async def test_iothreads(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        await do(client, "object-add", qom_type="iothread", id="io0")
        assert [one["id"] for one in await do(client, "query-iothreads")] == ["io0"]


async def test_block_nodes(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        file = {"driver": "file", "filename": "/images/a.raw", "node-name": "f"}
        assert await client.execute("blockdev-add", file) == {}
        assert await do(client, "blockdev-add", driver="raw", file="f", node_name="d") == {}
        in_use = await do(client, "blockdev-del", node_name="f")
        assert in_use["desc"] == "Block device f is in use"
        await do(client, "device_add", driver="virtio-blk-pci", drive="d", id="vda")
        (block,) = await do(client, "query-block")
        assert block["inserted"]["file"] == "/images/a.raw"
        in_use = await do(client, "blockdev-del", node_name="d")
        assert in_use["desc"] == "Node d is in use"
        assert await do(client, "block_resize", node_name="d", size=1 << 31) == {}
        nodes = await do(client, "query-named-block-nodes")
        assert [one["node-name"] for one in nodes] == ["d", "f"]
        assert nodes[0]["image"]["virtual-size"] == 1 << 31


async def test_sizes_of_images(serve: Serve, tmp_path: Path) -> None:
    disk, pipe = tmp_path / "disk.img", tmp_path / "pipe"
    disk.write_bytes(bytes(1000))
    os.mkfifo(pipe)
    async with serve("default") as served:
        client = await served.client()
        for name, path in (("a", disk), ("b", pipe), ("c", tmp_path / "none")):
            file = {"driver": "file", "filename": str(path)}
            assert await do(client, "blockdev-add", driver="raw", node_name=name, file=file) == {}
        nodes = await client.execute("query-named-block-nodes", {"flat": True})
        sizes = {one["node-name"]: one["image"]["virtual-size"] for one in nodes}
        assert [sizes[name] for name in "abc"] == [1024, 1 << 30, 1 << 30]
        client.send(
            "blockdev-mirror", {"job-id": "j", "device": "a", "target": "b", "sync": "full"}
        )
        await client.reply()
        (job,) = await do(client, "query-block-jobs")
        assert job["len"] == 1024


async def test_images_must_exist(serve: Serve, tmp_path: Path) -> None:
    async with serve({"machine": {"images": True}}) as served:
        client = await served.client()
        for path, words in (
            (tmp_path, f"'file' driver requires '{tmp_path}' to be a regular file"),
            (tmp_path / "a", f"Could not open '{tmp_path}/a': No such file or directory"),
        ):
            node = {"driver": "file", "filename": str(path), "node-name": "n"}
            assert (await client.execute("blockdev-add", node))["desc"] == words
        assert await client.execute("query-named-block-nodes") == []


async def test_nodes_below_one_another(serve: Serve) -> None:
    """Neither many layers nor many ways through a few of them."""
    async with serve("default") as served:
        client = await served.client()
        for name, children in (("a", ("file",)), ("b", ("file", "backing"))):
            await do(client, "blockdev-add", driver="null-co", node_name=f"{name}0")
            for number in range(1, MAX_LAYERS + 1):
                below = dict.fromkeys(children, f"{name}{number - 1}")
                node = {"driver": "qcow2", "node-name": f"{name}{number}", "read-only": True}
                node |= below
                answer = await client.execute("blockdev-add", node)
                if answer:
                    break
            assert "block nodes below one another" in answer["desc"]
        assert await client.execute("query-named-block-nodes") != []
        assert await client.execute("query-blockstats", {"query-nodes": True}) != []
        await do(client, "blockdev-add", driver="raw", node_name="r", file="a9")
        refused = await client.execute("blockdev-snapshot", {"node": "r", "overlay": "a9"})
        assert refused["desc"] == "Making 'r' a backing child of 'a9' would create a cycle"


MIRROR = {"job-id": "j", "device": "a", "target": "b", "sync": "full"}
BACKUP = {**MIRROR, "auto-finalize": False, "auto-dismiss": False}
CREATE = {"job-id": "j", "options": {"driver": "file", "filename": "/x", "size": 1}}
# Commands, and the events about the job that QEMU 11.1 sent until the next one.
JOBS: dict[str, list[tuple[str, Any, str]]] = {
    "completed": [
        ("blockdev-mirror", MIRROR, "created running ready BLOCK_JOB_READY"),
        (
            "block-job-complete",
            {"device": "j"},
            "waiting pending BLOCK_JOB_COMPLETED concluded null",
        ),
    ],
    "cancelled": [
        ("blockdev-mirror", MIRROR, "created running ready BLOCK_JOB_READY"),
        (
            "block-job-cancel",
            {"device": "j"},
            "waiting pending BLOCK_JOB_COMPLETED concluded null",
        ),
    ],
    "forced": [
        ("blockdev-mirror", MIRROR, "created running ready BLOCK_JOB_READY"),
        (
            "block-job-cancel",
            {"device": "j", "force": True},
            "aborting BLOCK_JOB_CANCELLED concluded null",
        ),
    ],
    "paused": [
        ("blockdev-mirror", MIRROR, "created running ready BLOCK_JOB_READY"),
        ("job-pause", {"id": "j"}, "standby"),
        ("job-complete", {"id": "j"}, ""),
        (
            "job-resume",
            {"id": "j"},
            "ready waiting pending BLOCK_JOB_COMPLETED concluded null",
        ),
    ],
    "manual": [
        (
            "blockdev-backup",
            BACKUP,
            "created running paused running waiting pending BLOCK_JOB_PENDING",
        ),
        ("job-finalize", {"id": "j"}, "BLOCK_JOB_COMPLETED concluded"),
        ("job-dismiss", {"id": "j"}, "null"),
    ],
    "create": [
        ("blockdev-create", CREATE, "created running waiting pending concluded"),
        ("job-dismiss", {"id": "j"}, "null"),
    ],
}


@pytest.mark.parametrize("course", JOBS)
async def test_jobs(serve: Serve, course: str) -> None:
    async with serve("default") as served:
        client = await served.client()
        for name in ("a", "b"):
            await client.execute("blockdev-add", {"driver": "null-co", "node-name": name})
        for command, arguments, expected in JOBS[course]:
            client.send(command, arguments)
            said: list[str] = []
            while len(said) < len(expected.split()) + 1:
                message = await client.receive()
                data = message.get("data", {})
                said.append(data.get("status") or message.get("event") or "reply")
            said.remove("reply")
            assert " ".join(said) == expected, command
        assert await do(client, "query-jobs") == []
        assert (await do(client, "block-job-cancel", device="j"))["class"] == "DeviceNotActive"
        assert (await do(client, "job-dismiss", id="j"))["desc"] == "Job not found"


async def test_a_job_changes_the_nodes_of_a_device(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()

        async def used() -> str:
            (block,) = await do(client, "query-block")
            return str(block["inserted"]["node-name"])

        async def ended(command: str, arguments: Any, status: str) -> None:
            client.send(command, arguments)
            while (await client.receive()).get("data", {}).get("status") != status:
                pass

        for name in ("a", "b"):
            await client.execute("blockdev-add", {"driver": "null-co", "node-name": name})
        await do(client, "blockdev-add", driver="qcow2", node_name="o", file={"driver": "null-co"})
        await do(client, "device_add", driver="virtio-blk-pci", drive="a", id="d")
        await ended("blockdev-mirror", MIRROR, "ready")
        (job,) = await do(client, "query-block-jobs")
        assert (job["device"], job["ready"], job["len"]) == ("j", True, 1 << 30)
        refused = await client.execute("blockdev-mirror", MIRROR)
        assert refused["desc"] == "Need a root block node"
        refused = await do(client, "job-dismiss", id="j")
        assert refused["desc"] == "Job 'j' in state 'ready' cannot accept command verb 'dismiss'"
        await ended("job-complete", {"id": "j"}, "null")
        assert await used() == "b"
        snapshot = {"type": "blockdev-snapshot", "data": {"node": "b", "overlay": "o"}}
        assert await do(client, "transaction", actions=[snapshot]) == {}
        assert await used() == "o"
        await ended("block-commit", {"job-id": "k", "device": "o"}, "ready")
        await ended("job-complete", {"id": "k"}, "null")
        assert await used() == "b"


async def migrated(client: Raw) -> list[str]:
    states: list[str] = []
    while not states or states[-1] not in ("completed", "pre-switchover", "cancelled"):
        name, data = await client.event()
        if name == "MIGRATION":
            states.append(data["status"])
    return states


async def test_migration(serve: Serve) -> None:
    async with serve({"machine": {"migration-time": 0.05, "migration-peer": False}}) as served:
        client = await served.client()
        events = [{"capability": "events", "state": True}]
        await do(client, "migrate-set-capabilities", capabilities=events)
        assert {"capability": "events", "state": True} in await do(
            client, "query-migrate-capabilities"
        )
        assert await do(client, "query-migrate") == {}
        assert await do(client, "migrate", uri="tcp:a:1") == {}
        again = await do(client, "migrate", uri="tcp:a:1")
        assert again["desc"] == "There's a migration process in progress"
        states = await migrated(client)
        assert states[-1] == "completed"
        info = await do(client, "query-migrate")
        assert info["status"] == "completed"
        assert info["ram"]["remaining"] == 0
        assert info["ram"]["transferred"] == info["ram"]["total"] == 128 << 20
        assert (await do(client, "query-status"))["status"] == "postmigrate"


async def test_migration_pauses_and_goes_on(serve: Serve) -> None:
    async with serve({"machine": {"migration-time": 0.01, "migration-peer": False}}) as served:
        client = await served.client()
        wanted = [
            {"capability": name, "state": True} for name in ("events", "pause-before-switchover")
        ]
        await do(client, "migrate-set-capabilities", capabilities=wanted)
        early = await do(client, "migrate-continue", state="pre-switchover")
        assert early["desc"] == "Migration not in expected state: none"
        client.send("migrate", {"uri": "tcp:a:1"})
        assert (await client.event())[1] == {"status": "setup"}
        assert await client.receive() == {"return": {}}
        assert await migrated(client) == ["active", "pre-switchover"]
        assert (await do(client, "query-status"))["status"] == "finish-migrate"
        client.send("migrate-continue", {"state": "pre-switchover"})
        assert (await client.event())[1] == {"status": "device"}
        assert await client.receive() == {"return": {}}
        assert await migrated(client) == ["completed"]


async def test_migration_is_cancelled(serve: Serve) -> None:
    async with serve({"machine": {"migration-time": 60, "migration-peer": False}}) as served:
        client = await served.client()
        await do(client, "migrate", uri="tcp:a:1")
        assert (await do(client, "query-migrate"))["status"] in ("setup", "active")
        info = await do(client, "query-migrate")
        assert info["status"] == "active"
        assert info["ram"]["remaining"] > 0
        await do(client, "migrate_cancel")
        # Without the capability `events`, the status is not sent.
        assert not served.said.sent("MIGRATION")
        assert (await do(client, "query-migrate"))["status"] == "cancelled"
        assert (await do(client, "query-status"))["running"]


async def test_a_migration_is_cancelled_before_the_switchover(serve: Serve) -> None:
    async with serve({"machine": {"migration-time": 0.01, "migration-peer": False}}) as served:
        client = await served.client()
        wanted = [
            {"capability": name, "state": True} for name in ("events", "pause-before-switchover")
        ]
        await do(client, "migrate-set-capabilities", capabilities=wanted)
        client.send("migrate", {"uri": "tcp:a:1"})
        assert (await client.event())[1] == {"status": "setup"}
        assert await client.receive() == {"return": {}}
        assert (await migrated(client))[-1] == "pre-switchover"
        client.send("migrate_cancel")
        assert (await client.event())[1] == {"status": "cancelling"}
        assert await client.receive() == {"return": {}}
        assert await migrated(client) == ["cancelled"]
        assert await do(client, "query-status") == {
            "status": "running", "running": True,
        }  # fmt: skip


async def test_a_machine_that_waits_for_its_migration(serve: Serve) -> None:
    async with serve({"machine": {"status": "inmigrate"}}) as served:
        client = await served.client()
        assert await do(client, "cont") == {}
        assert (await do(client, "query-status"))["status"] == "inmigrate"


async def test_wake_up(serve: Serve) -> None:
    async with serve({"machine": {"status": "suspended"}}) as served:
        client = await served.client()
        client.send("system_wakeup")
        assert await client.event() == ("WAKEUP", None)
        assert await client.receive() == {"return": {}}
        again = await do(client, "system_wakeup")
        assert again["desc"] == "Unable to wake up: guest is not in suspended state"


async def test_incoming_migration(serve: Serve) -> None:
    scenario = {"machine": {"status": "inmigrate", "migration-time": 0.01, "migration-peer": False}}
    async with serve(scenario) as served:
        client = await served.client()
        assert await do(client, "migrate-incoming", uri="tcp:a:1") == {}
        assert (await client.event())[0] == "RESUME"
        assert (await do(client, "query-status"))["status"] == "running"


async def test_dirty_limit_and_rate(serve: Serve) -> None:
    async with serve({"machine": {"cpus": 2}}) as served:
        client = await served.client()
        await do(client, "set-vcpu-dirty-limit", dirty_rate=50, cpu_index=1)
        shown = {"cpu-index": 1, "limit-rate": 50, "current-rate": 50}
        assert await do(client, "query-vcpu-dirty-limit") == [shown]
        refused = await do(client, "set-vcpu-dirty-limit", dirty_rate=50, cpu_index=2)
        assert refused["desc"] == "incorrect cpu index specified"
        await do(client, "cancel-vcpu-dirty-limit")
        assert await do(client, "query-vcpu-dirty-limit") == []
        assert (await do(client, "query-dirty-rate"))["status"] == "unstarted"
        refused = await do(client, "calc-dirty-rate", calc_time=61)
        assert refused["desc"] == "Calculation time is out of range [50ms, 60000ms]."
        refused = await do(client, "calc-dirty-rate", calc_time=1, sample_pages=1)
        assert refused["desc"] == "sample-pages is out of range[128, 16384]."
        await do(client, "calc-dirty-rate", calc_time=60, mode="dirty-ring")
        measuring = await do(client, "query-dirty-rate")
        assert (measuring["status"], measuring["calc-time"]) == ("measuring", 60)
        assert abs(measuring["start-time"] - time.time()) < 60
        again = await do(client, "calc-dirty-rate", calc_time=1)
        assert again["desc"] == "the dirty rate is already being measured."


async def test_the_dirty_rate_is_that_of_the_limits(serve: Serve) -> None:
    async with serve({"schema": "qmpserver", "machine": {"cpus": 2}}) as served:
        client = await served.client()
        await do(client, "set-vcpu-dirty-limit", dirty_rate=50, cpu_index=1)
        await do(
            client, "calc-dirty-rate", calc_time=50, calc_time_unit="millisecond",
            mode="dirty-ring",
        )  # fmt: skip
        async with asyncio.timeout(10):
            measured: dict[str, Any] = {"status": "measuring"}
            while measured["status"] == "measuring":
                measured = await do(client, "query-dirty-rate")
        assert measured["dirty-rate"] == 1050
        assert measured["vcpu-dirty-rate"][1] == {"id": 1, "dirty-rate": 50}
        await do(client, "stop")
        (limit,) = await do(client, "query-vcpu-dirty-limit")
        assert limit["current-rate"] == 0


async def test_the_guest_agent(serve: Serve) -> None:
    async with serve({"schema": "guest-agent"}) as served:
        client = await served.connect()
        client.send("guest-sync-delimited", {"id": 12})
        assert await client.line() == b'\xff{"return": 12}\r\n'
        assert await do(client, "guest-ping") == {}
        assert (await do(client, "qmp_capabilities"))["class"] == "CommandNotFound"
        assert await do(client, "guest-fsfreeze-freeze") == 1
        assert await do(client, "guest-fsfreeze-status") == "frozen"
        commands = (await do(client, "guest-info"))["supported_commands"]
        enabled = {one["name"]: one["enabled"] for one in commands}
        assert (enabled["guest-ping"], enabled["guest-file-open"]) == (True, False)
        assert await do(client, "guest-fsfreeze-thaw") == 1
        missing = await do(client, "guest-file-open", path="/a")
        assert "No such file or directory" in missing["desc"]
        text = base64.b64encode(b"hello").decode()
        for mode, command in (("w", "guest-file-write"), ("r", "guest-file-read")):
            handle = await do(client, "guest-file-open", path="/a", mode=mode)
            more = {"buf-b64": text} if mode == "w" else {}
            got = await client.execute(command, {"handle": handle, **more})
            assert got["count"] == 5
            await do(client, "guest-file-close", handle=handle)
        assert got["buf-b64"] == text
        closed = await do(client, "guest-file-close", handle=handle)
        assert closed["desc"] == f"handle '{handle}' has not been found"
        first, second = [
            await do(client, "guest-file-open", path=path, mode="w") for path in ("/b", "/c")
        ]
        await do(client, "guest-file-close", handle=first)
        assert await do(client, "guest-file-open", path="/b") not in (first, second)
        client.send("guest-shutdown")
        client.send("guest-ping", id="next")
        assert (await client.receive())["id"] == "next"  # success is not answered


# As QEMU 11.1 answers: a device's id and bus of another type are none.
TYPES: list[tuple[dict[str, Any], str | None]] = [
    ({"driver": []}, "Parameter 'driver' is missing"),
    ({"driver": None}, "Parameter 'driver' is missing"),
    ({"driver": "e1000", "id": []}, None),
    ({"driver": "e1000", "id": 5}, None),
    ({"driver": "e1000", "bus": {}}, None),
    ({"driver": "e1000", "netdev": []}, "Invalid parameter type for 'netdev', expected: string"),
    ({"driver": "e1000", "netdev": None}, "Invalid parameter type for 'netdev', expected: string"),
    ({"driver": "virtio-blk-pci", "drive": 5},
     "Invalid parameter type for 'drive', expected: string"),
    ({"driver": "virtio-blk-pci", "iothread": 7},
     "Invalid parameter type for 'iothread', expected: string"),
    ({"driver": "pc-dimm", "memdev": {}}, "Invalid parameter type for 'memdev', expected: string"),
    ({"driver": "pc-dimm", "node": "x"}, "Parameter 'node' expects uint64"),
    ({"driver": "e1000", "addr": []}, "Invalid parameter type for 'addr', expected int or str"),
]  # fmt: skip


async def test_properties_of_another_type(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        for properties, refusal in TYPES:
            got = await client.execute("device_add", properties)
            assert got.get("desc") == refusal, properties
        (bus,) = await do(client, "query-pci")
        assert [one["qdev_id"] for one in bus["devices"]] == [""] * (4 + 3)
        assert len(await do(client, "query-chardev")) == 1
        await do(client, "object-add", qom_type="memory-backend-ram", id="m", size=1)
        refused = await do(client, "qom-set", path="/objects/m", property="merge", value="x")
        assert refused["desc"] == "Invalid parameter type for 'merge', expected: boolean"
        assert await do(client, "qom-set", path="/objects/m", property="merge", value=False) == {}
        assert await do(client, "qom-get", path="/objects/m", property="merge") is False


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_files_of_the_guest_agent(serve: Serve) -> None:
    async with serve({"schema": "guest-agent"}) as served:
        client = await served.connect()

        async def opened(mode: str, path: str = "/a") -> int:
            handle = await do(client, "guest-file-open", path=path, mode=mode)
            assert isinstance(handle, int)
            return handle

        async def write(handle: int, text: str, **more: int) -> Any:
            return await do(client, "guest-file-write", handle=handle, buf_b64=coded(text), **more)

        async def content(path: str = "/a") -> str:
            read = await do(client, "guest-file-read", handle=await opened("r", path))
            return base64.b64decode(read["buf-b64"]).decode()

        first = await opened("w")
        assert await write(first, "hello") == {"count": 5, "eof": False}
        second = await opened("r+")
        await write(second, "J")
        assert await content() == "Jello"
        appending = await opened("a")
        await write(first, "!")  # at its own position
        await write(appending, "?")  # wherever the end is
        await write(first, ".")
        assert await content() == "Jello!."
        await write(appending, "?", count=0)
        assert (await write(appending, "?", count=-1))["desc"] == (
            "value '-1' is invalid for argument count"
        )
        assert (await write(appending, "?", count=2))["desc"] == (
            "value '2' is invalid for argument count"
        )
        for count in (-1, (48 << 20) + 1):
            refused = await do(client, "guest-file-read", handle=second, count=count)
            assert refused["desc"] == f"value '{count}' is invalid for argument count"
        assert (await do(client, "guest-file-read", handle=second, count=2))["count"] == 2
        refused = await do(client, "guest-file-read", handle=first)
        assert refused["desc"] == "failed to read file: Bad file descriptor"
        refused = await write(await opened("rb"), "x")
        assert refused["desc"] == "failed to write to file: Bad file descriptor"
        for mode in ("", "x", "rw", "r++"):
            refused = await do(client, "guest-file-open", path="/a", mode=mode)
            assert refused["desc"] == f"invalid file open mode '{mode}'"
        for text in ("é", "a", "="):
            refused = await do(client, "guest-file-write", handle=second, buf_b64=text)
            assert refused["desc"] == "Base64 data is not valid"
        await opened("w")  # empties it for the others, too
        await write(first, "x")
        assert await content() == "\0" * 7 + "x"


async def test_processes_of_the_guest_agent(serve: Serve) -> None:
    async with serve({"schema": "guest-agent"}) as served:
        client = await served.connect()
        pid, other = [(await do(client, "guest-exec", path="/x"))["pid"] for _ in range(2)]
        assert await do(client, "guest-exec-status", pid=pid) == {"exited": True, "exitcode": 0}
        again = await do(client, "guest-exec-status", pid=pid)
        assert again["desc"] == f"PID {pid} does not exist"
        assert (await do(client, "guest-exec", path="/x"))["pid"] not in (pid, other)


# Commands whose refusals are compared with QEMU's, in this order.
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("netdev_add", {"type": "user", "id": "u"}),
    ("netdev_add", {"type": "user", "id": "u"}),
    ("netdev_del", {"id": "nobody"}),
    ("device_add", {}),
    ("device_del", {"id": "nobody"}),
    ("chardev-add", {"id": "c", "backend": {"type": "null", "data": {}}}),
    ("chardev-add", {"id": "c", "backend": {"type": "null", "data": {}}}),
    ("chardev-remove", {"id": "nobody"}),
    ("chardev-change", {"id": "nobody", "backend": {"type": "null", "data": {}}}),
    ("object-add", {"qom-type": "iothread", "id": "i"}),
    ("object-add", {"qom-type": "iothread", "id": "i"}),
    ("object-del", {"id": "nobody"}),
    ("blockdev-add", {"driver": "null-co"}),
    ("blockdev-add", NODE),
    ("blockdev-add", NODE),
    ("blockdev-add", {"driver": "raw", "node-name": "r", "file": "nobody"}),
    ("blockdev-add", {"driver": "raw", "node-name": "r", "file": "n"}),
    ("blockdev-del", {"node-name": "n"}),
    ("blockdev-del", {"node-name": "nobody"}),
    ("block-job-cancel", {"device": "nobody"}),
    ("block-job-complete", {"device": "nobody"}),
    ("block_resize", {"node-name": "nobody", "size": 1}),
    ("block-stream", {"device": "nobody"}),
    ("migrate-continue", {"state": "pre-switchover"}),
    ("migrate-incoming", {"uri": "tcp:a:1"}),
    ("query-balloon", {}),
    ("balloon", {"value": 1}),
    ("qom-get", {"path": "/machine/peripheral/nobody", "property": "type"}),
]


# Commands about what the machine lacks.
ABSENT: list[tuple[str, dict[str, Any]]] = [
    ("x-query-jit", {}),
    ("x-query-opcount", {}),
    ("x-query-usb", {}),
    ("xen-event-list", {}),
    ("query-hv-balloon-status-report", {}),
    ("x-exit-preconfig", {}),
]
DRIVES: list[tuple[str, dict[str, Any]]] = [
    line if isinstance(line, tuple) else ("human-monitor-command", {"command-line": line})
    for line in (
        "drive_add 0 if=none,id=d0,file=null-co://,format=raw,node-name=n0",
        "drive_del d0",
        "drive_del d0",
        "drive_del",
        "info block",
        "drive_add 0 if=none,id=d1,file=null-co://,format=raw,node-name=n1",
        ("device_add", {"driver": "virtio-blk-pci", "id": "w", "drive": "d1"}),
        "info block",
        "drive_del d1",
        ("blockdev-add", NODE),
        ("device_add", {"driver": "virtio-blk-pci", "id": "v", "drive": "n"}),
        "info block",
        "drive_del n",
        "drive_del v",
        "info block",
        ("blockdev-add", {**NODE, "node-name": "n1"}),
        "drive_del n1",
        "drive_del n1",
    )
]
NO_RULES = {"driver": "blkdebug", "node-name": "b", "config": "/none", "image": "n"}
WAITS = ("incoming", "defer")
BEFORE_MACHINE = ("query-cpus-fast", "query-status", "query-name", "nonsense", "stop")
PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("query-migrate-parameters", {}),
    ("human-monitor-command", {"command-line": "info migrate_parameters"}),
    ("migrate-set-parameters", {"compress-level": 10}),
    ("migrate-set-parameters", {"decompress-threads": 0}),
    ("migrate-set-parameters", {"compress-level": 9}),
    ("human-monitor-command", {"command-line": "info migrate_parameters"}),
]


async def assert_same_as_qemu(
    serve: Serve,
    release: Release,
    program: str,
    asked: Sequence[tuple[str, dict[str, Any]]],
    options: Sequence[str] = ("-machine", "none"),
    launch: Sequence[tuple[str, str]] = (),
) -> None:
    """Give the same commands to QEMU and to a stand-in with these options; compare the replies."""
    qemu = Qemu(program, options)
    try:
        async with serve(f"default,schema={release.name}") as served:
            await served.stand_in.launch(launch)
            client = await served.client()
            for command, arguments in asked:
                theirs = qemu.execute(command, arguments)
                client.send(command, arguments)
                assert await client.reply() == theirs, (command, arguments)
    finally:
        qemu.close()


async def test_refusals_are_qemus(serve: Serve, release: Release, release_qemu: str) -> None:
    await assert_same_as_qemu(serve, release, release_qemu, REFUSED)


async def test_what_is_absent_is_refused_as_by_qemu(
    kvm: None, serve: Serve, release: Release, release_qemu: str
) -> None:
    asked = ABSENT + ([("blockdev-add", NO_RULES)] if release is NEWEST else [])
    options = ["-machine", "pc", "-nodefaults", "-accel", "kvm", "-S"]
    await assert_same_as_qemu(serve, release, release_qemu, asked, options)


async def test_drives_come_and_go_as_in_qemu(
    serve: Serve, release: Release, release_qemu: str
) -> None:
    options = ["-machine", "pc", "-nodefaults", "-accel", "tcg", "-S"]
    await assert_same_as_qemu(serve, release, release_qemu, DRIVES, options)


@pytest.mark.parametrize(("status", "active"), [("prelaunch", True), ("inmigrate", False)])
async def test_nodes_are_active_where_the_guest_is(serve: Serve, status: str, active: bool) -> None:
    async with serve({"machine": {"status": status}}) as served:
        client = await served.client()
        await do(client, "blockdev-add", driver="null-co", node_name="n")
        (node,) = await do(client, "query-named-block-nodes")
        assert node["active"] == active


async def test_migration_parameters_are_the_releases(
    serve: Serve, release: Release, release_qemu: str
) -> None:
    await assert_same_as_qemu(serve, release, release_qemu, PARAMETERS)


async def test_before_the_machine_is_made(
    serve: Serve, release: Release, release_qemu: str
) -> None:
    commands = (*BEFORE_MACHINE, "x-exit-preconfig", "query-status", "x-exit-preconfig")
    asked: list[tuple[str, dict[str, Any]]] = [(command, {}) for command in commands]
    options = ["-machine", "none", "--preconfig"]
    launch = [("preconfig", "")]
    await assert_same_as_qemu(serve, release, release_qemu, asked, options, launch)


@pytest.mark.parametrize(
    ("options", "status"), [([], "running"), ([("S", "")], "prelaunch"), ([WAITS], "inmigrate")]
)
async def test_the_machine_is_made(
    serve: Serve, options: list[tuple[str, str]], status: str
) -> None:
    scenario = Scenario.read({})
    if ("S", "") in options:
        scenario = scenario.on_machine({"status": "prelaunch"})
    async with serve(scenario) as served:
        await served.stand_in.launch([("preconfig", ""), *options])
        client = await served.client()
        assert (await client.execute("query-status"))["status"] == "prelaunch"
        assert "after machine initialization" in (await client.execute("cont"))["desc"]
        assert await client.execute("x-exit-preconfig") == {}
        assert (await client.execute("query-status"))["status"] == status


async def test_a_file_of_rules_that_is_a_pipe(serve: Serve, tmp_path: Path) -> None:
    """QEMU's own test of commands out of band waits like this."""
    rules = tmp_path / "rules"
    os.mkfifo(rules)
    node = {"driver": "blkdebug", "node-name": "b", "config": str(rules)}
    image = {"driver": "null-co", "read-zeroes": True}
    async with serve(f"default,schema={NEWEST.name}") as served:
        client = await served.connect()
        await client.receive()
        assert await client.execute("qmp_capabilities", {"enable": ["oob"]}) == {}
        client.send("blockdev-add", {**node, "image": image}, id=1)
        client.send("query-name", id=2)
        client.writer.write(b'{"exec-oob": "migrate-pause", "id": 3}\n')
        assert (await client.reply())["id"] == 3
        with rules.open("wb"):
            pass
        assert [(await client.reply())["id"] for _ in range(2)] == [1, 2]
        nodes = await client.execute("query-named-block-nodes")
        assert [one["drv"] for one in nodes] == ["blkdebug", "null-co"]
