"""Scenarios: how they are read, how errors are reported, and how stand-ins play them."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from qmpserver.standin import Scenario, ScenarioError, StandIn
from qmpserver.standin.parts import MachineState
from tests.standin.conftest import Serve

PAUSED = {"status": "paused", "running": False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("on = 1", "a.toml: on: 1 is not a list"),
        ("on = [1]", "a.toml: on[1]: 1 is not a table"),
        ("[[on]]", "a.toml: on[1].command: missing; it must be a string"),
        ("[[on]]\ncomand = 'stop'",
         "a.toml: on[1].comand: unknown key 'comand'; did you mean 'command'?"),
        ("[[event]]\nevnt = 'STOP'",
         "a.toml: event[1].evnt: unknown key 'evnt'; did you mean 'event'?"),
        ("[[event]]\nevent = 'RTC_CHANGE'\ndat = {}",
         "a.toml: event[1].dat: unknown key 'dat'; did you mean 'data'?"),
        ("[[on]]\ncommand = 'stop'\narguments = {x = 1}",
         "a.toml: on[1].arguments.x: unknown argument 'x'; there is none"),
        ("[[on]]\ncommand = 'qmp_capabilities'\nerror = 'x'\nevents = [{event = 'STOP'}]",
         "a.toml: on[1].events: no event follows a negotiation that is refused"),
        ("machine.uuid = 'x'",
         "a.toml: machine.uuid: 'x': failed to parse UUID string: wrong format"),
        ("include = ''", "a.toml: include: the file has no name"),
        ("[[on]]\ncommand = true", "a.toml: on[1].command: true is not a string"),
        ("[[on]]\ncommand = 'qery-status'",
         "a.toml: on[1].command: unknown command 'qery-status'; did you mean 'query-status'?"),
        ("[[on]]\ncommand = 'stop'\n[[on]]\ncommand = 'stop'\nretrun = {}",
         "a.toml: on[2].retrun: unknown key 'retrun'; did you mean 'return'?"),
        ("[[on]]\ncommand = 'query-status'\nreturn = {}",
         "a.toml: on[1].return: command 'query-status' sends what the schema forbids: "
         "Parameter 'running' is missing"),
        ("[[on]]\ncommand = 'stop'\nreturn = {}\nerror = 'no'",
         "a.toml: on[1].error: a reply has either 'error' or 'return', not both"),
        ("[[on]]\ncommand = 'stop'\nerror = 'no'\nclass = 'X'",
         "a.toml: on[1].class: unknown error class 'X'; it must be one of GenericError, "),
        ("[[on]]\ncommand = 'stop'\nclass = 'GenericError'",
         "a.toml: on[1].class: it needs a key 'error' with the description"),
        ("[[on]]\ncommand = 'stop'\ntimes = 0",
         "a.toml: on[1].times: 0 is too small; it must be 1 or more"),
        ("[[on]]\ncommand = 'stop'\ntimes = true", "a.toml: on[1].times: true is not an integer"),
        ("[[on]]\ncommand = 'stop'\ntimes = 1.5", "a.toml: on[1].times: 1.5 is not an integer"),
        ("[[on]]\ncommand = 'stop'\ndelay = -1",
         "a.toml: on[1].delay: -1 is not a number of seconds; it must be 0 or more"),
        ("[[on]]\ncommand = 'stop'\ndelay = nan",
         "a.toml: on[1].delay: nan is not a number of seconds; it must be 0 or more"),
        ("[[on]]\ncommand = 'migrate-pause'\ndelay = 1",
         "a.toml: on[1].delay: migrate-pause can be executed out of band and must not be delayed"),
        ("[[on]]\ncommand = 'netdev_del'\narguments = { idd = 1 }",
         "a.toml: on[1].arguments.idd: unknown argument 'idd'; did you mean 'id'?"),
        ("[[on]]\ncommand = 'netdev_del'\narguments = { id = '</(/>' }",
         "a.toml: on[1].arguments: /(/ is not a regular expression: missing ), "),
        ("[[on]]\ncommand = 'stop'\nevents = [{ event = 'STPO' }]",
         "a.toml: on[1].events[1].event: unknown event 'STPO'; did you mean 'STOP'?"),
        ("[[on]]\ncommand = 'stop'\nstatus = 'pausd'",
         "a.toml: on[1].status: unknown run state 'pausd'; did you mean 'paused'?"),
        ("[[on]]\ncommand = 'stop'\nshutdown = 'fire'",
         "a.toml: on[1].shutdown: unknown reason 'fire'; it must be one of none, host-error, "),
        ("[[event]]\nevent = 'RESET'\ndata = { guest = 1 }",
         "a.toml: event[1].data: event 'RESET' sends what the schema forbids: "
         "Invalid parameter type for 'guest', expected: boolean"),
        ("[[expect]]\ncommand = 'stop'\ntimes = 'often'",
         "a.toml: expect[1].times: 'often' is not a count; "
         'it must be a number, "1..", "..3" or "1..3"'),
        ("[[expect]]\ncommand = 'stop'\ntimes = '3..1'",
         "a.toml: expect[1].times: '3..1' is not a count; "),
        ("[[expect]]\ncommand = 'stop'\ntimes = true",
         "a.toml: expect[1].times: true is not a count; "),
        ("[[setup]]\ncommand = 'netdev_del'",
         "a.toml: setup[1].arguments: Parameter 'id' is missing"),
        ("[machine]\ncpus = 0", "a.toml: machine.cpus: 0 is too small; it must be 1 or more"),
        ("[machine]\ncpus = 1025",
         "a.toml: machine.cpus: 1025 is too large; it must be 1024 or less"),
        ("machine = 0", "a.toml: machine: 0 is not a table"),
        ("[machine]\nvcpus = 1",
         "a.toml: machine.vcpus: unknown key 'vcpus'; did you mean 'cpus'?"),
        ("fault = ['lat-reply']",
         "a.toml: fault[1].name: unknown fault 'lat-reply'; did you mean 'late-reply'?"),
        ("version = '7.2'", "a.toml: version: '7.2' is not a version such as 7.2.0"),
        ("schema = 'guest-agent'\nversion = '7.2.0'",
         "a.toml: version: the guest agent sends no greeting; leave the key out"),
        ("schema = 'guest-agent'\nfault = ['event-flood']",
         "a.toml: fault[1].name: event-flood sends events, and the schema has none"),
        ("schema = 'qemu'", "a.toml: schema: "),
        ("a = ", "a.toml: Invalid value (at end of document)"),
        ("-> {'execute':\n<- hello", "a.toml: line 2: a server's message is not JSON"),
        ('-> {"execute": "strange"}\n<- {"return": {}}',
         "a.toml:1: unknown command 'strange'; give the recorded server's schema"),
        ('-> {"execute": "stop"}\n<- {"error": {}}',
         "a.toml:2: {} is not an error; it must have a class and a desc"),
        ('-> {"execute": "stop"}\n<- {"error": {"class": "GenericError"}}',
         "a.toml:2: {'class': 'GenericError'} is not an error; it must have a class and a desc"),
        ('-> {"execute": "stop"}\n<- {"error": {"class": 1, "desc": "no"}}',
         "a.toml:2: {'class': 1"),
        ('-> {"execute": "stop"}\n<- {"error": 1}', "a.toml:2: 1 is not an error; "),
        ('-> {"execute": "stop"}\n<- {"retrun": {}}',
         "a.toml:2: {'retrun': {}} is neither a reply nor an event"),
        ('-> {"execute": "stop", "arguments": [1]}\n<- {"return": {}}',
         "a.toml:1: [1] is not an object"),
        ('-> {"execute": "stop", "arguments": {"a": "</(/>"}}\n<- {"return": {}}',
         "a.toml:1: /(/ is not a regular expression: "),
        ('-> {"execute": "stop"}\n<- {"event": 5}\n<- {"return": {}}',
         "a.toml:2: {'event': 5} is not an event"),
        ('-> {"execute": "stop"}\n<- {"event": "STOP", "data": 5}\n<- {"return": {}}',
         "a.toml:2: {'event': 'STOP', 'data': 5} is not an event"),
        ('<- {"QMP": 5}\n-> {"execute": "stop"}\n<- {"return": {}}',
         "a.toml:1: the greeting has no version of QEMU"),
        ('<- {"QMP": {"version": {"qemu": {"major": "x"}}}}\n'
         '-> {"execute": "stop"}\n<- {"return": {}}',
         "a.toml:1: {'major': 'x'} is not a version of QEMU"),
        ('-> {"execute": "stop"}\n<- {"return": ' + '{"a":' * 300 + "1" + "}" * 301,
         "a.toml: line 2: values are nested too deeply"),
        ("#! tolerance x much\n-> {}", "a.toml: line 1: '#! tolerance x much' is not one of: "),
        ("a = " + "[" * 5000, "a.toml: values are nested too deeply"),
        ("a = " + "9" * 5000, "a.toml: Exceeds the limit"),
        ("version = '" + "9" * 5000 + ".0.0'", "a.toml: version: '999"),
        ("[[expect]]\ncommand = 'stop'\ntimes = '" + "9" * 5000 + "..'",
         "a.toml: expect[1].times: "),
        ("[[on]]\ncommand = 'stop'\nerror = 'no'\n[on.arguments]\na = '</x{99999999999}/>'",
         "a.toml: on[1].arguments.a: unknown argument 'a'"),
        ("[[on]]\ncommand = 'netdev_del'\narguments = { id = '</x{99999999999}/>' }",
         "a.toml: on[1].arguments: /x{99999999999}/ is not a regular expression: "),
        ("[[on]]\ncommand = 'device_add'\narguments = { since = 1979-05-27 }",
         "a.toml: on[1].arguments: it cannot be written as JSON: "),
        ("[[on]]\ncommand = 'qom-get'\nreturn = nan",
         "a.toml: on[1].return: it cannot be written as JSON: "),
        ('schema = "a\\u0000b"', "a.toml: schema: embedded null byte"),
        ("include = 1", "a.toml: include: 1 is not a string or a list of strings"),
        ("include = ['a.toml', 1]", "a.toml: include[2]: 1 is not a string"),
        ("include = 'none'", "a.toml: include: "),
        ('include = "a\\u0000b"', "a.toml: include: "),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_value(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        Scenario.load(str(path))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


async def test_a_setup_that_the_state_refuses() -> None:
    gone = {"command": "netdev_del", "arguments": {"id": "n0"}}
    with pytest.raises(ScenarioError, match=r"setup\[1\]: netdev_del: Device 'n0' not found"):
        StandIn(Scenario.read({"setup": [gone]}))


@pytest.mark.parametrize("command", ["quit", "query-fdsets"])
async def test_a_setup_that_needs_a_client(command: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        StandIn(Scenario.read({"setup": [{"command": "stop"}, {"command": command}]}))
    message = f"setup[2]: {command}: it needs a client, so it cannot be part of the setup"
    assert str(caught.value) == message


async def test_a_setup_is_not_answered_by_the_script(serve: Serve) -> None:
    scenario = {
        "setup": [{"command": "stop"}],
        "on": [{"command": "stop", "error": "scripted", "times": 1, "delay": 0.01}],
    }
    async with serve(scenario) as served:
        client = await served.client()
        assert (await client.execute("query-status"))["status"] == "paused"
        assert (await client.execute("stop"))["desc"] == "scripted"


@pytest.mark.parametrize("log", ["/", "a\0b"])
async def test_a_log_that_cannot_be_written(log: str) -> None:
    with pytest.raises(ScenarioError, match=f"^log: {log}: [A-Za-z ]+$"):
        StandIn(Scenario.read({"log": log}))


async def test_comments_before_a_scenario(tmp_path: Path) -> None:
    """However many there are, it is known at once that it is no transcript."""
    path = tmp_path / "a.toml"
    path.write_text("\n\n# a comment\n" * 1000 + " " * 10_000 + "strict = true")
    assert Scenario.load(str(path)).strict


def table(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


async def test_replies_in_turn(serve: Serve) -> None:
    scenario = table("""
        [[on]]
        command = "query-status"
        times = 2
        return = { status = "paused", running = false }
        [[on]]
        command = "query-status"
        times = 1
        error = "no"
        class = "DeviceNotActive"
    """)
    async with serve(scenario) as served:
        client = await served.client()
        assert [await client.execute("query-status") for _ in range(2)] == [PAUSED, PAUSED]
        assert await client.execute("query-status") == {"class": "DeviceNotActive", "desc": "no"}
        assert (await client.execute("query-status"))["status"] == "running"


async def test_replies_by_arguments(serve: Serve) -> None:
    scenario = table("""
        [[on]]
        command = "device_add"
        arguments = { driver = "</^virtio-/>", id = "n1" }
        error = "Bus 'pcie.0' does not support hotplugging"
    """)
    async with serve(scenario) as served:
        client = await served.client()
        for driver, name, works in [("virtio-net-pci", "n1", False), ("virtio-net-pci", "n2", True),
                                    ("e1000", "n1", True)]:  # fmt: skip
            got = await client.execute("device_add", {"driver": driver, "id": name, "bus": "pci.0"})
            assert (got == {}) is works, got


async def test_arguments_are_checked_before_a_scenario_answers(serve: Serve) -> None:
    scenario = {"on": [{"command": "netdev_del", "return": {}}]}
    async with serve(scenario) as served:
        client = await served.client()
        assert await client.execute("netdev_del", {"id": "nobody"}) == {}
        refused = await client.execute("netdev_del", {"id": 1})
        assert refused["desc"] == "Invalid parameter type for 'id', expected: string"


async def test_events_before_and_after(serve: Serve) -> None:
    scenario = table("""
        [[on]]
        command = "system_powerdown"
        before = [{ event = "POWERDOWN" }]
        events = [
            { event = "SHUTDOWN", data = { guest = true, reason = "guest-shutdown" } },
            { event = "STOP", after = 0.05 },
        ]
        status = "shutdown"
    """)
    async with serve(scenario) as served:
        client = await served.client()
        client.send("system_powerdown")
        names = []
        for _ in range(6):
            message = await client.receive()
            names.append(message.get("event", "reply"))
        # What the state does by itself comes too.
        assert names == ["POWERDOWN", "STOP", "POWERDOWN", "reply", "SHUTDOWN", "STOP"]
        assert (await client.execute("query-status"))["status"] == "shutdown"


async def test_a_delay_lets_other_clients_pass(serve: Serve) -> None:
    scenario = {"on": [{"command": "query-block", "delay": 0.2, "return": []}]}
    async with serve(scenario, max_clients=2) as served:
        slow, quick = await served.client(), await served.client()
        slow.send("query-block")
        slow.send("query-name", id=1)
        assert await quick.execute("query-name") == {}
        assert await slow.receive() == {"return": []}
        assert await slow.receive() == {"return": {}, "id": 1}
        said = [one.client for one in served.said.messages if one.who == "server"]
        assert said[-3:] == [2, 1, 1]


async def test_an_empty_result_is_a_result(serve: Serve) -> None:
    scenario = {"on": [{"command": "query-pci", "return": []}]}
    async with serve(scenario) as served:
        client = await served.client()
        assert await client.execute("query-pci") == []


async def test_quit_ends_the_stand_in_also_with_a_scripted_reply(serve: Serve) -> None:
    async with serve({"on": [{"command": "quit", "return": {}}]}) as served:
        client = await served.client()
        client.send("quit")
        assert (await client.event())[0] == "SHUTDOWN"
        assert await client.receive() == {"return": {}}
        assert served.stand_in.finished.is_set()


async def test_events_of_their_own(serve: Serve) -> None:
    scenario = table("""
        [[event]]
        event = "RESUME"
        [[event]]
        event = "STOP"
        after = 0.05
    """)
    async with serve(scenario) as served:
        client = await served.client()
        assert await client.event() == ("RESUME", None)
        assert await client.event() == ("STOP", None)


async def test_setup_comes_before_the_first_client(serve: Serve) -> None:
    scenario = table("""
        [machine]
        status = "paused"
        cpus = 2
        uuid = "00000000-0000-0000-0000-00000000002a"
        [[setup]]
        command = "blockdev-add"
        arguments = { driver = "null-co", node-name = "disk" }
        [[setup]]
        command = "device_add"
        arguments = { driver = "virtio-blk-pci", drive = "disk", id = "vda" }
    """)
    async with serve(scenario) as served:
        client = await served.client()
        (block,) = await client.execute("query-block")
        assert block["qdev"] == "/machine/peripheral/vda/virtio-backend"
        assert block["inserted"]["node-name"] == "disk"
        assert (await client.execute("query-status"))["status"] == "paused"
        uuid = await client.execute("query-uuid")
        assert uuid == {"UUID": "00000000-0000-0000-0000-00000000002a"}


async def test_the_greeting_tells_the_version(serve: Serve) -> None:
    async with serve({"version": "9.1.2"}) as served:
        client = await served.connect()
        version = (await client.receive())["QMP"]["version"]
        assert version["qemu"] == {"major": 9, "minor": 1, "micro": 2}
        await client.execute("qmp_capabilities")
        assert await client.execute("query-version") == version


@pytest.mark.parametrize(
    ("wanted", "sent", "failures"),
    [
        ({"times": 0}, 1, ["expected stop never; it was sent once"]),
        ({"times": "2.."}, 1, ["expected stop at least 2 times; it was sent once"]),
        ({"times": "..1"}, 2, ["expected stop 0 to 1 times; it was sent 2 times"]),
        ({"times": "..1"}, 0, []),
        ({"times": "1..2"}, 2, []),
        ({}, 3, []),
    ],
)
async def test_how_often(
    serve: Serve, wanted: dict[str, Any], sent: int, failures: list[str]
) -> None:
    async with serve({"expect": [{"command": "stop", **wanted}]}) as served:
        client = await served.client()
        for _ in range(sent):
            await client.execute("stop")
        assert served.stand_in.failures()[:1] == failures


async def test_expected_arguments(serve: Serve) -> None:
    wanted = {"command": "netdev_add", "arguments": {"type": "user", "id": "</^net/>"}}
    async with serve({"expect": [wanted]}) as served:
        client = await served.client()
        await client.execute("netdev_add", {"type": "tap", "id": "net0"})
        first, second, _ = served.stand_in.failures()
        assert first == (
            'expected netdev_add {"type": "user", "id": "</^net/>"} at least once;'
            " it was never sent"
        )
        assert second == '  sent with other arguments: {"type": "tap", "id": "net0"}'
        await client.execute("netdev_add", {"type": "user", "id": "net1", "net": "10.0.0.0/8"})
        assert served.stand_in.failures() == []


RECORDED = """
# transcript of somebody's QEMU
<- {"QMP": {"version": {"qemu": {"micro": 1, "minor": 2, "major": 8}, "package": ""},
            "capabilities": []}}
