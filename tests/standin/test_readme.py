"""The page about scenarios and faults, and the example scenarios, hold."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from qmpserver import standin as package
from qmpserver.standin import Scenario, faults, vocabulary
from tests.standin.conftest import Raw, Serve

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "scenarios"
PAGE = (ROOT / "qmpserver" / "standin" / "README.md").read_text()


def test_the_example_in_the_page_is_a_scenario() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    scenario = Scenario.read(tomllib.loads(text))
    assert len(scenario.replies) == 3
    assert len(scenario.expected) == 2
    assert [spec.name for spec in scenario.faults] == ["late-reply", "stale-id"]


def test_the_tables_of_faults_are_complete() -> None:
    tables = re.findall(r"^\| fault \|.*\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    shown = [tuple(row.strip("| ").split(" | ")) for row in "".join(tables).splitlines()]
    assert shown == [(f"`{name}`", fault.__doc__) for name, fault in faults.FAULTS.items()]


def test_the_page_names_the_vocabularies() -> None:
    assert all(f"`{name}`" in PAGE for name in vocabulary.NAMED)
    assert set(package.__all__) == {"StandIn", "Scenario", "ScenarioError"}


GO = """package standin
import ("bufio"; "net"; "os"; "os/exec"; "path/filepath"; "syscall"; "testing")
func TestPause(t *testing.T) {
SNIPPET
	client, err := net.Dial("unix", listener.Addr().String())
	if err != nil { t.Fatal(err) }
	lines := bufio.NewScanner(client)
	for _, command := range []string{"qmp_capabilities", "stop"} {
		lines.Scan()
		client.Write([]byte(`{"execute": "` + command + `"}`))
	}
	for lines.Scan() && lines.Text() != `{"return": {}}` { }
	standIn.Process.Signal(syscall.SIGTERM)
	if err := standIn.Wait(); err != nil { t.Fatal(err) }
}
"""
RUST = """use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
fn main() -> std::io::Result<()> {
SNIPPET_BEGIN
    let mut client = loop {
        if let Ok(client) = UnixStream::connect(&path) { break client; }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    for command in ["qmp_capabilities", "stop", "quit"] {
        write!(client, "{{\\"execute\\": \\"{command}\\"}}\\n")?;
    }
SNIPPET_END
    Ok(())
}
"""


def snippet(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the snippets' scenario; the program is on the PATH."""
    (tmp_path / "pause.toml").write_text("expect = [{ command = 'stop' }]")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
def test_started_from_go(elsewhere: Path) -> None:
    (elsewhere / "go.mod").write_text("module standin\n")
    (elsewhere / "standin_test.go").write_text(GO.replace("SNIPPET", snippet("go")))
    subprocess.run(["go", "test", "./..."], cwd=elsewhere, check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("rustc") is None, reason="rustc is not installed")
def test_started_from_rust(elsewhere: Path) -> None:
    begin, end = re.split(r"^// at the end.*$", snippet("rust"), flags=re.MULTILINE)
    source = RUST.replace("SNIPPET_BEGIN", begin).replace("SNIPPET_END", end)
    (elsewhere / "main.rs").write_text(source)
    subprocess.run(["rustc", "-o", "main", "main.rs"], cwd=elsewhere, check=True, timeout=120)
    subprocess.run([elsewhere / "main"], cwd=elsewhere, check=True, timeout=20)


async def run(client: Raw, command: str, **arguments: object) -> object:
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    got = await client.execute(command, named or None)
    assert "desc" not in got, got
    return got


async def until_event(client: Raw, wanted: str, **data: object) -> None:
    while True:
        name, got = await client.event()
        if name == wanted and (got or {}).items() >= data.items():
            return


@pytest.mark.slow
async def test_hotplug_as_kata_does_it(serve: Serve) -> None:
    async with serve(str(EXAMPLES / "kata-hotplug.toml")) as served:
        client = await served.client()
        assert len(served.stand_in.failures()) > 5
        file = {"driver": "file", "filename": "/dev/null"}
        await run(client, "blockdev-add", driver="raw", node_name="drive-1", file=file)
        disk = {"driver": "virtio-blk-pci", "id": "virtio-drive-1", "drive": "drive-1"}
        assert await client.execute("device_add", disk) == {}
        await run(client, "netdev_add", type="tap", id="tap0", fds="3:4")
        nic = {"driver": "virtio-net-pci", "id": "nic0", "netdev": "tap0", "addr": "03"}
        assert await client.execute("device_add", nic) == {}
        await run(client, "object-add", qom_type="memory-backend-ram", id="mem0", size=1 << 30)
        await run(client, "device_add", driver="pc-dimm", id="dimm0", memdev="mem0")
        await run(client, "device_del", id="virtio-drive-1")
        await until_event(client, "DEVICE_DELETED", device="virtio-drive-1")
        await run(client, "blockdev-del", node_name="drive-1")
        assert served.stand_in.failures() == []


async def test_a_client_that_does_not_wait_for_the_event_fails(serve: Serve) -> None:
    async with serve(str(EXAMPLES / "kata-hotplug.toml")) as served:
        client = await served.client()
        await run(client, "blockdev-add", driver="null-co", node_name="drive-1")
        await run(client, "device_add", driver="virtio-blk-pci", id="d", drive="drive-1")
        await run(client, "device_del", id="d")
        refused = await client.execute("blockdev-del", {"node-name": "drive-1"})
        assert refused["desc"] == "Node drive-1 is in use"


async def test_suspend_and_power_down_as_multipass_does_it(serve: Serve) -> None:
    async with serve(str(EXAMPLES / "multipass-suspend.toml")) as served:
        client = await served.client()
        client.send("human-monitor-command", {"command-line": "savevm suspend"})
        assert [(await client.event())[0] for _ in range(2)] == ["STOP", "RESUME"]
        assert await client.receive() == {"return": ""}
        client.send("system_powerdown")
        await until_event(client, "POWERDOWN")
        assert await client.receive() == {"return": {}}
        await until_event(client, "SHUTDOWN", guest=True, reason="guest-shutdown")
        await served.stand_in.finished.wait()
        assert served.stand_in.failures() == []


async def test_migration_as_incus_does_it(serve: Serve) -> None:
    async with serve(str(EXAMPLES / "incus-migrate.toml")) as served:
        client = await served.client()
        on = [{"capability": one, "state": True} for one in ("events", "pause-before-switchover")]
        await run(client, "migrate-set-capabilities", capabilities=on)
        await run(client, "migrate", uri="fd:migration")
        first = await run(client, "query-migrate")
        assert isinstance(first, dict)
        assert first["status"] in ("setup", "active")
        await until_event(client, "MIGRATION", status="pre-switchover")
        assert served.said.sent("RESET")
        await run(client, "migrate-continue", state="pre-switchover")
        await until_event(client, "MIGRATION", status="completed")
        assert served.stand_in.failures() == []
