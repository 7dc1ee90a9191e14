#!/bin/sh
# Runs every check: the linters, the types, the C part under strict warnings and under sanitizers, and pytest.
# --fast leaves out the sanitizers and the tests marked `slow` or `serial`. Other arguments are pytest's, and then
# only pytest runs. Makes .venv first where it is missing.
set -eu
cd "$(dirname "$0")/.."
sh .ci/venv test
bin=.venv/bin
failed=
# Tests start thousands of programs; with this set each would compile all modules anew.
unset PYTHONDONTWRITEBYTECODE

check() {
	echo "== $1"
	shift
	"$@" || failed=yes
}

# A test that hangs shows its stack and ends the run; the slowest ones install packages or compile.
tests() {
	$bin/pytest -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true "$@"
}

lint() {
	check "ruff check" $bin/ruff check
	check "ruff format" $bin/ruff format --check
	check "mypy" $bin/mypy
}

case "${1-}" in
"")
	# Two that use one processor each.
	native=$(mktemp)
	sh tests/vm/native/run.sh >"$native" 2>&1 &
	lint
	check "C: warnings and sanitizers" wait $!
	cat "$native"
	rm "$native"
	check "pytest, in parallel" tests -n 3 --dist loadfile --no-loadscope-reorder -m "not serial and not install"
	check "pytest, one at a time" tests -m serial
	;;
--fast)
	[ $# -eq 1 ] || { echo "tests/run.sh: --fast takes no further arguments" >&2; exit 2; }
	lint
	check "C: warnings" sh tests/vm/native/run.sh --warnings
	check "pytest, in parallel" tests -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not serial"
	;;
*)
	check "pytest" tests "$@"
	;;
esac

if [ -n "$failed" ]; then
	echo "tests/run.sh: failed, see above" >&2
	exit 1
fi
