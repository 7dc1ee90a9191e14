#!/bin/sh
# The C part without Python: strict warnings, and the harnesses under each sanitizer that works here, with gcc
# and, where there is one, clang. --warnings leaves out the sanitizers. FUZZ_STREAMS is the number of broken streams
# for the receiver, from FUZZ_SEED on.
set -eu
cd "$(dirname "$0")/../../.."
native=qmpserver/vm/accel/native
sources=$(find $native -name '*.c' ! -name '_native*' | sort)
flags="-std=gnu11 -g -O1 -Wall -Wextra -Werror -I $native"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT INT TERM
failed=
streams=${FUZZ_STREAMS-500}

# Older thread sanitizers do not cope with addresses as random as today's kernels make them.
calmly() {
	if setarch -R true 2>/dev/null; then setarch -R "$@"; else "$@"; fi
}

# Build a harness and run it with its arguments.
run() {
	$build $flags "tests/vm/native/$1.c" $sources -o "$dir/$1" -pthread &&
		calmly timeout $((240 + streams / 50)) "$dir/$@" || failed=yes
}

for cc in gcc clang; do
	command -v $cc >/dev/null || continue
	for source in $sources tests/vm/native/*.c; do
		$cc $flags -O2 -c "$source" -o /dev/null || failed=yes
	done
	[ "${1-}" = --warnings ] && continue
	for sanitizer in address,undefined thread; do
		build="$cc -fsanitize=$sanitizer -fno-sanitize-recover=all"
		echo 'int main(void) { return 0; }' >"$dir/probe.c"
		if ! $build "$dir/probe.c" -o "$dir/probe" 2>/dev/null || ! calmly "$dir/probe" 2>/dev/null; then
			echo "$cc: no $sanitizer sanitizer here, skipped"
			continue
		fi
		echo "$cc: $sanitizer"
		run harness 6
		run stream 30
		run stream_fuzz "$streams" "${FUZZ_SEED-1}"
	done
done
[ -z "$failed" ]