-> {"execute": "qmp_capabilities"}
<- {"return": {}}
-> {"execute": "query-status"}
<- {"return": {"status": "inmigrate", "running": false}}
-> {"execute": "cont"}
<- {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}
<- {"return": {}}
<- {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "WAKEUP"}
-> {"execute": "query-status"}
<- {"return": {"status": "running", "running": true}}
-> {"execute": "gone", "arguments": {}}
<- {"error": {"class": "CommandNotFound", "desc": "The command gone has not been found"}}
-> {"execute": "query-named-block-nodes"}
<- {"error": {"class": "GenericError", "desc": "recorded"}}
-> {"execute": "device_del", "arguments": {"id": "x"}}
<- {"error": {"class": "GenericError", "desc": "Device x is already in the process of unplug"}}
"""


async def test_a_recording_answers_as_it_was_recorded(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "a.qmp"
    path.write_text(RECORDED)
    async with serve(str(path)) as served:
        client = await served.connect()
        greeting = await client.receive()
        assert greeting["QMP"]["version"]["qemu"] == {"major": 8, "minor": 2, "micro": 1}
        await client.execute("qmp_capabilities")
        first = await client.execute("query-status")
        assert first == {"status": "inmigrate", "running": False}
        client.send("cont")
        names = [(await client.receive()).get("event") for _ in range(3)]
        assert names == ["RESUME", None, "WAKEUP"]
        for _ in range(2):  # the last recorded one stays; the state would say `running`
            running = await client.execute("query-status")
            assert running == {"status": "running", "running": True}
        assert (await client.execute("query-named-block-nodes"))["desc"] == "recorded"
        assert await client.execute("query-named-block-nodes", {"flat": True}) == []
        assert (await client.execute("gone"))["class"] == "CommandNotFound"
        refused = await client.execute("device_del", {"id": "x"})
        assert refused["desc"] == "Device x is already in the process of unplug"
        assert (await client.execute("device_del", {"id": "y"}))["class"] == "DeviceNotFound"


AROUND_THE_NEGOTIATION = """
<- {"event": "POWERDOWN"}
<- {"QMP": {"version": {"qemu": {"micro": 1, "minor": 2, "major": 8}, "package": ""},
            "capabilities": []}}
