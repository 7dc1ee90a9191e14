"""qmpctl and servers that do not speak QMP as they should: it ends with one line and a status."""

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from qmpserver.testing import ServerThread
from tests.conftest import Until
from tests.tools.conftest import BIN, Run, serving

GREETING = b'{"QMP": {"version": {"qemu": {"major": 1, "minor": 0, "micro": 0}, "package": ""}, '
GREETING += b'"capabilities": []}}\n'

Behaviour = Callable[[socket.socket], None]


def negotiated(client: socket.socket) -> None:
    """Be a good server until the client has negotiated."""
    client.sendall(GREETING)
    request = json.loads(client.recv(1000))  # with no newline at its end
    assert request["execute"] == "qmp_capabilities"
    answer = {"return": {}} | ({"id": request["id"]} if "id" in request else {})
    client.sendall(json.dumps(answer).encode() + b"\n")


def hang(client: socket.socket) -> None:
    while client.recv(1000):
        pass


def then(*steps: Behaviour) -> Behaviour:
    def behave(client: socket.socket) -> None:
        for step in steps:
            step(client)

    return behave


def say(text: bytes) -> Behaviour:
    return lambda client: client.sendall(text)


def a_command(client: socket.socket) -> None:
    client.recv(1000)


def endless(client: socket.socket) -> None:
    """A line of 100 MB."""
    for _ in range(100):
        client.sendall(bytes([ord("x")]) * (1 << 20))
    hang(client)


def events(client: socket.socket) -> None:
    while True:
        client.sendall(b'{"event": "X", "timestamp": {"seconds": 1, "microseconds": 1}}\n')
        time.sleep(0.001)  # too many to be kept would be another case


def numbers(client: socket.socket) -> None:
    """Answer all commands, but with nothing that makes sense."""
    while data := client.recv(1 << 16):
        request = json.loads(data)
        answer = {"return": 7} | ({"id": request["id"]} if "id" in request else {})
        client.sendall(json.dumps(answer).encode() + b"\n")


def answering(answer: Callable[[str], dict[str, object] | None]) -> Behaviour:
    """Negotiate, and answer each command as `answer` says; hang up instead of None."""

    def behave(client: socket.socket) -> None:
        negotiated(client)
        while data := client.recv(1 << 16):
            request = json.loads(data)
            answered = answer(request["execute"])
            if answered is None:
                return
            identified = {"id": request["id"]} if "id" in request else {}
            client.sendall(json.dumps({**answered, **identified}).encode() + b"\n")

    return behave


LISTED: dict[str, object] = {
    "return": [{"name": name} for name in ("query-name", "query-status", "query-cpus-fast")]
}
REFUSAL: dict[str, object] = {"error": {"class": "GenericError", "desc": "\ud800 no"}}


def schema(*infos: dict[str, object]) -> Behaviour:
    """Introspect as a server with the command `c`, whose argument `a` is of type `t`."""
    described: list[dict[str, object]] = [
        {"name": "c", "meta-type": "command", "arg-type": "o", "ret-type": "e"},
        {"name": "o", "meta-type": "object", "members": [{"name": "a", "type": "t"}]},
        {"name": "e", "meta-type": "object", "members": []},
        *infos,
    ]
    return answering(lambda name: {"return": described if name == "query-qmp-schema" else {}})


def alternate(name: str, *types: str) -> dict[str, object]:
    members = [{"type": type_} for type_ in types]
    return {"name": name, "meta-type": "alternate", "members": members}


def array(name: str, of: str) -> dict[str, object]:
    return {"name": name, "meta-type": "array", "element-type": of}


