"""A stand-in's devices and human monitor answer as each release of QEMU was recorded to."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import RELEASES
from tests.conftest import qemu_programs
from tests.qemu import questions
from tests.qemu.probe import link_to_stand_in

KINDS = ("devices", "options", "addresses", "human")


@functools.cache
def recorded(release: str) -> Any:
    return json.loads((questions.RECORDED / f"{release}.json").read_text())


def assert_same(got: Any, expected: Any) -> None:
    if isinstance(got, list):
        got, expected = dict(enumerate(got)), dict(enumerate(expected))
    assert got.keys() == expected.keys()
    for question, answer in expected.items():
        assert got[question] == answer, question


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
def test_the_stand_in_answers_as_recorded(release: str, tmp_path: Path) -> None:
    link = link_to_stand_in(release, tmp_path)
    got = questions.answers(link)
    for kind in KINDS:
        assert_same(got[kind], recorded(release)[kind])


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
def test_qemu_answers_as_recorded(release: str) -> None:
    program = qemu_programs().get(release)
    if program is None:
        pytest.skip(f"{release} is not here; .ci/qemu brings releases")
    got = questions.answers(program)
    for kind in KINDS:
        assert_same(got[kind], recorded(release)[kind])
