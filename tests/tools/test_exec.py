"""exec, schema and completion against this server and a real QEMU."""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import readable
from tests.tools.conftest import BIN, Run


def test_prints_what_is_returned(qmpctl: Run, server: str) -> None:
    ran = qmpctl("--qmp", server, "exec", "query-name", "--json")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, '{"name": "tested"}\n', "")
    ran = qmpctl("exec", "--qmp", server, "query-name")
    assert ran.stdout == '{\n  "name": "tested"\n}\n'
    ran = qmpctl("--qmp", server, "exec", "stop")
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize(
    "words", [["exec", "query-name"], ["exec", "query-qmp-schema"], ["schema"]]
)
def test_output_to_a_full_disk(server: str, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [str(BIN / "qmpctl"), "--qmp", server, *words],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    message = "qmpctl: cannot write the output: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (1, message)


def test_arguments_have_the_schemas_types(qmpctl: Run, server: str) -> None:
    words = ["calc-time=1", "mode=page-sampling", "sample-pages=0x200"]
    assert qmpctl("--qmp", server, "exec", "calc-dirty-rate", *words).returncode == 0
    info = json.loads(qmpctl("--qmp", server, "exec", "query-dirty-rate", "--json").stdout)
    assert (info["calc-time"], info["sample-pages"]) == (1, 512)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["no-such"], 1, "CommandNotFound: The command no-such has not been found\n"),
        (
            ["calc-dirty-rate", "calc-time=1", "nope=2"],
            1,
            "GenericError: Parameter 'nope' is unexpected\n",
        ),
        (["calc-dirty-rate"], 1, "GenericError: Parameter 'calc-time' is missing\n"),
        (
            ["calc-dirty-rate", "calc-time=long"],
            2,
            "qmpctl: 'calc-time=long': an integer is wanted\n",
        ),
        (["calc-dirty-rate", "calc-time"], 2, "qmpctl: 'calc-time' is not key=value\n"),
        (
            ["calc-dirty-rate", "calc-time.a=1"],
            2,
            "qmpctl: 'calc-time' is no object: int is wanted\n",
        ),
        (
            ["calc-dirty-rate", "calc-time=" + "9" * 41],
            2,
            f"qmpctl: 'calc-time={'9' * 41}': an integer is wanted\n",
        ),
        (
            ["calc-dirty-rate", "calc-time=1", "mode=odd"],
            1,
            "GenericError: Parameter 'mode' does not accept value 'odd'\n",
        ),
        (
            ["calc-dirty-rate", "calc-time=1", "mode=\udcff"],
            2,
            "qmpctl: 'mode' is given bytes that are not UTF-8\n",
        ),
    ],
)
def test_errors_in_the_servers_words(
    qmpctl: Run, server: str, words: list[str], status: int, text: str
) -> None:
    ran = qmpctl("--qmp", server, "exec", *words)
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, "", text)


def test_an_error_as_json(qmpctl: Run, server: str) -> None:
    ran = qmpctl("--qmp", server, "exec", "--json", "no-such")
    assert ran.returncode == 1
    desc = "The command no-such has not been found"
    assert json.loads(ran.stderr) == {"error": {"class": "CommandNotFound", "desc": desc}}


def test_one_server_has_to_be_named(qmpctl: Run) -> None:
    ran = qmpctl("exec", "query-status")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "--qmp" in ran.stderr
    ran = qmpctl("--qmp", "here", "exec", "query-status")
    assert ran.returncode == 2
    assert "'here' is neither unix:PATH nor tcp:HOST:PORT" in ran.stderr


def test_a_server_that_a_command_has_no_use_for(qmpctl: Run) -> None:
    ran = qmpctl("--qmp", "unix:/x", "bench", "start")
    assert ran.returncode == 2
    assert "does not use a server that is already running" in ran.stderr


def test_options_between_arguments(qmpctl: Run, server: str) -> None:
    words = ["calc-dirty-rate", "--json", "calc-time=0", "--timeout", "9", "mode=dirty-ring"]
    ran = qmpctl("--qmp", server, "exec", *words)
    assert (ran.returncode, json.loads(ran.stderr)["error"]["class"]) == (1, "GenericError")
    ran = qmpctl("exec", "stop", "--no-such")
    assert ran.returncode == 2
    assert "qmpctl exec: error: unrecognized arguments: --no-such" in ran.stderr


@pytest.mark.slow
def test_schema_explains(qmpctl: Run, server: str) -> None:
    text = qmpctl("--qmp", server, "schema", "calc-dirty-rate").stdout
    assert "calc-time: int\n" in text
    assert "mode: page-sampling | dirty-ring | dirty-bitmap  (optional)" in text or (
        "mode: page-sampling | dirty-bitmap | dirty-ring  (optional)" in text
    )
    text = qmpctl("--qmp", server, "schema").stdout
    assert "\nset-vcpu-dirty-limit [cpu-index=] dirty-rate=\n" in text
    assert "\nSTOP" in "\n" + qmpctl("--qmp", server, "schema", "--events").stdout
    assert qmpctl("--qmp", server, "schema", "no-such").returncode == 2


@pytest.mark.slow
def test_every_command_can_be_explained(qmpctl: Run, server: str) -> None:
    """Recursive types and all: QEMU has over 200."""
    names = [line.split()[0] for line in qmpctl("--qmp", server, "schema").stdout.splitlines()]
    for name in names[::9] if len(names) < 100 else ["blockdev-add", "object-add", "transaction"]:
        ran = qmpctl("--qmp", server, "schema", name)
        assert ran.returncode == 0
        assert ran.stdout.startswith(f"command {name}")


