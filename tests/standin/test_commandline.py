"""QEMU's command line as the state of a stand-in."""

from __future__ import annotations

import os
import shlex
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpserver.cli.invocation import arguments
from qmpserver.keyval import OptionError
from qmpserver.standin import Scenario, StandIn
from qmpserver.standin.commandline import machine

if TYPE_CHECKING:
    from tests.standin.conftest import Raw, Serve, Served

WORDS = """
    -device virtio-blk-pci,drive=d0,id=vda,bootindex=1,disable-legacy=on,addr=0x7
    -device ide-cd,drive=cd,id=cd0 -device e1000,netdev=n0,id=nic,mac=52:54:00:00:00:01
    -device isa-serial,chardev=p,id=s0 -device virtio-balloon-pci,id=b -device VGA,id=v
    -netdev user,id=n0,hostfwd=tcp::22-:22,hostfwd=tcp::80-:80,restrict=on
    -nic user,model=rtl8139
    -object iothread,id=io -object memory-backend-ram,id=m0,size=1G
    -object {"qom-type":"rng-random","id":"r","filename":"/dev/random"}
    -drive file=a.qcow2,format=qcow2,if=none,id=d0,cache=none -drive if=none,id=cd,media=cdrom
    -blockdev null-co,node-name=n,size=4M,read-zeroes=on
    -chardev pty,id=p -chardev ringbuf,id=rb,size=1K -chardev udp,id=u,host=h,port=1
    -tpmdev passthrough,id=t,path=/dev/tpm0 -device tpm-tis,tpmdev=t -serial null
    -smp 2,maxcpus=4,sockets=2 -machine q35 -cpu max -rtc base=utc -vga none
"""


def options(text: str) -> list[tuple[str, str]]:
    """Return the options of a command line; each of them has a value."""
    words = shlex.split(text.replace(chr(34), chr(92) + chr(34)))
    return [(name[1:], value) for name, value in zip(words[::2], words[1::2], strict=True)]


async def launched(served: Served, text: str) -> Raw:
    """Return a client of a stand-in that has been given a command line."""
    await served.stand_in.launch(options(text))
    return await served.client()


