"""The words with which guestperf starts this program."""

from tests.guestperf.machine import words

LINUX = ["-kernel", "/vmlinuz", "-initrd", "/initrd", "-append", "quiet ramsize=2 console=ttyS0"]
DISPLAY = ["-display", "none"]
SIZE = ["-m", "2560", "-smp", "3", "-accel", "kvm"]


def test_the_guest_stress_takes_the_place_of_linux() -> None:
    share = (2 << 30) // 3 // 4096 * 4096  # of each vCPU, in whole pages
    assert words([*DISPLAY, *LINUX, *SIZE]) == [*DISPLAY, *SIZE, "-guest", f"stress,size={share}"]
