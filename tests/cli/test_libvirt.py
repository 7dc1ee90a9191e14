"""Real libvirt starts, drives and migrates real machines, on KVM with dirty rings."""

import re
import sys
from pathlib import Path

import pytest

from tests.libvirt import MARKS, assert_answers

pytestmark = [*MARKS, pytest.mark.usefixtures("kvm")]

BIN = Path(sys.executable).parent
PAGE = Path(__file__).parents[2] / "qmpserver" / "cli" / "README.md"
DOMAIN = """
<domain type='kvm'>
  <name>vm</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><kvm><dirty-ring state='on' size='4096'/></kvm></features>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/><memballoon model='none'/>
    <serial type='pty'><target port='0'/></serial>
  </devices>
</domain>
"""
LIMIT = '{"execute":"set-vcpu-dirty-limit","arguments":{"dirty-rate":20}}'
LIMITED = '"limit-rate":20'
COMMANDS = f"""
a domcapabilities --emulatorbin {{emulator}} => <domain>kvm</domain>
a define {{directory}}/vm.xml => defined
a start vm => started
a list => running
a dominfo vm => running
a ttyconsole vm => /dev/pts/
a domstats vm --vcpu => vcpu.1.exits.sum=
a vcpuinfo vm => running
a domdirtyrate-calc vm --seconds 1 --mode=dirty-ring => successfully
a suspend vm => suspended
a domstate vm => paused
a resume vm => resumed
a reset vm => reset
a setvcpus vm 1 => error: unsupported configuration
a qemu-monitor-command vm {LIMIT} => "return"
a qemu-monitor-command vm {{{{"execute":"query-vcpu-dirty-limit"}}}} => {LIMITED}
a domstats vm --dirtyrate => dirtyrate.calc_mode=dirty-ring
a restart =>
a domstate vm => running
a qemu-monitor-command vm {{{{"execute":"query-vcpu-dirty-limit"}}}} => {LIMITED}
a suspend vm => suspended
a restart =>
a domstate vm => paused
a resume vm => resumed
a save vm {{directory}}/saved => saved
a restore {{directory}}/saved => restored
a domstate vm => running
a domdirtyrate-calc vm --seconds 1 => successfully
a managedsave vm => saved
a start vm => started
a qemu-monitor-command vm {LIMIT} => "return"
a migrate --live vm qemu:///system?socket={{directory}}/b/run/libvirt-sock tcp://127.0.0.1 =>
a domstate vm => shut off
b domstate vm => running
b restart =>
b list => running
b destroy vm => destroyed
"""


def test_a_domain_is_a_machine(tmp_path: Path) -> None:
    emulator = tmp_path / "machine"
    (script,) = re.findall(r"```bash\n(#!/bin/sh\n.*?)```", PAGE.read_text(), re.DOTALL)
    emulator.write_text(script.replace("/opt/qmpserver/.venv/bin", str(BIN)))
    emulator.chmod(0o755)
    (tmp_path / "vm.xml").write_text(DOMAIN.format(emulator=emulator))
    commands = COMMANDS.replace(LIMIT, "LIMIT").format(emulator=emulator, directory=tmp_path)
    assert_answers(commands.replace("LIMIT ", f"{LIMIT} "), tmp_path)
