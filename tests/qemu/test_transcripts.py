"""The recorded conversations, held again with this program, and with QEMU where it is installed."""

from pathlib import Path

import pytest

from tests.qemu.transcript import OURS, QEMU, Section, have, read

TRANSCRIPTS = sorted(Path(__file__).parent.glob("transcripts/*.txt"))
SECTIONS = [
    pytest.param(path, section, id=f"{path.stem}:{section.line}")
    for path in TRANSCRIPTS
    for section in read(path)
]


def hold(path: Path, section: Section, command: list[str], accel: str) -> None:
    different = [
        f"{path.name}:{exchange.line}: {b''.join(exchange.packets)!r}\n"
        + "".join(f"  recorded {answer}\n" for answer in exchange.answers)
        + "".join(f"  answered {answer}\n" for answer in answers)
        for exchange, answers in have(section, command, accel)
        if answers != exchange.answers
    ]
    assert not different, "\n" + "".join(different)


@pytest.mark.parametrize(("path", "section"), SECTIONS)
def test_we_answer_as_recorded(path: Path, section: Section, accel: str) -> None:
    if accel == "soft" and "-accel kvm" in section.options:
        pytest.skip("it is about KVM itself")
    hold(path, section, OURS, accel)


@pytest.mark.parametrize(("path", "section"), SECTIONS)
def test_qemu_answers_as_recorded(path: Path, section: Section, qemu: None, kvm: None) -> None:
    hold(path, section, QEMU, "kvm")


def test_there_are_enough() -> None:
    exchanges = [e for path in TRANSCRIPTS for s in read(path) for e in s.exchanges]
    assert len(exchanges) >= 400
    # A sequence that hears nothing is a packet of a message, an event, or a mistake.
    assert sum(not exchange.answers for exchange in exchanges) < 20