async def test_options_become_state(serve: Serve) -> None:
    scenario = Scenario.read({}).on_machine(machine.changes(options(WORDS)))
    async with serve(scenario) as served:
        client = await launched(served, WORDS)

        async def ask(command: str, **arguments: Any) -> Any:
            return await client.execute(command, arguments or None)

        disk, tray = await ask("query-block")
        assert (disk["device"], disk["qdev"]) == ("d0", "/machine/peripheral/vda/virtio-backend")
        assert (disk["inserted"]["drv"], disk["inserted"]["file"]) == ("qcow2", "a.qcow2")
        assert disk["inserted"]["cache"] == {"writeback": True, "direct": True, "no-flush": False}
        assert (tray["device"], tray["qdev"], tray["removable"]) == ("cd", "cd0", True)
        assert [one["qdev"] for one in await ask("query-blockstats")] == [disk["qdev"], "cd0"]
        (node,) = [n for n in await ask("query-named-block-nodes") if n["node-name"] == "n"]
        assert node["image"]["virtual-size"] == 4 << 20
        assert [one["id"] for one in await ask("query-iothreads")] == ["io"]
        memory = {one["id"]: one["size"] for one in await ask("query-memdev")}
        assert memory == {"m0": 1 << 30, "pc.ram": 128 << 20}
        chardevs = {one["label"]: one for one in await ask("query-chardev")}
        assert set(chardevs) == {"p", "rb", "u", "serial0", "compat_monitor0"}
        terminal = chardevs["p"]["filename"].removeprefix("pty:")
        assert stat.S_ISCHR(os.stat(terminal).st_mode)
        assert chardevs["p"]["frontend-open"]
        (tpm,) = await ask("query-tpm")
        assert (tpm["id"], tpm["model"]) == ("t", "tpm-tis")
        assert await ask("query-balloon") == {"actual": 128 << 20}
        cpus = await ask("query-hotpluggable-cpus")
        assert [(one["props"], "qom-path" in one) for one in reversed(cpus)] == [
            ({"socket-id": 0, "core-id": 0, "thread-id": 0}, True),
            ({"socket-id": 0, "core-id": 1, "thread-id": 0}, True),
            ({"socket-id": 1, "core-id": 0, "thread-id": 0}, False),
            ({"socket-id": 1, "core-id": 1, "thread-id": 0}, False),
        ]

        async def listed(path: str) -> dict[str, str]:
            found = await ask("qom-list", path=path)
            names = [one["name"] for one in found]
            assert len(names) == len(set(names))
            return {one["name"]: one["type"] for one in found}

        assert (await listed("/"))["machine"].startswith("child<pc-q35-")
        assert (await listed("/objects")) == {
            "type": "string",
            "io": "child<iothread>",
            "m0": "child<memory-backend-ram>",
            "pc.ram": "child<memory-backend-ram>",
            "r": "child<rng-random>",
        }
        assert (await listed("/machine/peripheral"))["nic"] == "child<e1000>"
        assert "child<rtl8139>" in (await listed("/machine/unattached")).values()
        disk_path = "/machine/peripheral/vda"
        assert await ask("qom-get", path=disk_path, property="bootindex") == 1
        assert await ask("qom-get", path=disk_path, property="disable-legacy") == "on"
        assert await ask("qom-get", path="/machine/peripheral/v", property="vgamem_mb") == 16
        vcpu = "/machine/unattached/device[2]"
        assert (await listed(vcpu))["unavailable-features"] == "strList"
        assert await ask("qom-get", path=vcpu, property="type") == "max-x86_64-cpu"
        unknown = await ask("qom-get", path="/nowhere", property="x")
        assert unknown["class"] == "DeviceNotFound"
        busy = await ask("chardev-remove", id="p")
        assert busy["desc"] == "Chardev 'p' is busy"


async def test_vcpus_are_plugged_in(serve: Serve) -> None:
    async with serve(
        Scenario.read({}).on_machine(machine.changes([("smp", "1,maxcpus=2")]))
    ) as served:
        client = await served.client()

        async def add(name: str, **place: int) -> Any:
            given = {key.replace("_", "-"): value for key, value in place.items()}
            cpu = {"driver": "qemu64-x86_64-cpu", "id": name, **given}
            return await client.execute("device_add", cpu)

        assert await add("c", socket_id=0, core_id=1, thread_id=0) == {}
        shown = await client.execute("query-cpus-fast")
        assert [one["qom-path"] for one in shown] == [
            "/machine/unattached/device[0]",
            "/machine/peripheral/c",
        ]
        refused = [
            await add("d", socket_id=0, core_id=1, thread_id=0),
            await add("d", socket_id=7, core_id=1, thread_id=0),
            await add("d"),
        ]
        assert [one["desc"] for one in refused] == [
            "CPU[1] with APIC ID 1 exists",
            "Invalid CPU socket-id: 7 must be in range 0:0",
            "CPU socket-id is not set",
        ]
        await client.execute("device_del", {"id": "c"})
        assert (await client.event())[0] == "DEVICE_DELETED"
        assert len(await client.execute("query-cpus-fast")) == 1


def thread_name(number: int) -> str:
    """Return the name of a thread of this process."""
    return Path(f"/proc/self/task/{number}/comm").read_text().rstrip()


async def test_threads_are_the_stand_ins(serve: Serve) -> None:
    async with serve({"machine": {"cpus": 2}}) as served:
        client = await served.client()
        await client.execute("object-add", {"qom-type": "iothread", "id": "io"})
        asked = await client.execute("query-cpus-fast") + await client.execute("query-iothreads")
        names = [thread_name(one["thread-id"]) for one in asked]
        assert names == ["CPU 0/KVM", "CPU 1/KVM", "IO io"]
        again = await client.execute("query-cpus-fast")
        assert [one["thread-id"] for one in again] == [one["thread-id"] for one in asked[:2]]
    left = {thread.native_id for thread in threading.enumerate()}
    assert not left & {one["thread-id"] for one in asked}


