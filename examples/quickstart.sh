#!/bin/sh
# Sets up a fresh clone and shows a guest that dirties memory at full speed, the same guest under a dirty
# limit, and a cancel that takes effect at once. Needs Python 3.11 or later and a C compiler.
set -eu
cd "$(dirname "$0")/.."
sh .ci/venv examples
exec .venv/bin/python examples/quickstart.py "$@"