def in_bash(line: str, presses: int = 3) -> set[str]:
    """What a real bash completes at the end of a line; it parts words at ``=`` and ``:``."""
    script = f"""eval "$(qmpctl completion bash)"
COMP_LINE={line!r} COMP_POINT={len(line)} COMP_TYPE=9 COMP_CWORD=0
_python_argcomplete qmpctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return completed(["bash", "-c", script], presses)


def in_fish(line: str) -> set[str]:
    """What a real fish completes, without its descriptions, as bash has it."""
    words = completed(["fish", "-c", f"qmpctl completion fish | source; complete -C {line!r}"], 3)
    return {re.sub("^(unix:|mode=)|\t.*", "", word) for word in words}


def completed(argv: list[str], presses: int) -> set[str]:
    """What a shell shows; as a person does, ask again if the server was too slow for it."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    words: set[str] = set()
    while not words and presses:
        ran = subprocess.run(
            argv,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        words = {word.strip() for word in ran.stdout.splitlines()} - {""}
        presses -= 1
    return words


@pytest.mark.parametrize("complete", [in_bash, in_fish])
@pytest.mark.slow
def test_shells_complete(server: str, complete: Callable[[str], set[str]]) -> None:
    assert complete("qmpctl ex") == {"exec"}
    at = f"qmpctl --qmp {server} exec"
    assert complete(f"{at} set-vcpu") == {"set-vcpu-dirty-limit"}
    assert complete(f"{at} set-vcpu-dirty-limit ") == {"cpu-index=", "dirty-rate="}
    assert complete(f"{at} set-vcpu-dirty-limit cpu-index=1 ") == {"dirty-rate="}
    assert complete(f"{at} calc-dirty-rate mode=dirty-") == {"dirty-ring", "dirty-bitmap"}
    assert complete(f"qmpctl schema --qmp {server} query-vcpu") == {"query-vcpu-dirty-limit"}
    assert complete(f"qmpctl schema --qmp {server} STO") == {"STOP"}
    path = server.removeprefix("unix:")
    assert complete(f"qmpctl exec --qmp {server[:-3]}") == {path}


def test_zsh_completes(server: str) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    master, slave = pty.openpty()
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb"}
    with contextlib.ExitStack() as stack:
        terminal = stack.enter_context(open(master, "r+b", 0))
        with open(slave, "r+b", 0) as tty:
            zsh = subprocess.Popen(
                ["zsh", "-f", "-i"], stdin=tty, stdout=tty, stderr=tty, env=environment
            )
        stack.callback(zsh.wait, 10)
        stack.callback(zsh.kill)

        def until(text: bytes) -> None:
            said = b""
            while text not in said:
                assert readable(terminal, 20), said
                said += terminal.read(65536)

        terminal.write(b'autoload compinit; compinit -D -u; eval "$(qmpctl completion zsh)"\n')
        terminal.write(f"qmpctl --qmp {server} exec human-monitor-com\t".encode())
        until(b"human-monitor-command")
        terminal.write(b"comm\t")
        until(b"command-line=")
        terminal.write(b"'info name'\n")
        until(b"\ntested")


@pytest.mark.slow
def test_completion_without_a_server_says_nothing(tmp_path: Path) -> None:
    assert in_bash(f"qmpctl --qmp unix:{tmp_path}/none exec q", presses=1) == set()


@pytest.mark.slow
def test_arguments_of_qemu(qmpctl: Run, server: str) -> None:
    if "qemu.sock" not in server:
        pytest.skip("this server has no command with such arguments")

    def execute(*words: str) -> None:
        ran = qmpctl("--qmp", server, "exec", *words)
        assert (ran.returncode, ran.stderr) == (0, "")

    execute("blockdev-add", "driver=null-co", "node-name=one", "read-zeroes=on", "size=65536")
    execute("blockdev-add", "driver=raw", "node-name=two", "file.driver=null-co", "offset=0")
    execute("blockdev-add", "driver=raw", "node-name=three", 'file={"driver": "null-co"}')
    execute("blockdev-add", "driver=raw", "node-name=four", "file=one")
    execute("qom-set", "path=/machine", "property=usb", "value=false")
    execute("object-add", "qom-type=iothread", "id=io", "poll-max-ns=5")
    execute("chardev-add", "id=c", "backend.type=null", "backend.data={}")
    tables = [f"name={name}" for name in ("a", "b")]
    execute("block-dirty-bitmap-add", "node=one", tables[0])
    execute("block-dirty-bitmap-add", "node=one", tables[1])
    execute("block-dirty-bitmap-merge", "node=one", "target=a", "bitmaps=b")
    execute("block-dirty-bitmap-merge", "node=one", "target=a", "bitmaps.0=b", "bitmaps.1=b")
    ran = qmpctl("--qmp", server, "exec", "human-monitor-command", "command-line=info name")
    assert ran.stdout == "tested\n"
    at = f"qmpctl --qmp {server} exec"
    assert in_bash(f"{at} blockdev-add driver=qcow2 file") == {"file=", "file."}
    assert "file.filename=" in in_bash(f"{at} blockdev-add driver=raw file.driver=file file.")
    assert in_bash(f"{at} transaction act") == {"actions.0.type=", "actions.0.data="}
    assert in_bash(f"{at} transaction actions.0.type=ab") == {"abort"}
    assert in_bash(f"{at} block-dirty-bitmap-merge bitmaps=1 tar") == {"target="}
