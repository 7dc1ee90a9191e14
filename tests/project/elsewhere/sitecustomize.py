"""Makes Linux look like another POSIX system, without compiled dependencies and the native engine.

Python runs this at its start where `PYTHONPATH` names the directory.
"""

import importlib
import sys

ABSENT = {
    "os": (
        "CLONE_ EFD_ GRND_ MFD_ O_NOATIME O_PATH O_TMPFILE POSIX_FADV_ P_PIDFD RWF_ "
        "SCHED_ SPLICE_ XATTR_ copy_file_range eventfd fdatasync getrandom getresgid getresuid "
        "getxattr listxattr memfd_ pidfd_ pipe2 posix_fadvise posix_fallocate removexattr sched_ "
        "setns setresgid setresuid setxattr splice timerfd_ unshare"
    ),
    "select": "EPOLL POLLRDHUP epoll",
    "socket": (
        "AF_ALG AF_CAN AF_NETLINK AF_PACKET AF_QIPCRTR AF_TIPC AF_VSOCK MSG_CMSG_CLOEXEC "
        "MSG_CONFIRM MSG_ERRQUEUE MSG_MORE SCM_CREDENTIALS SOCK_CLOEXEC SOCK_NONBLOCK "
        "SO_BINDTODEVICE SO_DOMAIN SO_MARK SO_PASSCRED SO_PEERCRED SO_PRIORITY SO_PROTOCOL "
        "TCP_CORK TCP_INFO TCP_LINGER2 TCP_QUICKACK TCP_USER_TIMEOUT"
    ),
}
"""The beginnings of names that other systems do not have."""

NOT_INSTALLED = {"_cffi_backend", "cffi", "qmpserver.vm.accel.native._native", "uvloop"}


class Refuse:
    """Finds none of the modules that are not installed."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name in NOT_INSTALLED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


for owner, beginnings in ABSENT.items():  # in this order: socket imports modules that use select
    module = importlib.import_module(owner)
    absent = tuple(beginnings.split())
    for name in [name for name in vars(module) if name.startswith(absent)]:
        delattr(module, name)
sys.meta_path.insert(0, Refuse())
sys.platform = "freebsd14"