# Options that QEMU 11.1 refuses in these words, on a machine of type none.
REFUSED = {
    "-netdev user,id=a,foo=1": "Invalid parameter 'foo'",
    "-netdev foo,id=a": "Parameter 'type' does not accept value 'foo'",
    "-netdev user": "Parameter 'id' is missing",
    "-netdev user,id=a,restrict=x": "Parameter 'restrict' expects 'on' or 'off'",
    "-netdev user,id=a -netdev user,id=a": "Duplicate ID 'a' for netdev",
    "-netdev hubport,id=a": "Parameter 'hubid' is missing",
    "-netdev id=a": "Parameter 'type' is missing",
    '-netdev {"type":"user","id":"a","foo":1}': "Parameter 'foo' is unexpected",
    "-object foo,id=a": "Parameter 'qom-type' does not accept value 'foo'",
    "-object iothread": "Parameter 'id' is missing",
    "-object memory-backend-ram,id=a,size=8M,foo=1": "Invalid parameter 'foo'",
    "-object memory-backend-ram,id=a,size=8M,prealloc=x": (
        "Parameter 'prealloc' expects 'on' or 'off'"
    ),
    "-object memory-backend-ram,id=a": "Parameter 'size' is missing",
    "-object iothread,id=a -object iothread,id=a": "Duplicate ID 'a' for object",
    "-blockdev null-co": "'node-name' must be specified for the root node",
    "-blockdev foo,node-name=a": "Parameter 'driver' does not accept value 'foo'",
    "-blockdev null-co,node-name=a,size=x": "Parameter 'size' expects integer",
    "-blockdev null-co,node-name=a,foo=x": "Parameter 'foo' is unexpected",
    "-blockdev raw,node-name=a,file=nope": ("Cannot find device='nope' nor node-name='nope'"),
    "-blockdev qcow2,node-name=a,file.driver=null-co,file.foo=1": (
        "Parameter 'file.foo' is unexpected"
    ),
    "-drive driver.x=raw,if=none": "Parameters 'driver.*' used inconsistently",
    "-drive file=a,if=none,file.driver.x=file": "Parameters 'driver.*' used inconsistently",
    "-drive file=a,if=none,node-name.x=b": "Parameters 'node-name.*' used inconsistently",
    "-drive if=foo": "unsupported bus type 'foo'",
    "-drive if=none,id=a -drive if=none,id=a": "Duplicate ID 'a' for drive",
    "-drive if=none,id=a,media=x": "'x' invalid media",
    "-drive if=none,id=a,cache=x": "invalid cache option",
    "-chardev foo,id=a": "'foo' is not a valid char driver name",
    "-chardev null": "chardev: no id specified",
    "-chardev id=a": 'chardev: "a" missing backend',
    "-chardev null,id=a -chardev null,id=a": "Duplicate ID 'a' for chardev",
    "-device id=a": "Parameter 'driver' is missing",
    "-device e1000,netdev=x": "Property 'e1000.netdev' can't find value 'x'",
    "-action foo=1": "Invalid parameter 'foo'",
    "-action reboot=x": "Parameter 'reboot' does not accept value 'x'",
    "-incoming foo:bar": "unknown migration protocol: foo:bar",
    "-incoming tcp:1": "error parsing address '1'",
}


@pytest.mark.parametrize("text", REFUSED)
async def test_options_are_refused_as_by_qemu(text: str) -> None:
    stand_in = StandIn(Scenario.read({}))
    try:
        last = options(text)[-1]
        with pytest.raises(OptionError) as refused:
            await stand_in.launch(options(text))
        assert str(refused.value) == f"-{last[0]} {last[1]}: {REFUSED[text]}"
    finally:
        await stand_in.close()