-> {"execute": "qmp_capabilities"}
<- {"error": {"class": "GenericError", "desc": "busy"}}
-> {"execute": "qmp_capabilities", "arguments": {"enable": []}}
<- {"event": "STOP"}
<- {"return": {}}
<- {"event": "RESUME"}
-> {"execute": "qmp_capabilities"}
<- {"error": {"class": "CommandNotFound",
    "desc": "Capabilities negotiation is already complete, command ignored"}}
"""


async def test_recorded_events_around_the_negotiation(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "a.qmp"
    path.write_text(AROUND_THE_NEGOTIATION)
    async with serve(str(path)) as served:
        client = await served.connect()
        assert await client.event() == ("POWERDOWN", None)
        assert "QMP" in await client.receive()
        client.send("qmp_capabilities")
        assert (await client.receive())["error"]["desc"] == "busy"
        client.send("qmp_capabilities")
        assert await client.event() == ("STOP", None)
        assert await client.receive() == {"return": {}}
        assert await client.event() == ("RESUME", None)
        refused = await client.execute("qmp_capabilities")
        assert refused["desc"].startswith("Capabilities negotiation is already complete")
        await client.close()
        client = await served.client()  # as another one, which was not recorded
        assert (await client.execute("query-status"))["status"] == "running"


async def test_a_scripted_negotiation(serve: Serve) -> None:
    scenario = table("""
        [[on]]
        command = "qmp_capabilities"
        times = 1
        error = "busy"
        [[on]]
        command = "qmp_capabilities"
        delay = 0.01
        before = [{ event = "POWERDOWN" }]
        events = [{ event = "STOP" }]
        [[expect]]
        command = "qmp_capabilities"
        times = 2
    """)
    async with serve(scenario) as served:
        client = await served.connect()
        assert "QMP" in await client.receive()
        assert await client.execute("qmp_capabilities") == {"class": "GenericError", "desc": "busy"}
        assert (await client.execute("stop"))["desc"].startswith("Expecting capabilities")
        client.send("qmp_capabilities")
        client.send("query-name")
        assert await client.event() == ("POWERDOWN", None)
        assert await client.receive() == {"return": {}}
        assert await client.reply() == {"return": {}}
        assert served.stand_in.failures() == []


async def test_what_a_scenario_includes(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    files = {
        "a.toml": """
            include = ["below/b.toml", "below/c.qmp"]
            [[on]]
            command = "query-name"
            return = { name = "a" }
            times = 1
            [[setup]]
            command = "blockdev-del"
            arguments = { node-name = "b" }
            [machine]
            cpus = 2
        """,
        "below/b.toml": """
            include = ["c.qmp", "../a.toml"]
            version = "9.1.0"
            strict = true
            fault = ["not-json:stop"]
            log = "/dev/null"
            [machine]
            cpus = 3
            name = "b"
            [[setup]]
            command = "blockdev-add"
            arguments = { driver = "null-co", node-name = "b" }
            [[on]]
            command = "query-uuid"
            return = { UUID = "b" }
            [[expect]]
            command = "stop"
        """,
        "below/c.qmp": """
