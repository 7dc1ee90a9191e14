"""The parameters of options: what the command line takes and query-command-line-options tells.

They are grouped under QEMU's names of the groups, by which clients ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.keyval import Kind, kinds
from qmpserver.monitor import CHARDEV_OPTIONS, MONITOR_OPTIONS
from qmpserver.vm.machine import options

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCEL = kinds(string="accel reaper dirty-limit", number="dirty-ring-size")
MACHINE = kinds(string="type accel")
SMP = kinds(number="cpus maxcpus sockets dies clusters cores threads")
MEMORY = {"size": Kind.SIZE_IN_MIB}
NAME = kinds(string="guest process", boolean="debug-threads")
ACTION = kinds(string="reboot shutdown panic watchdog")
TRACE = kinds(string="enable events file")
MESSAGES = kinds(boolean="timestamp guest-name")
GUEST = kinds(string="guest") | options.GUEST

PARAMETERS: Mapping[str, Mapping[str, Kind]] = {
    "accel": ACCEL,
    "machine": MACHINE,
    "smp-opts": SMP,
    "memory": MEMORY,
    "guest": GUEST,
    "name": NAME,
    "action": ACTION,
    "msg": MESSAGES,
    "trace": TRACE,
    "chardev": CHARDEV_OPTIONS,
    "mon": MONITOR_OPTIONS,
}
