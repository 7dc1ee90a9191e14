"""QEMU's configuration files: a section such as `[chardev "m"]` is an option, `-chardev id=m`."""

from __future__ import annotations

import re

from qmpserver.files import read_text
from qmpserver.keyval import OptionError

_SECTION = re.compile(r'\[\s*([^\s"\]]+)\s*(?:"([^"]*)")?\s*\]')
_SETTING = re.compile(r'([^\s=]+)\s*=\s*"([^"]*)"')
# The options of groups with another name.
_OPTIONS = {"smp-opts": "smp", "memory": "m", "boot-opts": "boot"}


def read_config(path: str) -> list[tuple[str, str]]:
    """Return the options in a configuration file, each with its value.

    Raises:
        OptionError: The file cannot be read, or a line is neither a section nor a setting of one.
    """
    try:
        lines = read_text(path).splitlines()
    except UnicodeDecodeError:
        raise OptionError("text is not UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", error)
        raise OptionError(f"Could not open '{path}': {reason}") from None
    sections: list[tuple[str, list[str]]] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if section := _SECTION.fullmatch(line):
            name, given_id = section.groups()
            settings = [] if given_id is None else [f"id={_escaped(given_id)}"]
            sections.append((_OPTIONS.get(name, name), settings))
        elif (setting := _SETTING.fullmatch(line)) and sections:
            sections[-1][1].append(f"{setting[1]}={_escaped(setting[2])}")
        else:
            problem = "parse error" if sections else "no group defined"
            raise OptionError(f"{path}:{number}: {problem}")
    return [(name, ",".join(settings)) for name, settings in sections]


def _escaped(value: str) -> str:
    return value.replace(",", ",,")