HUNG_UP = "the server has hung up"
BAD: dict[str, tuple[Behaviour, str]] = {
    "no greeting": (hang, "no QMP greeting: it is no QMP server, or serves another client"),
    "hangs up": (lambda _client: None, HUNG_UP),
    "not JSON": (then(say(b"SSH-2.0-OpenSSH_9.2\r\n"), hang), "is not QMP: "),
    "no line": (then(say(b"SSH-2.0"), hang), "no QMP greeting"),
    "not UTF-8": (say(b"\xff\xfe\x00\x01\n"), "is not QMP: "),
    "JSON, no object": (then(say(b"[1]\n"), hang), "is not QMP: "),
    "another greeting": (then(say(b'{"hello": "world"}\n'), hang), "is not QMP: "),
    "a greeting of another shape": (then(say(b'{"QMP": 5}\n'), hang), "is not QMP: "),
    "half a greeting": (say(GREETING[:40]), HUNG_UP),
    "an endless greeting": (endless, "it sends a message of over 10 MB|no QMP greeting"),
    "hangs after the greeting": (then(say(GREETING), hang), "no answer"),
    "refuses capabilities": (
        then(say(GREETING), a_command, say(b'{"error": {"class": "GenericError", "desc": "x"}}\n')),
        "it refuses qmp_capabilities",
    ),
    "hangs in the reply": (then(negotiated, a_command, hang), "no answer"),
    "sends events for ever": (then(negotiated, a_command, events), "no answer"),
    "hangs up before the reply": (then(negotiated, a_command), HUNG_UP),
    "hangs up in the reply": (then(negotiated, a_command, say(b'{"return": {"na')), HUNG_UP),
    "garbage for a reply": (then(negotiated, a_command, say(b"\x00garbage\n"), hang), "is not QMP"),
    "a damaged reply": (
        then(negotiated, a_command, say(b'{"return": "\xff\xfe"}\n'), hang),
        "is not QMP: ",
    ),
    "an endless reply": (
        then(negotiated, a_command, say(b'{"return": "'), endless),
        "it sends a message of over 10 MB|no answer to query-",
    ),
    "a bottomless reply": (then(negotiated, a_command, say(b"[" * 10**5 + b"\n"), hang), ""),
    "a reply of another shape": (then(negotiated, numbers), "makes no sense"),
}
COMMANDS = {
    "exec": ["exec", "query-name", "--timeout", "S"],
    "exec with arguments": ["exec", "stop", "--timeout", "S", "a=1"],
    "schema": ["schema", "stop"],
    "top once": ["top", "--once"],
    "top csv": ["top", "--csv"],
    "migrate to": ["migrate", "GOOD", "BAD"],
    "migrate from": ["migrate", "BAD", "GOOD"],
    "replay": ["replay", "--timeout", "S"],
    "bench cancel": ["bench", "cancel"],  # others connect in the same way, but for these two
    "bench qmp": ["bench", "qmp"],
    "bench floor": ["bench", "floor", "--cycles", "1"],
}
# What is no fault to a command: it shows what it is given, or that the transcript has another.
SHOWN = {
    ("exec", "a reply of another shape"): (0, "7\n"),
    ("replay", "a reply of another shape"): (
        1,
        "FILE: line 2: query-name: return: 7 instead of {}\n",
    ),
}
NOTHING = (1, "FILE: line 2: query-name: no answer: nothing in 5 s\n")
for name in ("hangs in the reply", "sends events for ever", "a bottomless reply"):
    SHOWN["replay", name] = NOTHING


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as one:
        one.bind(str(tmp_path / "bad.sock"))
        one.listen(20)
        yield one


@pytest.fixture
def behaving(listener: socket.socket) -> Callable[[Behaviour], str]:
    """Run a server that behaves so to each client; return its address."""

    def serve(client: socket.socket, behave: Behaviour) -> None:
        with client, suppress(OSError):
            behave(client)

    def begin(behave: Behaviour) -> str:
        def accept() -> None:
            with suppress(OSError):  # until it is closed
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=serve, args=(client, behave), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"unix:{listener.getsockname()}"

    return begin


