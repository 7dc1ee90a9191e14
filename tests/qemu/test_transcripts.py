"""The recorded conversations of each release, held again with this program, and with that QEMU."""

import contextlib
import itertools
import socket
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from qmpserver.releases import NEWEST, RELEASES, own_schema
from qmpserver.transcript.format import Transcript, read_all
from qmpserver.transcript.replay_exact import replay_exactly
from tests.conftest import qemu_programs
from tests.qemu.transcript import OURS, PATIENCE, TRANSCRIPTS, exchanges, options_of, serving

ENOUGH = 20


def files(release: str) -> list[Path]:
    return sorted((TRANSCRIPTS / release).glob("*.txt"))


def differs(path: Path) -> bool:
    """Return whether a release answers otherwise than the newest one does."""
    newest = TRANSCRIPTS / NEWEST.name / path.name
    return path == newest or path.read_text() != newest.read_text()


def recorded(*, all_files: bool) -> list[ParameterSet]:
    return [
        pytest.param(release, path, transcript, id=f"{release}:{path.stem}:{transcript.line}")
        for release in RELEASES
        for path in files(release)
        if all_files or differs(path)
        for transcript in read_all(path.read_text())
    ]


def each_transcript(*, all_files: bool) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("release", "path", "transcript"), recorded(all_files=all_files))


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
@each_transcript(all_files=False)
def test_we_answer_as_recorded(
    release: str, path: Path, transcript: Transcript, accel: str
) -> None:
    about_kvm = "-accel kvm" in (transcript.options or "")
    if accel == "soft" and about_kvm:
        pytest.skip("it is about KVM itself")
    if accel == "kvm" and not about_kvm and release != NEWEST.name:
        pytest.skip("older releases are a matter of words: one accelerator is enough")
    hold(path, transcript, [*OURS, "-release", release], accel)


@pytest.mark.slow
@each_transcript(all_files=True)
def test_qemu_answers_as_recorded(
    release: str, path: Path, transcript: Transcript, kvm: None
) -> None:
    program = qemu_programs().get(release)
    if program is None:
        pytest.skip(f"{release} is not here; .ci/qemu brings releases")
    hold(path, transcript, [program], "kvm")


# Commands that succeed only with a descriptor, and where those are.
DESCRIPTORS = {"getfd", "closefd", "add-fd", "remove-fd"}
# A command that succeeds only with a second server; `test_pairs.py` has those.
PAIRED = {"migrate"}
# Lists all types: QEMU loads its modules for that, and ends where they are another release's.
LOADS_MODULES = {"qom-list-types"}
# Their results are the server's own types and models, or, as in a microvm, always an error.
OWN_RESULTS = {"device-list-properties", "query-cpu-definitions", "query-hotpluggable-cpus"}


@pytest.mark.parametrize("outcome", ["return", "error"])
def test_each_command_is_in_a_transcript(outcome: str) -> None:
    """All that QEMU has too, with a success, and with a fault in what was said."""
    wanted = {name for name in own_schema().commands if not name.startswith("__")}
    if outcome == "return":
        text = Path(__file__).with_name("test_descriptors.py").read_text()
        assert all(f'ask("{name}"' in text for name in DESCRIPTORS)
        wanted -= DESCRIPTORS | PAIRED | LOADS_MODULES | OWN_RESULTS
    for path in files(NEWEST.name):
        for transcript in read_all(path.read_text()):
            for said, heard in exchanges(transcript):
                if any(isinstance(one.value, dict) and outcome in one.value for one in heard):
                    wanted.discard(said[-1].command or "")
    assert not wanted, f"no transcript has a '{outcome}' of {', '.join(sorted(wanted))}"


@pytest.mark.parametrize("release", RELEASES)
def test_there_are_enough(release: str) -> None:
    transcripts = [one for path in files(release) for one in read_all(path.read_text())]
    messages = [one for transcript in transcripts for one in transcript.messages]
    assert sum(one.who == "client" and not one.unfinished for one in messages) >= 1200
