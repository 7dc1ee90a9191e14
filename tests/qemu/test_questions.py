"""A stand-in's devices and human monitor answer as each release of QEMU was recorded to."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import RELEASES
from tests.conftest import qemu_programs
from tests.qemu import questions

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
    link = tmp_path / "qemu-system-x86_64"
    link.symlink_to(Path(sys.executable).parent / "qmpserver")
    link.with_name(f"{link.name}.toml").write_text(f'schema = "{release}"\n')
    got = questions.answers(str(link))
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
