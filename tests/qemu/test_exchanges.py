"""The same commands to this program and to a real QEMU, their answers compared."""

import json
import subprocess
import sys
from typing import Any

import pytest

PATIENCE = 30.0
NEGOTIATE = '{"execute":"qmp_capabilities"}'

# Words that releases after 7.2, whose vocabulary this program speaks, have changed.
NEWER_WORDS = {
    "Calculation time is out of range [50ms, 60000ms].": "calc-time is out of range[1, 60].",
    "sample-pages is used only in page-sampling mode": (
        "either sample-pages or dirty-ring can be specified."
    ),
}


def command(name: str, **arguments: object) -> str:
    return json.dumps(
        {"execute": name, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
    )


WITH_RING = [
    '{"execute":"query-status"}',
    NEGOTIATE,
    NEGOTIATE,
    command("query-status"),
    command("query-name"),
    command("query-kvm"),
    command("query-vcpu-dirty-limit"),
    command("query-dirty-rate"),
    command("cancel-vcpu-dirty-limit"),
    command("cancel-vcpu-dirty-limit", cpu_index=9),
    command("set-vcpu-dirty-limit"),
    command("set-vcpu-dirty-limit", dirty_rate="5"),
    command("set-vcpu-dirty-limit", dirty_rate=1.5),
    command("set-vcpu-dirty-limit", dirty_rate=5, cpu_index=2),
    command("set-vcpu-dirty-limit", dirty_rate=5, cpu_index=-1),
    command("set-vcpu-dirty-limit", dirty_rate=5, cpu=1),
    command("set-vcpu-dirty-limit", dirty_rate=100, cpu_index=1),
    command("query-vcpu-dirty-limit"),
    command("set-vcpu-dirty-limit", dirty_rate=-1),
    command("query-vcpu-dirty-limit"),
    command("cancel-vcpu-dirty-limit", cpu_index=0),
    command("query-vcpu-dirty-limit"),
    command("set-vcpu-dirty-limit", dirty_rate=0, cpu_index=1),
    command("query-vcpu-dirty-limit"),
    command("calc-dirty-rate", calc_time=0, mode="dirty-ring"),
    command("calc-dirty-rate", calc_time=61, mode="dirty-ring"),
    command("calc-dirty-rate", calc_time=1, mode="dirty-bitmap"),
    command("calc-dirty-rate", calc_time=1, mode="dirty-ring", sample_pages=512),
    command("calc-dirty-rate", calc_time=1, mode="no-mode"),
    command("stop"),
    command("cont"),
    command("cont"),
    command("stop"),
    command("stop"),
    command("query-status"),
    command("no-such-command"),
    '{"execute":"stop","id":[1,{"a":null}]}',
    '{"execute":"query-status","arguments":3}',
    '{"exec":"query-status"}',
    "[1]",
    "{'execute':'query-name'}",
    "{]",
    command("quit"),
]
WITHOUT_RING = [
    NEGOTIATE,
    command("set-vcpu-dirty-limit", dirty_rate=5),
    command("set-vcpu-dirty-limit", dirty_rate=0),
    command("cancel-vcpu-dirty-limit"),
    command("cancel-vcpu-dirty-limit", cpu_index=9),
    command("query-vcpu-dirty-limit"),
    command("calc-dirty-rate", calc_time=1, mode="dirty-ring"),
    command("quit"),
]


def converse(argv: list[str], accel: str, exchanges: list[str]) -> list[Any]:
    """Return what the server says, up to its end, without what must differ."""
    options = [
        "-accel",
        accel,
        "-smp",
        "2",
        "-m",
        "64M",
        "-S",
        "-name",
        "compared",
        "-qmp",
        "stdio",
    ]
    ran = subprocess.run(
        [*argv, *options, "-display", "none"],
        input="".join(f"{line}\n" for line in exchanges),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    said = [json.loads(line) for line in ran.stdout.splitlines()]
    assert "QMP" in said[0]
    return [_comparable(message) for message in said[1:]]


def _comparable(message: Any) -> Any:
    message.pop("timestamp", None)
    answer = message.get("return")
    for part in answer if isinstance(answer, list) else [answer]:
        if isinstance(part, dict):
            part.pop("singlestep", None)  # gone since 9.0
            part.pop("calc-time-unit", None)  # new in 8.2
            if "current-rate" in part:
                part["current-rate"] = "some"
    if "error" in message:
        desc = message["error"]["desc"]
        message["error"]["desc"] = NEWER_WORDS.get(desc, desc)
    return message


@pytest.mark.parametrize(
    ("accel", "exchanges"),
    [("kvm,dirty-ring-size=4096", WITH_RING), ("kvm", WITHOUT_RING)],
    ids=["ring", "no ring"],
)
def test_answers_are_qemus(accel: str, exchanges: list[str], kvm: None, qemu: None) -> None:
    ours = converse([sys.executable, "-m", "qmpserver.cli"], accel, exchanges)
    theirs = converse(["qemu-system-x86_64"], accel, exchanges)
    assert ours == theirs
    assert len(ours) >= len(exchanges)