-> {"execute": "query-name"}
<- {"return": {"name": "c"}}
-> {"execute": "query-uuid"}
<- {"return": {"UUID": "c"}}
-> {"execute": "query-kvm"}
<- {"return": {"enabled": false, "present": false}}
""",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    scenario = Scenario.load(str(tmp_path / "a.toml"))
    assert (scenario.strict, scenario.log, len(scenario.faults)) == (True, "/dev/null", 1)
    assert (scenario.version, scenario.machine.name) == ("9.1.0", "b")
    assert len(scenario.replies) == 5  # each file counts once
    async with serve(str(tmp_path / "a.toml")) as served:
        client = await served.client()
        names = [(await client.execute("query-name"))["name"] for _ in range(3)]
        assert names == ["a", "c", "c"]
        assert await client.execute("query-uuid") == {"UUID": "b"}
        assert await client.execute("query-kvm") == {"enabled": False, "present": False}
        assert len(await client.execute("query-cpus-fast")) == 2
        assert await client.execute("query-named-block-nodes") == []
        assert served.stand_in.failures()[0].startswith("expected stop at least once")


@pytest.mark.parametrize("other", [{}, {"cpus": 1}])
def test_the_machine_that_is_included(tmp_path: Path, other: dict[str, Any]) -> None:
    """Each key of it counts where the scenario's own table lacks the key."""
    keys = {
        "status": '"paused"',
        "cpus": "2",
        "memory": "1048576",
        "name": '"vm"',
        "uuid": '"00000000-0000-0000-0000-000000000001"',
        "migration-time": "0.5",
        "migration-peer": "false",
        "unplug-time": "1.0",
        "powerdown-time": "2.0",
        "images": "true",
        "any-device": "true",
    }
    table = "".join(f"{name} = {value}\n" for name, value in keys.items())
    (tmp_path / "a.toml").write_text(f"[machine]\n{table}")
    alone = Scenario.load(str(tmp_path / "a.toml")).machine
    made = Scenario.read({"include": "a.toml", "machine": other}, directory=tmp_path).machine
    assert made == alone._replace(**other)
    standard = MachineState()._asdict()
    changed = [name for name, value in alone._asdict().items() if value != standard[name]]
    assert sorted(changed) == sorted(name.replace("-", "_") for name in keys)


