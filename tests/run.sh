#!/bin/sh
# Makes .venv where it is missing, then runs every check: the linters, the types, the C part under strict
# warnings and under sanitizers, and pytest. Arguments are pytest's, and then nothing but pytest runs.
set -eu
cd "$(dirname "$0")/.."
sh .ci/venv test
bin=.venv/bin
failed=

check() {
	echo "== $1"
	shift
	"$@" || failed=yes
}

if [ $# -eq 0 ]; then
	check "ruff check" $bin/ruff check
	check "ruff format" $bin/ruff format --check
	check "mypy" $bin/mypy
	check "C: warnings and sanitizers" sh tests/vm/native/run.sh
fi
# A test that hangs shows where, and ends the run.
check "pytest" $bin/pytest -o faulthandler_timeout=120 -o faulthandler_exit_on_timeout=true "$@"

if [ -n "$failed" ]; then
	echo "tests/run.sh: failed, see above" >&2
	exit 1
fi
