"""Print what has a shell complete qmpctl's commands, and a server's commands and arguments.

  eval "$(qmpctl completion bash)"          in ~/.bashrc
  eval "$(qmpctl completion zsh)"           in ~/.zshrc, after compinit
  qmpctl completion fish | source           in ~/.config/fish/config.fish

The server that is completed for is the one that --qmp names on the line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.tools.errors import QmpctlError

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    """Print it."""
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise QmpctlError("completion needs argcomplete: pip install argcomplete") from None
    print(shellcode(["qmpctl"], shell=args.shell))
    return 0