async def test_an_included_recording_has_the_vocabulary(tmp_path: Path) -> None:
    schema = (
        '[{"name": "ping", "meta-type": "command", "arg-type": "0", "ret-type": "0"},'
        ' {"name": "query-qmp-schema", "meta-type": "command", "arg-type": "0", "ret-type": "0"},'
        ' {"name": "0", "meta-type": "object", "members": []}]'
    )
    (tmp_path / "r").write_text(f'-> {{"execute": "query-qmp-schema"}}\n<- {{"return": {schema}}}')
    made = Scenario.read(
        {"include": "r", "version": "1.2.3", "on": [{"command": "ping", "error": "no"}]},
        directory=tmp_path,
    )
    assert (set(made.schema.commands), made.version) == ({"ping", "query-qmp-schema"}, "1.2.3")
    with pytest.raises(ScenarioError, match="r:1: unknown command 'query-qmp-schema'"):
        Scenario.read({"include": "r", "schema": "guest-agent"}, directory=tmp_path)


PIPELINED = """
-> {"execute": "query-name"}
-> no JSON
<- {"error": {"class": "GenericError", "desc": "JSON parse error, invalid keyword 'no'"}}
<- {"return": {"name": "recorded"}}
-> {"execute": "query-status", "id": 1}
-> {"execute": "query-uuid", "id": 2}
<- {"return": {"UUID": "x"}, "id": 2}
<- {"return": {"status": "paused", "running": false}, "id": 1}
"""


async def test_recorded_replies_find_their_commands(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "a.qmp"
    path.write_text(PIPELINED)
    async with serve(str(path)) as served:
        client = await served.client()
        assert await client.execute("query-name") == {"name": "recorded"}
        assert await client.execute("query-uuid") == {"UUID": "x"}
        paused = {"status": "paused", "running": False}
        assert await client.execute("query-status") == paused


async def test_a_recorded_schema_is_used(serve: Serve, tmp_path: Path) -> None:
    schema = (
        '[{"name": "ping", "meta-type": "command", "arg-type": "0", "ret-type": "0"},'
        ' {"name": "query-qmp-schema", "meta-type": "command", "arg-type": "0", "ret-type": "0"},'
        ' {"name": "0", "meta-type": "object", "members": []}]'
    )
    path = tmp_path / "a.qmp"
    path.write_text(f'-> {{"execute": "query-qmp-schema"}}\n<- {{"return": {schema}}}\n')
    async with serve(str(path)) as served:
        client = await served.client()
        assert len(await client.execute("query-qmp-schema")) == 3
        assert await client.execute("ping") == {}
        assert "class" in await client.execute("stop")