# Queries that QEMU 7.2 refuses, or answers otherwise, on a machine of type none.
NONE = {
    "query-acpi-ospm-status": "command is not supported, missing ACPI device",
    "query-hotpluggable-cpus": "The feature 'query-hotpluggable-cpus' is not enabled",
    "query-sgx": "SGX is only supported on PC machines",
    "query-vm-generation-id": "VM Generation ID device not found",
    "query-cpus-fast": [],
    "query-pci": [],
    "query-memdev": [],
    "query-current-machine": {"wakeup-suspend-support": False},
    "query-memory-size-summary": {"base-memory": 0, "plugged-memory": 0},
}


async def test_a_machine_of_type_none(serve: Serve) -> None:
    async with serve(
        Scenario.read({}).on_machine(machine.changes([("machine", "none")]))
    ) as served:
        client = await served.client()
        for command, expected in NONE.items():
            answer = await client.execute(command)
            assert (answer["desc"] if isinstance(expected, str) else answer) == expected


async def test_facts_of_a_release(serve: Serve) -> None:
    async with serve("default") as served:
        client = await served.client()
        machines = await client.execute("query-machines")
        assert {"pc", "q35"} <= {one.get("alias") for one in machines}
        types = await client.execute("qom-list-types", {"implements": "virtio-device"})
        names = {one["name"] for one in types}
        assert "virtio-rng-device" in names
        assert "e1000" not in names
        properties = await client.execute("device-list-properties", {"typename": "e1000"})
        assert "netdev" in {one["name"] for one in properties}
        unknown = await client.execute("device-list-properties", {"typename": "x"})
        assert unknown == {"class": "DeviceNotFound", "desc": "Device 'x' not found"}
        asked = {"type": "full", "model": {"name": "host", "props": {"avx": False}}}
        expanded = (await client.execute("query-cpu-model-expansion", asked))["model"]
        assert (expanded["name"], expanded["props"]["avx"]) == ("host", False)
        asked["model"] = {"name": "x"}
        refused = await client.execute("query-cpu-model-expansion", asked)
        assert refused["desc"] == "CPU type 'x-x86_64-cpu' not found"


@pytest.mark.parametrize("detach", [False, True])
async def test_a_dump(serve: Serve, tmp_path: Path, detach: bool) -> None:
    core = tmp_path / "core"
    async with serve("default") as served:
        client = await served.client()
        given = {"paging": False, "protocol": f"file:{core}", "detach": detach}
        assert await client.execute("dump-guest-memory", given) == {}
        if detach:
            name, data = await client.event()
            assert (name, data["result"]["status"]) == ("DUMP_COMPLETED", "completed")
        assert (await client.execute("query-dump"))["status"] == "completed"
    assert core.read_bytes().startswith(b"\x7fELF")


def test_a_program_called_as_qemu(tmp_path: Path) -> None:
    link = tmp_path / "a,b" / "qemu-system-x86_64"
    assert arguments([str(link), "-S"]) == ["-fake", "default", "-S"]
    assert arguments([str(link), "-fake", "x"]) == ["-fake", "x"]
    assert arguments(["/bin/qmpserver", "-S"]) == ["-S"]
    for name in ("qemu-system-s390x", "qemu-kvm", "kvm"):
        assert arguments([f"/usr/bin/{name}"]) == ["-fake", "default"]
    link.parent.mkdir()
    link.with_name("qemu-system-x86_64.toml").write_text("")
    scenario = f"{tmp_path}/a,,b/qemu-system-x86_64.toml"
    assert arguments([str(link), "-S"]) == ["-fake", scenario, "-S"]


async def test_the_schema_decides(serve: Serve) -> None:
    async with serve({"schema": "guest-agent"}) as served:
        await served.stand_in.launch([("netdev", "user,id=n"), ("chardev", "null,id=c")])
        client = await served.connect()
        assert await client.execute("guest-ping") == {}
