"""Real libvirt starts, drives and migrates stand-ins.

The stand-in is libvirt's `<emulator>`, by a link whose name is QEMU's. Needs root and libvirt's
daemon for QEMU (Debian: libvirt-daemon-system).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 120
MISSING = [
    one for one in ("libvirtd", "virsh", "unshare", "ip", "hostname") if shutil.which(one) is None
]

pytestmark = [
    pytest.mark.install,  # it takes half a minute
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="libvirt's daemon needs root"),
]

DOMAIN = """
<domain type='kvm'>
  <name>vm</name><memory unit='MiB'>128</memory><vcpu current='2'>4</vcpu><iothreads>1</iothreads>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>{emulator}</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='pty'/><console type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='virtio'/><video><model type='vga'/></video><graphics type='vnc' port='-1'/>
  </devices>
</domain>
"""
NIC = """
<interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface>
"""
# Each line is the host, a command of virsh, and a part of its output after `=>`.
COMMANDS = """
a domcapabilities --emulatorbin {emulator} => <domain>kvm</domain>
a define {directory}/vm.xml => defined
a start vm => started
a dominfo vm => running
a domstats vm => vcpu.current=2
a suspend vm => suspended
a resume vm => resumed
a domblkstat vm vda => rd_bytes 0
a iothreadinfo vm => 1
a setvcpus vm 3 =>
a vcpucount vm --live --active => 3
a attach-device vm {directory}/nic.xml => attached
a detach-device vm {directory}/nic.xml => detached
a reset vm => reset
a domdirtyrate-calc vm --seconds 1 => successfully
a save vm {directory}/saved => saved
a restore {directory}/saved => restored
a dump vm {directory}/core --memory-only => dumped
a managedsave vm => saved
a start vm => started
a migrate --live --unsafe vm qemu:///system?socket={directory}/b/run/libvirt-sock tcp://127.0.0.1 =>
a domstate vm => shut off
b domstate vm => running
b destroy vm => destroyed
"""
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
exec libvirtd -p $1/pid 2> $1/errors
"""
# Two hosts, which are daemons in namespaces of their own, execute the commands of standard input.
SCRIPT = """
set -e
ip link set lo up
trap 'kill $daemons $(cat $1/[ab]/run/qemu/*.pid 2> $1/none); wait $daemons' EXIT
for host in a b; do
    unshare --mount --uts sh -c "$2" sh $1/$host $host 00000000-0000-0000-0000-00000000000$host &
    daemons="$daemons $!"
done
for host in a b; do
    until [ -S $1/$host/run/libvirt-sock ]; do kill -0 $daemons; sleep 0.1; done
done
while read -r host line; do
    echo "@ $line"
    timeout 60 virsh -c qemu:///system?socket=$1/$host/run/libvirt-sock $line 2>&1 || true
done
"""


def test_a_domain_is_a_stand_in(tmp_path: Path) -> None:
    emulator = tmp_path / "qemu-system-x86_64"
    emulator.symlink_to(Path(sys.executable).with_name("qmpserver"))
    # Of a release as old as libvirt 9.0, which sends arguments that later ones lack.
    emulator.with_name(f"{emulator.name}.toml").write_text('schema = "qemu-7.2"\n')
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(1 << 20))
    (tmp_path / "vm.xml").write_text(DOMAIN.format(emulator=emulator, image=image))
    (tmp_path / "nic.xml").write_text(NIC)
    text = COMMANDS.format(emulator=emulator, directory=tmp_path).strip()
    asked = [line.partition(" =>")[::2] for line in text.splitlines()]
    ran = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", SCRIPT, "sh", str(tmp_path), DAEMON],
        input="".join(f"{command}\n" for command, _ in asked),
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    answers = [one.split("\n", 1) for one in f"\n{ran.stdout}".split("\n@ ")[1:]]
    assert [one[0] for one in answers] == [command[2:] for command, _ in asked], ran.stderr
    for (command, *answer), (_, expected) in zip(answers, asked, strict=True):
        assert "error:" not in "".join(answer), command
        assert expected.strip() in "".join(answer), command
