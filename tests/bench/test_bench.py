"""The measurements, run briefly: their output is checked, not their figures."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmpserver.bench.command_line import command_line, has_qemu
from qmpserver.bench.servers import OURS
from qmpserver.tools.errors import UsageError
from tests.conftest import Until, listens, require_engine
from tests.tools.conftest import BIN, Run, serving


def bench(qmpctl: Run, *words: str) -> str:
    ran = qmpctl("bench", *words)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def samples(path: Path) -> dict[tuple[str, str], list[float]]:
    result: Any = json.loads(path.read_text())
    return {(one["server"], one["what"]): one["samples"] for one in result["series"]}


def test_what_a_command_leaves_open_is_added(tmp_path: Path) -> None:
    words = command_line("qmpserver -smp 4 --accel soft", str(tmp_path), vcpus=1, accel="kvm")
    assert words[:5] == ["qmpserver", "-smp", "4", "--accel", "soft"]
    assert words[5:7] == ["-m", "512M"]
    assert words[7] == "-qmp"
    assert "-accel" not in words
    words = command_line(OURS, str(tmp_path), vcpus=4, accel="kvm", ram="1G")
    assert words[3:] == ["-accel", "kvm", "-smp", "4", "-m", "1G", *words[9:]]
    words = command_line("/x/qemu-system-x86_64 -m size=64M", str(tmp_path), vcpus=2, accel="kvm")
    assert words[words.index("-smp") + 1] == "2"
    assert Path(words[words.index("-bios") + 1]).stat().st_size > 0
    words = command_line("q", str(tmp_path), vcpus=1, accel="kvm", ram="9M", guest={"size": "1M"})
    assert words[words.index("-m") + 1] == "9M"
    assert words[-2:] == ["-guest", "dirty,size=1M"]
    with pytest.raises(UsageError, match="-smp cores=2"):
        command_line("qmpserver -smp cores=2", str(tmp_path), vcpus=1, accel="kvm")


@pytest.fixture(scope="module")
def compared(accel: str, qmpctl: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a report on `cancel` and `floor`."""
    output = tmp_path_factory.mktemp("compared") / accel
    words = ["--rounds", "2", "--only", "cancel", "--only", "floor", "--accel", accel]
    assert bench(qmpctl, "compare", "--output", str(output), *words) == f"{output}/report.md\n"
    return output


