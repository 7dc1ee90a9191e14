"""Subcommands in modules of their own, imported only when they are used."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import os
import textwrap
from typing import TYPE_CHECKING, Any

from qmpserver.tools.errors import QmpctlError

if TYPE_CHECKING:
    from collections.abc import Mapping

ENGINE = "qmpserver.vm"


class _Help(argparse.HelpFormatter):
    """Fills paragraphs to the terminal's width; indented ones stay as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for paragraph in inspect.cleandoc(text).replace("`", "'").split("\n\n"):
            as_written = any(line.startswith(" ") for line in paragraph.splitlines())
            filled.append(paragraph if as_written else textwrap.fill(paragraph, width))
        return textwrap.indent("\n\n".join(filled), indent)


class _Lazy(argparse.ArgumentParser):
    """A parser whose options are in a module that is imported at the first use of the parser."""

    def __init__(self, *, module: str, **options: Any) -> None:
        super().__init__(**options)
        self.formatter_class = _Help
        self._module = module
        self._mixing = False
        if "_ARGCOMPLETE" in os.environ:  # it looks at parsers before they are used
            with contextlib.suppress(QmpctlError):
                self._load()

    def _load(self) -> None:
        """Add the module's options; raises QmpctlError if the module needs a missing engine."""
        if not self._module:
            return
        try:
            module = importlib.import_module(self._module)
        except ImportError as error:
            if not (error.name or "").startswith(ENGINE):
                raise
            raise QmpctlError(f"{self.prog.removeprefix('qmpctl ')}: {error.msg}") from None
        self._module = ""
        self.description = module.__doc__
        self.set_defaults(run=getattr(module, "run", None))
        module.configure(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse with the module's options, which may stand between its arguments."""
        self._load()
        if self._subparsers is not None or self._mixing:
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            namespace, left = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return namespace, left


def add_commands(
    parser: argparse.ArgumentParser, commands: Mapping[str, tuple[str, str]], metavar: str
) -> None:
    """Add subcommands to a parser.

    Args:
        parser: The parser.
        commands: By name the module of each, named below `qmpserver`, and its line in the help.
            The module's docstring is shown as help; its function `configure(parser)` adds the
            options, and `run(args)` returns the exit status or raises `QmpctlError`.
        metavar: The word for a subcommand in the help.
    """
    menu = parser.add_subparsers(required=True, metavar=metavar, parser_class=_Lazy)
    for name, (module, line) in commands.items():
        menu.add_parser(name, help=line, module=f"qmpserver.{module}")
