#!/bin/sh
# From a fresh clone to the whole point: a guest that dirties memory at full speed, a limit that bites, a
# cancel that lets go at once. Needs Python 3.11 or later and a C compiler.
set -eu
cd "$(dirname "$0")/.."
sh .ci/venv tools
exec .venv/bin/python examples/quickstart.py "$@"
