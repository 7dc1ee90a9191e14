#!/bin/sh
# Sets, queries and cancels dirty limits from a plain shell. Needs socat. Without CPU: all vCPUs.
#   limit.sh SOCKET set MB/S [CPU]
#   limit.sh SOCKET query
#   limit.sh SOCKET cancel [CPU]
set -eu

if [ "${QMP_COMMAND-}" ]; then
	# The dialog: socat has started this script again, with the socket as its input and output.
	read -r _greeting || exit 0
	echo '{"execute": "qmp_capabilities"}'
	read -r _answer || exit 0
	printf '%s\n' "$QMP_COMMAND"
	while read -r answer; do
		case $answer in '{"return"'* | '{"error"'*) printf '%s\n' "$answer" >&3 && exit ;; esac
	done # all other lines are events
	exit
fi

usage() {
	sed -n 's/^#   /usage: /p' "$0" >&2
	exit 2
}
[ $# -ge 2 ] || usage
socket=$1 what=$2
shift 2
case $what/$# in
set/1) arguments="\"dirty-rate\": $1" ;;
set/2) arguments="\"dirty-rate\": $1, \"cpu-index\": $2" ;;
cancel/1) arguments="\"cpu-index\": $1" ;;
query/0 | cancel/0) arguments= ;;
*) usage ;;
esac
export QMP_COMMAND="{\"execute\": \"$what-vcpu-dirty-limit\", \"arguments\": {$arguments}}" SELF="$0"
# shellcheck disable=SC2016 # the shell that socat starts expands it
answer=$(socat -T 5 "UNIX-CONNECT:$socket" 'SYSTEM:exec sh \"$SELF\"' 3>&1)
case $answer in
'{"return"'*) printf '%s\n' "$answer" ;;
*) printf '%s\n' "${answer:-$socket: no QMP answer within 5 s}" >&2 && exit 1 ;;
esac
