"""The one list of what comparisons overlook.

That is where QEMU 7.2, the one at hand, differs from 11.0, whose vocabulary this program speaks,
and what is never twice the same.
"""

import json
from typing import Any

# Members of results that only one of the two releases has.
ONE_SIDED = {
    "singlestep": "query-status had it until 9.0",
    "calc-time-unit": "query-dirty-rate has it since 8.2",
}

# Members whose values are the moment's or the machine's; that they are there is compared.
VARYING = {
    "current-rate": "what the guest just does",
    "qom-path": "which devices a machine has besides its vCPUs",
    "start-time": "the time of day",
    "thread-id": "the operating system's choice",
    "timestamp": "the time of day",
}

# Error words of later releases, and what 7.2 says instead.
NEWER_WORDS = {
    "Calculation time is out of range [50ms, 60000ms].": "calc-time is out of range[1, 60].",
    "sample-pages is used only in page-sampling mode": (
        "either sample-pages or dirty-ring can be specified."
    ),
}


def comparable(line: bytes) -> str:
    """Return what a server said as it is compared: the very bytes, unless the lists touch them."""
    text = line.decode().removesuffix("\r\n")
    try:
        message = json.loads(text)
    except ValueError:  # a number that JSON has not: inf
        return text
    scrubbed = _scrub(message)
    return text if scrubbed == message else json.dumps(scrubbed, ensure_ascii=False)


def _scrub(value: Any) -> Any:
    if isinstance(value, list):
        return [_scrub(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: item for name, item in value.items() if name not in ONE_SIDED}
    scrubbed = {name: "varies" if name in VARYING else _scrub(i) for name, i in kept.items()}
    if isinstance(desc := scrubbed.get("desc"), str):
        scrubbed["desc"] = NEWER_WORDS.get(desc, desc)
    return scrubbed
