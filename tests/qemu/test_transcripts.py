"""The recorded conversations, held again with this program, and with QEMU where it is installed."""

import contextlib
import itertools
import socket
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from qmpserver.qapi import Schema
from qmpserver.transcript.format import Transcript, read_all
from qmpserver.transcript.replay_exact import replay_exactly
from tests.qemu.transcript import OURS, PATIENCE, QEMU, exchanges, options_of, serving

ROOT = Path(__file__).parents[2]
FILES = sorted(Path(__file__).parent.glob("transcripts/*.txt"))
NEWER_FILES = sorted(Path(__file__).parent.glob("transcripts/11.1/*.txt"))
"""What QEMU has changed since 7.2."""


def transcripts(files: list[Path]) -> list[ParameterSet]:
    return [
        pytest.param(path, transcript, id=f"{path.stem}:{transcript.line}")
        for path in files
        for transcript in read_all(path.read_text())
    ]


ENOUGH = 20


def hold(path: Path, transcript: Transcript, command: list[str], accel: str) -> None:
    assert transcript.rules.exact
    with contextlib.ExitStack() as stack:
        connections = []
        for socket_path in stack.enter_context(serving(command, options_of(transcript, accel))):
            connections.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
            connections[-1].connect(str(socket_path))
        differences = replay_exactly(transcript, connections, PATIENCE)
        different = [f"{path.name}: {one}" for one in itertools.islice(differences, ENOUGH)]
    assert not different, "\n" + "\n".join(different)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "transcript"), transcripts(FILES + NEWER_FILES))
def test_we_answer_as_recorded(path: Path, transcript: Transcript, accel: str) -> None:
    if accel == "soft" and "-accel kvm" in (transcript.options or ""):
        pytest.skip("it is about KVM itself")
    hold(path, transcript, OURS, accel)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "transcript"), transcripts(FILES))
def test_qemu_answers_as_recorded(
    path: Path, transcript: Transcript, qemu: None, kvm: None
) -> None:
    hold(path, transcript, QEMU, "kvm")


@pytest.mark.slow
@pytest.mark.parametrize(("path", "transcript"), transcripts(NEWER_FILES))
def test_newer_qemu_answers_as_recorded(
    path: Path, transcript: Transcript, newer_qemu: str, kvm: None
) -> None:
    hold(path, transcript, [newer_qemu], "kvm")


# Commands that QEMU 7.2 does not have.
NEWER = {"query-accelerators"}
# Commands that succeed only with a descriptor, and where those are.
DESCRIPTORS = {"getfd", "closefd", "add-fd", "remove-fd"}
# A command that succeeds only with a second server; `test_pairs.py` has those.
PAIRED = {"migrate"}


@pytest.mark.parametrize("outcome", ["return", "error"])
def test_each_command_is_in_a_transcript(outcome: str) -> None:
    """All that QEMU has too, with a success, and with a fault in what was said."""
    schema = Schema.load(ROOT / "schema" / "qapi-schema.json")
    wanted = {name for name in schema.commands if not name.startswith("__")} - NEWER
    if outcome == "return":
        text = Path(__file__).with_name("test_descriptors.py").read_text()
        assert all(f'ask("{name}"' in text for name in DESCRIPTORS)
        wanted -= DESCRIPTORS | PAIRED
    for path in FILES + NEWER_FILES:
        for transcript in read_all(path.read_text()):
            for said, heard in exchanges(transcript):
                if any(isinstance(one.value, dict) and outcome in one.value for one in heard):
                    wanted.discard(said[-1].command or "")
    assert not wanted, f"no transcript has a '{outcome}' of {', '.join(sorted(wanted))}"


def test_there_are_enough() -> None:
    messages = [one for path in FILES for t in read_all(path.read_text()) for one in t.messages]
    assert sum(one.who == "client" and not one.unfinished for one in messages) >= 1200