@pytest.mark.slow
def test_compare_writes_a_report(compared: Path) -> None:
    report = (compared / "report.md").read_text()
    with_qemu = compared.name == "kvm" and has_qemu()
    assert ("QEMU : event-driven reaper" in report) == with_qemu
    assert ("`qmpctl bench cancel --cycles 2 --qemu --accel kvm`" in report) == with_qemu
    for name in ("cancel", "floor"):
        assert f"## {name}\n" in report
        assert f"![{name}]({name}.svg)" in report
        assert (compared / f"{name}.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.slow
def test_cancel(compared: Path) -> None:
    assert "| to the ack " in (compared / "report.md").read_text()
    stored = samples(compared / "cancel.json")
    for what in ("to the ack", "to the reaper's wake", "to the throttled vCPU running again"):
        for server in ("event-driven reaper", "polling reaper"):
            assert len(stored[server, what]) == 2
            assert min(stored[server, what]) > 0


@pytest.mark.slow
def test_floor(compared: Path) -> None:
    for what in (
        "eventfd ping, ms",
        "socket echo, there and back, ms",
        "harvest and reset, ns a page",
    ):
        assert f"| {what} " in (compared / "report.md").read_text()
    stored = samples(compared / "floor.json")
    assert len(stored["idle", "eventfd ping, ms"]) == 2
    assert all(min(values) > 0 for values in stored.values())


@pytest.mark.slow
def test_servers_that_are_named(qmpctl: Run, kvm: None, qemu: str, tmp_path: Path) -> None:
    """A beside B: the commands are the columns."""
    raw = tmp_path / "raw.json"
    ours = "qmpserver -accel kvm,dirty-ring-size=4096,reaper=poll"
    words = ["--server", ours, "--server", qemu, "--json", str(raw)]
    text = bench(qmpctl, "cancel", "--cycles", "1", *words)
    assert f"{qemu} : {ours}" in text
    assert set(samples(raw)) >= {(ours, "to the ack"), (qemu, "to the ack")}


@pytest.fixture
def running(tmp_path: Path, until: Until) -> Iterator[str]:
    with serving("qmpserver", tmp_path, until) as address:
        yield address


@pytest.mark.slow
def test_qmp_of_servers_that_are_named(qmpctl: Run, running: str, tmp_path: Path) -> None:
    """One that runs already beside one that is launched; the first has one client."""
    raw = tmp_path / "raw.json"
    words = ["--windows", "1", "--seconds", "0.02", "--clients", "1", "2", "--json", str(raw)]
    text = bench(qmpctl, "qmp", *words, "--qmp", running, "--server", "qmpserver -accel soft")
    assert "for each idle client" in text or "no measurable growth" in text
    stored = samples(raw)
    what = "pipelined, 2 clients, thousand/s"
    assert (len(stored[running, what]), len(stored["qmpserver -accel soft", what])) == (0, 1)
    assert len(stored[running, "round trip, on one processor, us"]) == 100
    assert stored[running, "pipelined, 1 client, thousand/s"] > [0.0]


@pytest.mark.slow
def test_a_running_server_goes_on_running(qmpctl: Run, running: str) -> None:
    assert running in bench(qmpctl, "cancel", "--cycles", "1", "--qmp", running)
    status = json.loads(qmpctl("--qmp", running, "exec", "--json", "query-status").stdout)
    assert status["running"]
    ran = qmpctl("bench", "limit", "--vcpus", "9", "--qmp", running)
    assert ran.returncode == 2
    assert "9 vCPUs are needed, it has 2" in ran.stderr


@pytest.mark.slow
def test_a_server_that_does_not_start(qmpctl: Run) -> None:
    ran = qmpctl("bench", "cancel", "--server", "no-such-server")
    assert (ran.returncode, ran.stderr) == (
        1,
        "qmpctl: no-such-server: No such file or directory\n",
    )
    ran = qmpctl("bench", "cancel", "--server", "qmpserver -no-such-option")
    assert ran.returncode == 1
    assert "no-such-option" in ran.stderr


@pytest.mark.slow
def test_a_picture_of_no_kind(qmpctl: Run) -> None:
    ran = qmpctl("bench", "cancel", "--plot", "x.gif")
    assert ran.returncode == 2
    assert "'x.gif' ends in neither .png nor .svg" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["cancel", "--cycles", "0"], "'0' must be a number >= 1"),
        (["cancel", "--json", "/nonexistent/x"], "the directory does not exist"),
        (["limit", "--seconds", "1"], "'1' must be a number >= 3"),
        (["guest", "--windows", "x"], "'x' must be a number >= 1"),
    ],
)
def test_refused_before_anything_is_measured(qmpctl: Run, words: list[str], why: str) -> None:
    ran = qmpctl("bench", *words)
    assert ran.returncode == 2
    assert why in ran.stderr


@pytest.mark.slow
def test_machines(qmpctl: Run, tmp_path: Path) -> None:
    words = ["--machines", "5", "--processes", "2", "--commands", "3", "--rounds", "1"]
    shown = bench(qmpctl, "machines", *words, "--json", str(tmp_path / "m.json"))
    assert "| 5 stand-ins, one process |" in shown
    counts = {server: len(taken) for (server, what), taken in samples(tmp_path / "m.json").items()
              if what.startswith("latency")}  # fmt: skip
    assert counts.pop("5 stand-ins, one process") == 15
    assert set(counts.values()) == {6}


@pytest.mark.slow
def test_a_signal_ends_the_servers_too(accel: str, until: Until) -> None:
    """A measurement's guests take all processors; none may stay behind."""
    require_engine()
    words = [str(BIN / "qmpctl"), "bench", "limit", "--accel", accel]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def servers() -> list[str]:
            return children.read_text().split()

        until(lambda: servers() and len(os.listdir(f"/proc/{servers()[0]}/task")) > 2)
        started = servers()
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


