"""QEMU's configuration files as options."""

from pathlib import Path

import pytest

from qmpserver.cli.commandline import parse_command_line
from qmpserver.cli.settings import CommandLineError

TEXT = """
# a monitor
[chardev "m"]
  backend = "socket"
  path = "/a,b.sock"
  server = "on"
  wait = "off"

[mon]
  chardev = "m"
  mode = "control"
[smp-opts]
  cpus = "2"
"""


@pytest.mark.parametrize("stand_in", [[], ["-fake", "default"]], ids=["machine", "stand-in"])
def test_sections_are_options(tmp_path: Path, stand_in: list[str]) -> None:
    file = tmp_path / "qemu.conf"
    file.write_text(TEXT)
    settings = parse_command_line([*stand_in, "-readconfig", str(file), "-S"])
    assert settings.monitors == [("mon", "chardev=m,mode=control")]
    assert settings.chardevs == ["id=m,backend=socket,path=/a,,b.sock,server=on,wait=off"]
    assert settings.stopped
    if stand_in:
        assert ("smp", "cpus=2") in settings.machine_options
    else:
        assert settings.cpus == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('a = "b"\n', ":1: no group defined"),
        ("[mon]\nmode\n", ":2: parse error"),
        ('[mon "1"]\n', "Parameter 'id' expects an identifier"),
        ('[foo "x"]\n', "There is no option group 'foo'"),
        (None, "Could not open '.*': No such file or directory"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str | None, problem: str) -> None:
    file = tmp_path / "qemu.conf"
    if text is not None:
        file.write_text(text)
    with pytest.raises(CommandLineError, match=problem):
        parse_command_line(["-fake", "default", "-readconfig", str(file)])
