"""Both programs' help fits a terminal of 80 columns."""

import pytest

from qmpserver.bench.menu import BENCHES
from qmpserver.cli.commandline import parse_command_line
from qmpserver.cli.options import OPTIONS
from qmpserver.tools.qmpctl import COMMANDS, main


def test_qmpserver() -> None:
    shown = parse_command_line(["-help"]).exit_with
    assert shown is not None
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    named = [line.split()[0] for line in lines[3:-3] if not line.startswith(" ")]
    assert named == [f"-{name}" for name in OPTIONS]
    words = " ".join(shown.split())
    for option in OPTIONS.values():
        assert option.text in words


@pytest.mark.parametrize(
    "words",
    [[], *([name] for name in COMMANDS), *(["bench", name] for name in BENCHES)],
    ids=" ".join,
)
def test_qmpctl(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert len(lines) > 5
