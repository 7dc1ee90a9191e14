"""Real libvirt: daemons in namespaces of their own, and commands of virsh.

Needs root and libvirt's daemon for QEMU (Debian: libvirt-daemon-system).
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PATIENCE_S = 120
_MISSING = [
    one for one in ("libvirtd", "virsh", "unshare", "ip", "hostname") if shutil.which(one) is None
]
MARKS = [
    pytest.mark.install,  # it takes half a minute
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="libvirt's daemon needs root"),
]

DAEMON = """
set -e
mount --make-rprivate /
for place in etc run var/lib var/cache var/log; do
    mkdir -p $1/$place /$place/libvirt
    mount --bind $1/$place /$place/libvirt
done
cat > /etc/libvirt/qemu.conf <<END
security_driver = "none"
user = "root"
group = "root"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
END
printf 'auth_unix_rw = "none"\nhost_uuid = "%s"\n' $3 > /etc/libvirt/libvirtd.conf
hostname $2
if [ "$FORK_SERVER" ]; then
    qmpserver -fork-server $FORK_SERVER-$2/qemu-system-x86_64 &
    echo $! > $1/fork.pid
    until [ -S $FORK_SERVER-$2/qemu-system-x86_64.fork ]; do sleep 0.1; done
fi
exec libvirtd -p $1/pid 2>> $1/errors
"""
# Two hosts, which are daemons in namespaces of their own, execute the commands of standard input.
SCRIPT = """
set -e
ip link set lo up
directory=$1 daemon=$2
start() {
    unshare --mount --uts \\
        sh -c "$daemon" sh $directory/$1 $1 00000000-0000-0000-0000-00000000000$1 &
    eval $1=$!  # the daemon's process
}
await() {
    until [ -S $directory/$1/run/libvirt-sock ]; do kill -0 $a $b; sleep 0.1; done
}
restart() {
    killed=$(cat $directory/$1/pid)
    rm $directory/$1/run/libvirt-sock
    kill -KILL $killed
    wait $killed || true
    start $1
    await $1
}
pids() {
    for file in $directory/[ab]/run/qemu/*.pid $directory/[ab]/fork.pid; do
        [ ! -e $file ] || echo $(cat $file)  # libvirt ends no line
    done
}
trap 'kill $a $b $(pids); wait $a $b' EXIT
for host in a b; do start $host; done
for host in a b; do await $host; done
while read -r host line; do
    echo "@ $line"
    if [ "$line" = restart ]; then
        restart $host
    else
        socket=$directory/$host/run/libvirt-sock
        timeout 60 virsh -c qemu:///system?socket=$socket $line 2>&1 || true
    fi
done
"""


def assert_answers(commands: str, directory: Path) -> None:
    """Have two hosts execute commands, and find the answers.

    Each line is the host, `a` or `b`, a command of virsh, and a part of its output after `=>`;
    a command that is to fail has its error there. `restart` kills the host's daemon and starts
    another, which finds what the first one left.
    """
    asked = [line.partition(" =>")[::2] for line in commands.strip().splitlines()]
    ran = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", SCRIPT, "sh", str(directory), DAEMON],
        input="".join(f"{command}\n" for command, _ in asked),
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    answers = [one.split("\n", 1) for one in f"\n{ran.stdout}".split("\n@ ")[1:]]
    assert [one[0] for one in answers] == [command[2:] for command, _ in asked], ran.stderr
    for (command, *answer), (_, expected) in zip(answers, asked, strict=True):
        found = "".join(answer)
        assert expected.strip() in found, (command, found)
        assert ("error:" in found) == expected.strip().startswith("error:"), (command, found)