@pytest.fixture(scope="module")
def good() -> Iterator[str]:
    """A stand-in that waits for a migration, and takes any command."""
    scenario = {"machine": {"status": "inmigrate"}}
    with ServerThread(scenario=scenario, max_clients=10) as server:
        yield f"unix:{server.path}"


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_one_line(
    qmpctl: Run, behaving: Callable[[Behaviour], str], good: str, tmp_path: Path, name: str
) -> None:
    """A third of the commands, another one for each server, run at once: mostly they wait."""
    behave, text = BAD[name]
    address = behaving(behave)
    file = tmp_path / "transcript"
    file.write_text('-> {"execute": "query-name"}\n<- {"return": {}}\n')

    def run(command: str) -> None:
        # 10 MB take their time where the machine has other work
        timeout = "30" if "endless" in name else "5"
        given = {"S": timeout, "BAD": address, "GOOD": good}
        words = [given.get(word, word) for word in COMMANDS[command]]
        words += [str(file)] if command == "replay" else []
        ran = qmpctl(*words) if "BAD" in COMMANDS[command] else qmpctl("--qmp", address, *words)
        said = ran.stdout.replace(str(file), "FILE")
        if (command, name) in SHOWN:
            assert (ran.returncode, said, ran.stderr) == (*SHOWN[command, name], "")
            return
        assert (ran.returncode, said, ran.stderr.count("\n")) == (3, "", 1), (command, ran)
        assert ran.stderr.startswith(f"qmpctl: {address}: "), command
        assert re.search(text, ran.stderr), (command, ran.stderr)
        assert len(ran.stderr) < 250, command

    turn = list(BAD).index(name)
    chosen = [
        command
        for number, command in enumerate(COMMANDS)
        if number % 3 == turn % 3 or (command, name) in SHOWN
    ]
    with ThreadPoolExecutor(len(chosen)) as pool:
        for done in [pool.submit(run, command) for command in chosen]:
            done.result()


Connected = Callable[[Behaviour], str]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["exec c", "exec c a=1", "schema", "top --once", "bench qmp"])
def test_a_hang_up_right_after_the_capabilities(
    qmpctl: Run, behaving: Connected, command: str
) -> None:
    """The next command meets the end of the connection, whichever comes first."""
    address = behaving(negotiated)
    for _ in range(5):
        ran = qmpctl("--qmp", address, *command.split())
        assert (ran.returncode, ran.stderr) == (3, f"qmpctl: {address}: {HUNG_UP}\n")


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        ("schema", "query-qmp-schema"),
        ("top --once", "query-commands"),
        ("bench qmp", "query-status"),
        ("bench cancel", "query-commands"),
    ],
)
def test_a_refusal_names_the_server_and_the_command(
    qmpctl: Run, behaving: Connected, command: str, refused: str
) -> None:
    address = behaving(answering(lambda _name: REFUSAL))
    ran = qmpctl("--qmp", address, *command.split())
    words = f"qmpctl: {address}: {refused} is refused: GenericError: \\ud800 no\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", words)


def test_top_where_every_query_is_refused(qmpctl: Run, behaving: Connected) -> None:
    """A value that a server does not report is not an error."""
    address = behaving(answering(lambda name: LISTED if name == "query-commands" else REFUSAL))
    ran = qmpctl("--qmp", address, "top", "--once", "--interval", "0.1")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"{address}: ?, 0 vCPUs\n")


@pytest.mark.slow
def test_a_lone_surrogate_in_a_result(qmpctl: Run, behaving: Connected) -> None:
    named: dict[str, object] = {"return": {"name": "\ud800", "status": "\udfff"}}
    others: dict[str, dict[str, object]] = {
        "query-commands": LISTED,
        "query-cpus-fast": {"return": []},
    }
    address = behaving(answering(lambda name: others.get(name, named)))
    ran = qmpctl("--qmp", address, "exec", "query-name")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert '"name": "\\ud800"' in ran.stdout
    ran = qmpctl("--qmp", address, "top", "--once", "--interval", "0.1")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"\\ud800 ({address}): \\udfff, 0 vCPUs\n")