@pytest.mark.slow
def test_scale(qmpctl: Run, accel: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    words = ["--size", "2,8G", "--cycles", "1", "--json", str(raw)]
    assert "| 2 vCPUs, 8G " in bench(qmpctl, "scale", "--accel", accel, *words)
    assert all(len(values) == 1 and values[0] > 0 for values in samples(raw).values())
    assert qmpctl("bench", "scale", "--size", "0,1G").returncode == 2


@pytest.mark.slow
def test_qmp(qmpctl: Run) -> None:
    words = ["--no-qemu", "--windows", "1", "--seconds", "0.1", "--clients", "1", "3"]
    text = bench(qmpctl, "qmp", "--accel", "soft", *words)
    assert "| an echo : qmpserver |" in text
    assert "| round trip, on one processor, us " in text
    assert ("| round trip, on two, us " in text) == (len(os.sched_getaffinity(0)) > 1)
    assert "| pipelined, 3 clients, thousand/s " in text


@pytest.mark.slow
def test_start(qmpctl: Run, tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    words = ["--starts", "2", "--server", "qmpserver -accel soft", "--json", str(raw)]
    assert "| qmpserver -accel soft " in bench(qmpctl, "start", *words)
    stored = samples(raw)
    assert set(stored) == {("ms", "import asyncio"), ("ms", "qmpserver -accel soft")}
    assert all(len(values) == 2 and min(values) > 0 for values in stored.values())
    ran = qmpctl("bench", "start", "--server", "no-such-server")
    assert (ran.returncode, ran.stderr) == (
        1,
        "qmpctl: no-such-server: No such file or directory\n",
    )
    ran = qmpctl("bench", "start", "--server", "false")
    assert (ran.returncode, ran.stderr) == (1, "qmpctl: false: no greeting\n")


@pytest.mark.slow
def test_release(qmpctl: Run, accel: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    bench(qmpctl, "release", "--accel", accel, "--cycles", "2", "--quits", "1", "--json", str(raw))
    counts = {what.partition(":")[0]: len(took) for (_, what), took in samples(raw).items()}
    assert counts == {
        "cancel": 2,
        "limit raised to 400 MB/s": 2,
        "cont after stop": 2,
        "stop": 2,
        "quit": 1,
    }


@pytest.mark.slow
def test_fair(qmpctl: Run, accel: str) -> None:
    text = bench(qmpctl, "fair", "--accel", accel, "--windows", "1")
    assert "| measured : reference |" in text
    for what in ("beside a limited vCPU : alone", "no limit : no ring", "within its limit"):
        assert f"| {what}" in text


@pytest.mark.slow
def test_fair_of_servers_that_are_named(qmpctl: Run, running: str) -> None:
    ours = "qmpserver -accel soft,dirty-ring-size=4096"
    text = bench(qmpctl, "fair", "--windows", "1", "--qmp", running, "--server", ours)
    for name in (running, ours):
        assert f"| beside a limited vCPU : a free one, {name} " in text


@pytest.mark.slow
def test_guest(qmpctl: Run, kvm: None) -> None:
    words = ["--windows", "1", "--limited-windows", "1", "--server", "qmpserver"]
    text = bench(qmpctl, "guest", *words)
    for what in ("free", "tracked", "limited to 100 MB/s"):
        assert f"| {what} " in text


@pytest.mark.slow
def test_the_image_boots_qemu_by_hand(
    qmpctl: Run, kvm: None, qemu: str, tmp_path: Path, until: Until
) -> None:
    """`qmpctl guest` and the command that its help shows: then it can be measured."""
    image, path = tmp_path / "dirty.bin", tmp_path / "q.sock"
    assert qmpctl("guest", "--output", str(image), "--ram", "64M").returncode == 0
    argv = [qemu, "-accel", "kvm,dirty-ring-size=4096", "-m", "64M"]
    argv += ["-bios", str(image), "-display", "none", "-nodefaults"]
    argv += ["-object", "memory-backend-memfd,id=ram,size=64M,share=on"]
    argv += ["-machine", "pc,memory-backend=ram", "-qmp", f"unix:{path},server=on,wait=on"]
    with subprocess.Popen(argv) as process:
        try:
            until(lambda: process.poll() is not None or listens(path))
            text = bench(qmpctl, "cancel", "--cycles", "1", "--qmp", f"unix:{path}")
        finally:
            process.terminate()
    assert "| to the throttled vCPU running again " in text


@pytest.mark.slow
def test_stream(qmpctl: Run, tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    words = ["--size", "8", "--rounds", "2", "--channels", "1", "3", "--json", str(raw)]
    assert "3 channels : bare sendmsg" in bench(qmpctl, "stream", *words)
    stored = samples(raw)
    assert [name for name, _ in stored] == ["bare sendmsg", "1 channel", "3 channels"]
    assert all(len(values) == 2 and min(values) > 0 for values in stored.values())
