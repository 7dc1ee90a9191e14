#!/bin/sh
# Sets up a fresh clone and moves a running guest from one server to another: its progress, and the pause that it
# feels. Needs Python 3.11 or later and a C compiler.
set -eu
cd "$(dirname "$0")/.."
sh .ci/venv examples
exec .venv/bin/python examples/migrate.py "$@"
