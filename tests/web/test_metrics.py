"""What ``/metrics`` tells, and that telling it costs nothing but a moment."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from qmpserver.monitor import Server
from qmpserver.vm.accel import AccelOptions, open_accelerator
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.machine.guest import DirtyGuest
from qmpserver.vm.machine.machine import Machine
from qmpserver.web.metrics import Metrics
from tests.counting import calls
from tests.web.conftest import VCPUS, Web

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 30.0
RATE = "qmpserver_vcpu_dirty_rate_bytes_per_second"
LIMIT = "qmpserver_vcpu_dirty_limit_bytes_per_second"

_families: Callable[[str], list[Metric]] = text_string_to_metric_families  # it has no types


class Scrape:
    """What one scrape has told."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in _families(text)}

    def samples(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for family in self.families.values():
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found

    def value(self, name: str, **labels: str) -> float:
        (sample,) = (s for s in self.samples().get(name, ()) if s.labels == labels)
        return float(sample.value)

    def of_vcpus(self, name: str) -> dict[str, float]:
        return {sample.labels["vcpu"]: sample.value for sample in self.samples().get(name, ())}


async def scrape(site: Web, http: aiohttp.ClientSession) -> Scrape:
    async with http.get(site.url + "/metrics", headers=site.bearer) as response:
        assert response.status == 200
        kind = response.headers["Content-Type"]
        assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        return Scrape(await response.text())


async def until(
    site: Web, http: aiohttp.ClientSession, wanted: Callable[[Scrape], object]
) -> Scrape:
    async with asyncio.timeout(PATIENCE):
        while True:
            if wanted(got := await scrape(site, http)):
                return got
            await asyncio.sleep(0.01)


async def execute(site: Web, http: aiohttp.ClientSession, command: str, **arguments: Any) -> Any:
    body = {"execute": command, "arguments": arguments}
    async with http.post(site.url + "/qmp", json=body, headers=site.bearer) as response:
        return await response.json()


async def test_names_and_units_follow_the_conventions(
    site: Web, http: aiohttp.ClientSession
) -> None:
    await execute(site, http, "query-status")
    got = await scrape(site, http)
    assert got.families
    for family in got.families.values():
        assert family.name.startswith("qmpserver_")
        assert family.documentation
        assert not family.unit or family.name.endswith("_" + family.unit)
        for word in ("ns", "ms", "us", "mb", "milliseconds", "megabytes"):
            assert word not in family.name.split("_")
    units = {family.unit for family in got.families.values()}
    assert units == {"", "seconds", "bytes_per_second"}


async def test_a_scrape_switches_nothing_on(site: Web, http: aiohttp.ClientSession) -> None:
    for _ in range(5):
        got = await scrape(site, http)
    assert not site.machine.accel.engine.tracking
    assert got.value("qmpserver_dirty_tracking") == 0
    assert got.of_vcpus(RATE) == {}  # nothing is known, which is not 0
    assert got.of_vcpus(LIMIT) == {}
    assert got.of_vcpus("qmpserver_vcpu_throttled_seconds_total") == {"0": 0, "1": 0}


@pytest.mark.slow
async def test_a_limited_vcpu(site: Web, http: aiohttp.ClientSession) -> None:
    await execute(site, http, "set-vcpu-dirty-limit", **{"cpu-index": 1, "dirty-rate": 20})
    harvested = "qmpserver_vcpu_harvested_pages_total"
    await until(site, http, lambda got: all(got.of_vcpus(harvested).values()))

    def limited(got: Scrape) -> bool:
        rate = got.of_vcpus(RATE)
        return 18e6 < rate.get("1", 0) < 23e6 < rate["0"]

    got = await until(site, http, limited)
    assert got.value("qmpserver_dirty_tracking") == 1
    assert got.of_vcpus(LIMIT) == {"1": 20 << 20}
    throttled = "qmpserver_vcpu_throttled_seconds_total"
    assert 0 < got.of_vcpus(throttled)["1"] < PATIENCE
    assert got.of_vcpus(throttled)["0"] == 0
    counted = [site.machine.accel.engine.vcpu(index).harvested for index in range(VCPUS)]
    for index in range(VCPUS):
        assert 0 < got.of_vcpus(harvested)[str(index)] <= counted[index]
    await execute(site, http, "cancel-vcpu-dirty-limit")
    got = await until(site, http, lambda got: not got.of_vcpus(RATE))  # tracking ends
    assert got.of_vcpus(LIMIT) == {}


def has_taken_its_turns(got: Scrape) -> bool:
    """Return whether the reaper has woken for each kick, and ended the turns of these wakes.

    Until then its times are not complete: a wake is counted before its time is.
    """
    counts = ("turns", "fallback_turns", "wakes", "coalesced_kicks", "kicks")
    turns, fallback, wakes, coalesced, kicks = (
        got.value(f"qmpserver_reaper_{name}_total") for name in counts
    )
    return turns - fallback == wakes and wakes + coalesced == kicks


async def test_the_reaper_s_wakes(site: Web, http: aiohttp.ClientSession) -> None:
    for _ in range(3):
        await execute(site, http, "set-vcpu-dirty-limit", **{"dirty-rate": 20})
        await execute(site, http, "cancel-vcpu-dirty-limit")
    got = await until(site, http, has_taken_its_turns)
    assert got.value("qmpserver_reaper_kicks_total") == 3
    assert site.machine.accel.engine.reaper().kicks == 3
    assert got.value("qmpserver_reaper_turns_total") > 0
    name = "qmpserver_reaper_kick_to_wake_seconds"
    buckets = got.samples()[name + "_bucket"]
    wakes = got.value(name + "_count")
    assert wakes == buckets[-1].value >= 1
    bounds = [float(sample.labels["le"]) for sample in buckets]
    # The sum lies where the buckets say.
    counts = [sample.value for sample in buckets]
    each = [after - before for before, after in zip([0, *counts], counts, strict=False)]
    lowest = sum(n * low for n, low in zip(each, [0.0, *bounds], strict=False))
    highest = sum(n * high for n, high in zip(each, bounds, strict=True) if n)
    assert lowest <= got.value(name + "_sum") <= highest


async def test_commands_by_name_and_result(site: Web, http: aiohttp.ClientSession) -> None:
    for _ in range(3):
        await execute(site, http, "query-name")
    await execute(site, http, "query-name", nonsense=1)
    await execute(site, http, "set-vcpu-dirty-limit", **{"dirty-rate": 1, "cpu-index": 99})
    await execute(site, http, "calc-dirty-rate", **{"calc-time": 99})
    got = await scrape(site, http)
    counts = {
        (sample.labels["command"], sample.labels["result"]): sample.value
        for sample in got.samples()["qmpserver_commands_total"]
    }
    assert counts == {
        ("query-name", "success"): 3,
        ("query-name", "error"): 1,
        ("set-vcpu-dirty-limit", "success"): 0,
        ("set-vcpu-dirty-limit", "error"): 1,
        ("calc-dirty-rate", "success"): 0,
        ("calc-dirty-rate", "error"): 1,
    }
    async with http.ws_connect(site.url + "/qmp", headers=site.bearer) as ws:
        await ws.receive_str()
        await ws.send_json({"execute": "qmp_capabilities"})
        await ws.receive_str()
        for number in range(1000):
            await ws.send_json({"execute": f"made-up-{number}"})
        for _ in range(1000):
            await ws.receive_str()
        after = await scrape(site, http)
    assert after.value("qmpserver_commands_not_found_total") == 1000
    assert len(after.samples()["qmpserver_commands_total"]) == len(counts)
    assert after.value("qmpserver_monitor_clients", mode="control") == 1
    assert after.value("qmpserver_monitor_clients", mode="readline") == 0


@pytest.mark.slow
async def test_the_run_state(site: Web, http: aiohttp.ClientSession) -> None:
    async def states() -> dict[str, float]:
        samples = (await scrape(site, http)).samples()["qmpserver_run_state"]
        return {sample.labels["qmpserver_run_state"]: sample.value for sample in samples}

    assert {state for state, on in (await states()).items() if on} == {"running"}
    await execute(site, http, "stop")
    assert {state for state, on in (await states()).items() if on} == {"paused"}
    about = (await scrape(site, http)).samples()["qmpserver_build_info"][0].labels
    assert about["accelerator"] == "soft"
    assert about["dirty_ring_size"] == "4096"


async def test_a_scrape_of_64_vcpus_is_cheap(server: Server) -> None:
    ram = Ram(64 << 20)
    accel, _ = open_accelerator(ram, [AccelOptions("soft", 4096)])
    guest = DirtyGuest({}, ram.buffer, 64, accel.clock_hz)
    guest.load()
    accel.add_vcpus(guest, 64)
    machine = Machine(ram, accel, guest)
    machine.start(stopped=True)
    try:
        machine.dirty_limit.set(100)
        await machine.tracking.wait()
        metrics = Metrics(server, machine)
        assert len(Scrape(metrics.text().decode()).of_vcpus(LIMIT)) == 64
        print("CALLS", calls(metrics.text))
        assert calls(metrics.text) < 20_000  # takes 1.9 ms on an idle machine
    finally:
        await machine.close()


def test_promtool_accepts_the_example(tmp_path: Path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool (Debian: prometheus) is not installed")
    (tmp_path / "token").write_text("token")
    shutil.copy(EXAMPLES / "prometheus.yml", tmp_path)
    checked = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert checked.returncode == 0, checked.stderr


@asynccontextmanager
async def prometheus(site: Web, http: aiohttp.ClientSession, path: Path) -> AsyncIterator[str]:
    """A real one that scrapes *site* as the example says; gives the address of its queries."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus (Debian: prometheus) is not installed")
    (path / "token").write_text(site.token)
    config = (EXAMPLES / "prometheus.yml").read_text()
    assert "127.0.0.1:8080" in config
    (path / "prometheus.yml").write_text(config.replace("127.0.0.1:8080", f"127.0.0.1:{site.port}"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (path / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={path}/prometheus.yml",
            f"--storage.tsdb.path={path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}/api/v1/query"
    finally:
        process.terminate()
        await process.wait()


async def ask(http: aiohttp.ClientSession, url: str, expression: str) -> list[dict[str, Any]]:
    """Ask until there is an answer."""
    answer = None
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    async with http.get(url, params={"query": expression}) as response:
                        answer = await response.json()
                except (aiohttp.ClientError, TimeoutError):
                    pass  # it is starting
                else:
                    if response.status != 503:
                        assert answer["status"] == "success", answer
                        if answer["data"]["result"]:
                            return list(answer["data"]["result"])
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"no answer to {expression}: {answer}") from None


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 10
    return expressions


@pytest.mark.slow
async def test_a_prometheus_scrapes_it_and_knows_what_the_dashboard_asks(
    site: Web, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with prometheus(site, http, tmp_path) as url:
        await execute(site, http, "set-vcpu-dirty-limit", **{"cpu-index": 0, "dirty-rate": 10})
        (up,) = await ask(http, url, 'up{job="qmpserver"} == 1')
        instance = up["metric"]["instance"]
        assert instance == f"127.0.0.1:{site.port}"
        (limit,) = await ask(http, url, LIMIT)
        assert limit["metric"]["vcpu"] == "0"
        assert float(limit["value"][1]) == 10 << 20
        (state,) = await ask(http, url, "qmpserver_run_state == 1")
        assert state["metric"]["qmpserver_run_state"] == "running"
        for expression in dashboard_expressions():
            asked = expression.replace("$__rate_interval", "1m").replace("$instance", instance)
            assert "$" not in asked
            await ask(http, url, asked)


async def test_the_dashboard_names_what_there_is(site: Web, http: aiohttp.ClientSession) -> None:
    await execute(site, http, "set-vcpu-dirty-limit", **{"dirty-rate": 10})
    there = (await until(site, http, lambda got: got.of_vcpus(RATE))).samples()
    labels = {
        name: {label for sample in samples for label in sample.labels}
        for name, samples in there.items()
    }
    dashboard = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"\bqmpserver_\w+", target["expr"])
            assert names
            for name in names:
                assert name in labels, target["expr"]
                for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                    assert label in labels[name], target["legendFormat"]


async def test_the_first_bucket_is_up_to_a_microsecond(
    site: Web, http: aiohttp.ClientSession
) -> None:
    buckets = (await scrape(site, http)).samples()["qmpserver_reaper_kick_to_wake_seconds_bucket"]
    assert float(buckets[0].labels["le"]) == pytest.approx(1023e-9)
