"""Lets a release of QEMU record itself: ``python -m tests.qemu.record PROGRAM [NAME...]``.

Written are the release's schema and facts, to its directory in `qmpserver/releases/`, and its
answers in `transcripts/` and `recorded/`. With names, only those transcripts are recorded. The
questions are those of the last release that was recorded. Answers that QEMU still gives are left as
they are written, with what may vary in them; the others are replaced.

A release that is recorded for the first time then needs a profile in `qmpserver.releases`.
"""

import gzip
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from qmpserver import releases
from qmpserver.transcript.compare import compare_exactly
from qmpserver.transcript.format import read_all
from qmpserver.transcript.message import END, Message
from tests.qemu import facts, questions
from tests.qemu.probe import Qemu
from tests.qemu.transcript import TRANSCRIPTS, exchanges, options_of, talking

# Members whose values are the moment's or the machine's; that they are there is compared.
VARYING = {
    "current-rate": "what the guest just does",
    "qom-path": "which devices a machine has besides its vCPUs",
    "qom-type": "the model of the CPU",
    "start-time": "the time of day",
    "thread-id": "the operating system's choice",
    "timestamp": "the time of day",
}


def main(program: str, *only: str) -> None:
    """Record everything, or only some transcripts."""
    qemu = Qemu(program)
    try:
        numbers = qemu.version["qemu"]
        infos = qemu.execute("query-qmp-schema")["return"]
    finally:
        qemu.close()
    name = f"qemu-{numbers['major']}.{numbers['minor']}"
    print(f"{name}, version {numbers['major']}.{numbers['minor']}.{numbers['micro']}")
    schema = Path(releases.__file__).parent / name / "schema.json.gz"
    schema.parent.mkdir(exist_ok=True)
    schema.write_bytes(gzip.compress(json.dumps(infos).encode(), mtime=0))
    if not only:
        facts.record(program, schema.with_name("facts.json.gz"))
        answers = json.dumps(questions.answers(program), indent=1)
        (questions.RECORDED / f"{name}.json").write_text(f"{answers}\n")
    transcripts = TRANSCRIPTS / name
    if not transcripts.exists():
        shutil.copytree(TRANSCRIPTS / releases.NEWEST.name, transcripts)
    for path in sorted(transcripts.glob("*.txt")):
        if only and path.stem not in only:
            continue
        print(f"{path.name}: {record(path, [program])} exchanges")


def record(path: Path, command: list[str]) -> int:
    """Replace a transcript's answers by those of a QEMU; return the number of exchanges."""
    text = path.read_text()
    answers: dict[int, list[str]] = {}
    for transcript in read_all(text):
        with talking(command, options_of(transcript, "kvm")) as clients:
            places = [_Places() for _ in clients]
            for said, expected in exchanges(transcript):
                last = said[-1]
                try:
                    lines = clients[last.client - 1].say([one.data for one in said])
                except TimeoutError:
                    raise TimeoutError(f"line {last.line}: no message ends there") from None
                places[last.client - 1].add([one.data for one in said])
                asked = places[last.client - 1]
                heard = [_answer(asked.without_marks(line), last.client) for line in lines]
                if len(heard) == len(expected):
                    pairs = zip(expected, heard, strict=True)
                    heard = [
                        got if compare_exactly(one, got, transcript.rules) else one
                        for one, got in pairs
                    ]
                answers[last.line] = [str(one) for one in heard]
    written = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip("12").startswith("<- "):
            written.append(line)
        written += answers.get(number, [])
    path.write_text("\n".join(written) + "\n")
    return len(answers)


class _Places:
    """Lines and columns of what a client has sent, without the questions of `Client.say`."""

    def __init__(self) -> None:
        self._line = self._column = 1  # of the next byte
        self._starts = [(1, 1)]  # of each line that was sent, with the questions

    def add(self, packets: list[bytes]) -> None:
        """Count packets, and the question after them, which is the end of a line."""
        for byte in b"".join(packets):
            self._column += 1
            if byte == ord("\n"):
                self._line, self._column = self._line + 1, 1
                self._starts.append((self._line, self._column))
        self._starts.append((self._line, self._column))

    def without_marks(self, answer: bytes) -> bytes:
        """Return an answer, with the place in an error's text as if only the packets were sent."""
        return re.sub(rb'(?<="desc": ")(\d+):(\d+)(?=: JSON)', self._place, answer)

    def _place(self, match: re.Match[bytes]) -> bytes:
        line, column = self._starts[int(match[1]) - 1]
        return b"%d:%d" % (line, column + int(match[2]) - 1)


def _answer(line: bytes, client: int) -> Message:
    got = Message("server", line.decode().removesuffix("\r\n") if line else END, client=client)
    if not isinstance(got.value, dict):
        return got
    value = _varied(got.value)
    return got if value == got.value else Message("server", json.dumps(value), client=client)


def _varied(value: Any) -> Any:
    if isinstance(value, list):
        return [_varied(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: "<any>" if name in VARYING else _varied(i) for name, i in value.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
