"""Reset, actions and the machine's own data: the same commands here and to a real QEMU."""

import sys
from typing import Any

import pytest

from tests.qemu.test_exchanges import NEGOTIATE, command, converse

SAME = [
    NEGOTIATE,
    command("query-uuid"),
    command("query-target"),
    command("query-memory-size-summary"),
    command("query-iothreads"),
    command("system_reset"),
    command("query-status"),
    command("cont"),
    command("system_reset"),
    command("query-status"),
    command("system_powerdown"),
    command("stop"),
    command("system_reset"),
    command("system_reset"),
    command("query-status"),
    command("system_reset", hard=True),
    command("set-action"),
    command("set-action", reboot="x"),
    command("set-action", reboot="reset", foo=1),
    command("set-action", panic="exit-failure", watchdog="none"),
    command("watchdog-set-action"),
    command("watchdog-set-action", action="x"),
    command("watchdog-set-action", action="inject-nmi"),
    command("qom-list"),
    command("qom-list", path="/nope"),
    command("qom-list", path="nope"),
    command("qom-list", path=""),
    command("qom-list", path="/machine/type"),
    command("qom-list", path="/machine/peripheral"),
    command("qom-list", path="peripheral"),
    command("qom-get", path="/machine"),
    command("qom-get", path="/nope", property="type"),
    command("qom-get", path="", property="type"),
    command("qom-get", path="/", property="machine"),
    command("qom-get", path="/", property="type"),
    command("qom-get", path="/", property="nope"),
    command("qom-get", path="machine", property="unattached"),
    command("qom-get", path="//machine/unattached/", property="type"),
    command("qom-get", path="/machine", property="memory"),
    command("qom-get", path="/machine/unattached/device[0]", property="realized"),
    command("qom-get", path="/machine/unattached/device[0]", property="hotplugged"),
]
ENDS = {
    "quit": ["quit"],
    "quit where a shutdown pauses": ["pause", "quit"],
    "reset that pauses": ["pause", "cont", "reboot", "system_reset"],
    "reset that pauses a machine that does not run": ["pause", "reboot", "system_reset"],
}
WORDS = {
    "pause": command("set-action", shutdown="pause"),
    "reboot": command("set-action", reboot="shutdown"),
}


def both(exchanges: list[str]) -> tuple[list[Any], list[Any]]:
    ours = converse([sys.executable, "-m", "qmpserver.cli"], "kvm", exchanges)
    return ours, converse(["qemu-system-x86_64"], "kvm", exchanges)


def test_answers_are_qemus(kvm: None, qemu: None) -> None:
    ours, theirs = both([*SAME, command("quit")])
    assert ours == theirs
    assert len(ours) >= len(SAME)


@pytest.mark.parametrize("name", ENDS)
def test_ends_are_qemus(name: str, kvm: None, qemu: None) -> None:
    said = [WORDS.get(word) or command(word) for word in ENDS[name]]
    if "system_reset" in ENDS[name]:
        said += [command(word) for word in ("query-status", "cont", "query-status", "quit")]
    ours, theirs = both([NEGOTIATE, *said])
    assert ours == theirs


def test_query_machines_has_qemus_members(kvm: None, qemu: None) -> None:
    ours, theirs = both([NEGOTIATE, command("query-machines"), command("quit")])
    default = next(machine for machine in theirs[1]["return"] if machine.get("is-default"))
    assert ours[1]["return"][0].keys() - {"acpi"} == default.keys() - {"alias"}
