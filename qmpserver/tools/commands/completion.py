"""Print the script that completes qmpctl, and a server's commands and arguments, in a shell.

  eval "$(qmpctl completion bash)"          in ~/.bashrc
  eval "$(qmpctl completion zsh)"           in ~/.zshrc, after compinit
  qmpctl completion fish | source           in ~/.config/fish/config.fish

Names are those of the server that --qmp names on the line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.tools.errors import needs

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    with needs("completion", "argcomplete", "tools"):
        from argcomplete.shell_integration import shellcode
    print(shellcode(["qmpctl"], shell=args.shell))
    return 0
