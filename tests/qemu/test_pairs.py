"""Migrations between a pair of this program's servers take the courses recorded from QEMU 11.1."""

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.qemu.pairs import COURSES, RECORDED, Pair, guest_image, said

Course = Callable[[Pair], None]
OURS = [sys.executable, "-m", "qmpserver.cli", "-guest", "dirty,size=1M"]
RING = "dirty-ring-size=4096"

courses = pytest.mark.parametrize("course", COURSES, ids=[one.__name__ for one in COURSES])


def recorded(course: Course) -> list[str]:
    return (RECORDED / f"{course.__name__}.txt").read_text().splitlines()


@pytest.mark.slow
@courses
def test_our_courses_are_qemus(course: Course, accel: str) -> None:
    assert said(course, [*OURS, "-accel", f"{accel},{RING}"]).splitlines() == recorded(course)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with guest_image() as path:
        yield path


@pytest.mark.slow
@courses
def test_qemu_still_takes_them(course: Course, newest_qemu: str, kvm: None, image: str) -> None:
    argv = [newest_qemu, "-nodefaults", "-accel", f"kvm,{RING}", "-bios", image]
    assert said(course, argv).splitlines() == recorded(course)


def test_each_course_is_recorded() -> None:
    names = {course.__name__ for course in COURSES}
    assert {path.stem for path in RECORDED.glob("*.txt")} == names