@pytest.mark.parametrize(
    ("infos", "fault"),
    [
        ([alternate("t", "t")], "alternate t has an alternate as a branch"),
        ([alternate("t", "u"), alternate("u", "t")], "alternate u has an alternate as a branch"),
        ([array("t", "t")], "array t has arrays as elements"),
    ],
    ids=["itself", "each other", "array"],
)
@pytest.mark.parametrize("command", ["schema", "schema c", "exec c a=1", "exec c a.b=1"])
def test_a_schema_whose_types_contain_themselves(
    qmpctl: Run, behaving: Connected, infos: list[dict[str, object]], fault: str, command: str
) -> None:
    address = behaving(schema(*infos))
    ran = qmpctl("--qmp", address, *command.split())
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (3, "", 1)
    assert "its answer to query-qmp-schema makes no sense" in ran.stderr
    assert fault in ran.stderr


def test_an_alternate_of_lists_of_itself(qmpctl: Run, behaving: Connected) -> None:
    """This is a tree, which a schema may have."""
    address = behaving(schema(alternate("t", "l", "e"), array("l", "t")))
    ran = qmpctl("--qmp", address, "schema", "c")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "  a: list of the same or object\n" in ran.stdout
    ran = qmpctl("--qmp", address, "exec", "c", "a=1")
    assert (ran.returncode, ran.stderr) == (0, "")


def connects(client: socket.socket, path: Path) -> bool:
    with suppress(FileNotFoundError, ConnectionRefusedError):
        client.connect(str(path))
        return True
    return False


@pytest.mark.parametrize("name", ["not UTF-8", "half a greeting", "hangs up in the reply"])
def test_record_passes_on_what_comes(
    behaving: Callable[[Behaviour], str], tmp_path: Path, until: Until, name: str
) -> None:
    here, file = tmp_path / "here", tmp_path / "transcript"
    argv = [
        str(BIN / "qmpctl"),
        "--qmp",
        behaving(BAD[name][0]),
        "record",
        "--listen",
        f"unix:{here}",
    ]
    with subprocess.Popen([*argv, str(file)], stderr=subprocess.PIPE) as process:
        with socket.socket(socket.AF_UNIX) as client:
            until(lambda: connects(client, here))
            heard = client.recv(40)
            with suppress(ConnectionError):
                client.sendall(b'{"execute": "qmp_capabilities"}')
                while (data := client.recv(1000)) and b"return" not in (heard := heard + data):
                    pass
                client.sendall(b'{"execute": "quit"}')
                while data := client.recv(1000):
                    heard += data
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert heard.startswith({"not UTF-8": b"\xff\xfe\x00\x01\n"}.get(name, GREETING[:40]))
    assert "<- " in file.read_text()  # after the client's, where it is an end without a newline


@pytest.mark.slow
def test_a_server_that_goes_while_it_is_measured(
    qmpctl: Run, kvm: None, tmp_path: Path, until: Until
) -> None:
    other = f"unix:{tmp_path}/other"
    monitor = ("-qmp", f"{other},server=on,wait=off")
    with serving("qmpserver", tmp_path, until, *monitor) as address, ThreadPoolExecutor() as pool:
        bench = pool.submit(qmpctl, "bench", "limit", "--qmp", address)
        until(lambda: "true" in qmpctl("--qmp", other, "exec", "query-status", "--json").stdout)
        qmpctl("--qmp", other, "exec", "quit")
        ran = bench.result()
    assert (ran.returncode, ran.stderr.count("\n")) == (3, 1), ran


def test_not_there(qmpctl: Run, tmp_path: Path) -> None:
    ran = qmpctl("--qmp", f"unix:{tmp_path}/none", "exec", "query-name")
    text = f"qmpctl: unix:{tmp_path}/none: No such file or directory\n"
    assert (ran.returncode, ran.stderr) == (3, text)


def test_refused(qmpctl: Run) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = gone.getsockname()[1]
    ran = qmpctl("--qmp", f"tcp:127.0.0.1:{port}", "exec", "query-name")
    assert ran.returncode == 3
    assert ran.stderr.startswith(f"qmpctl: tcp:127.0.0.1:{port}: ")
    assert ran.stderr.rstrip().endswith("Connection refused")
    assert ran.stderr.count("\n") == 1


def test_no_such_host(qmpctl: Run) -> None:
    ran = qmpctl("--qmp", "tcp:no-such-host.invalid:4", "exec", "query-name")
    assert (ran.returncode, ran.stderr.count("\n")) == (3, 1)
