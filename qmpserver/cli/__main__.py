"""`python -m qmpserver.cli` is the program `qmpserver`."""

from qmpserver.cli.main import main

main()
