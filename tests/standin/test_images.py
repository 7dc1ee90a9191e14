"""Images that commands of a stand-in create, and those that it makes up."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.standin.conftest import Raw, Serve

SIZE = 5 << 20
WITH_DISK = {
    "setup": [
        {
            "command": "blockdev-add",
            "arguments": {"driver": "null-co", "node-name": "n", "size": SIZE},
        },
        {
            "command": "device_add",
            "arguments": {"driver": "virtio-blk-pci", "id": "v", "drive": "n"},
        },
    ]
}


async def ended(client: Raw, command: str, arguments: Any, status: str = "null") -> None:
    """Execute a command, and wait until its job has a status."""
    client.send(command, arguments)
    while (message := await client.receive()).get("data", {}).get("status") != status:
        assert "error" not in message


async def nodes(client: Raw) -> dict[str, Any]:
    """Return all nodes by their names."""
    shown = await client.execute("query-named-block-nodes", {"flat": True})
    return {one["node-name"]: one for one in shown}


async def test_images_that_need_not_exist(serve: Serve, tmp_path: Path) -> None:
    """Commands make no file, but the nodes have the sizes that QEMU's have."""
    async with serve(WITH_DISK) as served:
        client = await served.client()
        file = {"driver": "file", "filename": str(tmp_path / "a"), "size": SIZE}
        create = {"job-id": "j", "options": file}
        await ended(client, "blockdev-create", create, "concluded")
        names = {"snapshot-file": str(tmp_path / "s"), "snapshot-node-name": "s"}
        snapshot = {"node-name": "n", **names}
        assert await client.execute("blockdev-snapshot-sync", snapshot) == {}
        image = (await nodes(client))["s"]["image"]
        assert image["virtual-size"] == SIZE
        assert image["backing-filename-format"] == "null-co"
        mirror = {"job-id": "m", "device": "s", "sync": "full", "node-name": "t"}
        mirror["target"] = str(tmp_path / "t")
        await ended(client, "drive-mirror", mirror, "ready")
        assert (await nodes(client))["t"]["image"]["virtual-size"] == SIZE
        await ended(client, "block-job-cancel", {"device": "m", "force": True})
        assert (await nodes(client)).keys() & {"s", "t"} == {"s"}
    assert not any((tmp_path / name).exists() for name in "ast")


async def test_the_disk_below_a_snapshot(serve: Serve, tmp_path: Path) -> None:
    """It is read-only while it is below, and the overlay goes when it is committed."""
    async with serve(WITH_DISK) as served:
        client = await served.client()
        names = {"snapshot-file": str(tmp_path / "s"), "snapshot-node-name": "s"}
        await client.execute("blockdev-snapshot-sync", {"node-name": "n", **names})
        assert (await nodes(client))["n"]["ro"]
        await ended(client, "block-commit", {"job-id": "c", "device": "s"}, "ready")
        await ended(client, "block-job-complete", {"device": "c"})
        found = await nodes(client)
        assert [*found] == ["n"]
        assert not found["n"]["ro"]


async def test_a_node_that_is_exported_stays(serve: Serve, tmp_path: Path) -> None:
    async with serve(WITH_DISK) as served:
        client = await served.client()
        names = {"snapshot-file": str(tmp_path / "s"), "snapshot-node-name": "s"}
        await client.execute("blockdev-snapshot-sync", {"node-name": "n", **names})
        address = {"type": "unix", "data": {"path": str(tmp_path / "nbd")}}
        assert await client.execute("nbd-server-start", {"addr": address}) == {}
        export = {"id": "e", "type": "nbd", "node-name": "s"}
        assert await client.execute("block-export-add", export) == {}
        await ended(client, "block-commit", {"job-id": "c", "device": "s"}, "ready")
        await ended(client, "block-job-complete", {"device": "c"})
        assert "s" in await nodes(client)
        assert await client.execute("block-export-del", {"id": "e"}) == {}
        assert [*await nodes(client)] == ["n"]


@pytest.mark.parametrize("kind", ["fifo", "directory", "missing"])
async def test_what_is_no_regular_file(serve: Serve, tmp_path: Path, kind: str) -> None:
    """Neither an opened device nor a pipe is written, and no command waits for one."""
    path = tmp_path / "no" / "file"
    words = f"Could not create '{path}': No such file or directory"
    if kind != "missing":
        path.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
        words = "Could not resize file: Invalid argument"
    if kind == "directory":
        path.mkdir()
        words = f"Could not create '{path}': Is a directory"
    async with serve({**WITH_DISK, "machine": {"images": True}}) as served:
        client = await served.client()
        options = {"driver": "file", "filename": str(path), "size": SIZE}
        create = {"job-id": "j", "options": options}
        await ended(client, "blockdev-create", create, "concluded")
        (job,) = await client.execute("query-jobs")
        assert job["error"] == words
        snapshot = {"snapshot-file": str(path), "snapshot-node-name": "s", "node-name": "n"}
        refused = await client.execute("blockdev-snapshot-sync", snapshot)
        assert refused["desc"] == words
