"""Real libvirt starts, drives and migrates stand-ins.

The stand-in is libvirt's `<emulator>`, by a link whose name is QEMU's. Needs root and libvirt's
daemon for QEMU (Debian: libvirt-daemon-system).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qmpserver.tools.processes import cpu_ms, private_mb
from tests.libvirt import DAEMON, MARKS, SCRIPT, assert_answers

BIN = Path(sys.executable).parent

pytestmark = MARKS

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
COMMANDS = """
a domcapabilities --emulatorbin {emulator} => <domain>kvm</domain>
a define {directory}/vm.xml => defined
a start vm => started
a dominfo vm => running
a domstats vm => vcpu.current=2
a restart =>
a suspend vm => suspended
a restart =>
a domstate vm => paused
a resume vm => resumed
a domblkstat vm vda => rd_bytes 0
a iothreadinfo vm => 1
a iothreadadd vm 2 --live =>
a iothreadinfo vm => 2
a iothreaddel vm 2 --live =>
a snapshot-create-as vm s1 --disk-only --no-metadata --diskspec vda,file={directory}/s1 => created
a blockcommit vm vda --active --wait --pivot => pivoted
a blockcopy vm vda {directory}/copy.raw --format raw --transient-job --wait --pivot => pivoted
a domblklist vm => copy.raw
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


def test_a_domain_is_a_stand_in(tmp_path: Path) -> None:
    emulator = tmp_path / "qemu-system-x86_64"
    emulator.symlink_to(BIN / "qmpserver")
    # Of a release as old as libvirt 9.0, which sends arguments that later ones lack.
    emulator.with_name(f"{emulator.name}.toml").write_text('schema = "qemu-7.2"\n')
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(1 << 20))
    (tmp_path / "vm.xml").write_text(DOMAIN.format(emulator=emulator, image=image))
    (tmp_path / "nic.xml").write_text(NIC)
    assert_answers(COMMANDS.format(emulator=emulator, directory=tmp_path), tmp_path)


MANY = int(os.environ.get("DOMAINS", "10"))
PLAIN = """
<domain type='kvm'>
  <name>vm{number}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><emulator>{emulator}</emulator></devices>
</domain>
"""


@pytest.mark.skipif(sys.platform != "linux", reason="libvirt and a fork server need Linux")
def test_many_domains_are_forked(tmp_path: Path) -> None:
    """A process for each, which a fork server makes cheap; `DOMAINS` says how many."""
    for host in ("a", "b"):
        (tmp_path / f"forked-{host}").mkdir()
        emulator = tmp_path / f"forked-{host}" / "qemu-system-x86_64"
        emulator.symlink_to(BIN / "qmpserver")
        emulator.with_name(f"{emulator.name}.toml").write_text('schema = "qemu-7.2"\n')
    emulator = tmp_path / "forked-a" / "qemu-system-x86_64"
    numbers = range(1, MANY + 1)
    for number in numbers:
        text = PLAIN.format(number=number, emulator=emulator)
        (tmp_path / f"{number}.xml").write_text(text)
    commands = [
        *(f"a define {tmp_path}/{number}.xml" for number in numbers),
        *(f"a start vm{number}" for number in numbers),
        *(f"a domstate vm{number}" for number in numbers),
    ]
    with subprocess.Popen(
        ["unshare", "--mount", "--net", "sh", "-c", SCRIPT, "sh", str(tmp_path), DAEMON],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "FORK_SERVER": f"{tmp_path}/forked",
        },
    ) as hosts:
        assert hosts.stdin is not None
        assert hosts.stdout is not None
        try:
            hosts.stdin.write("".join(f"{command}\n" for command in commands))
            hosts.stdin.flush()
            states = 0
            for line in hosts.stdout:
                assert not line.startswith("error:"), line + hosts.stdout.readline()
                states += line == "running\n"
                if states == MANY:
                    break
            callers = [tmp_path / f"a/run/qemu/vm{number}.pid" for number in numbers]
            pids = [int(one.read_text()) for one in callers]
            pids += _descendants(int((tmp_path / "a/fork.pid").read_text()))
            private, cpu = sum(map(private_mb, pids)) / MANY, sum(map(cpu_ms, pids)) / MANY
        finally:
            hosts.stdin.close()
            hosts.stdout.read()  # a closed pipe would end the script before it ends the daemons
    print(
        f"{MANY} domains, each {private:.1f} MB of private memory, {cpu:.0f} ms of processor time"
    )
    assert private < 10


def _descendants(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    children = [int(one) for one in text.split()]
    return children + [one for child in children for one in _descendants(child)]
