"""The line that tells why there is no native engine."""

import os
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from qmpserver.vm.accel import AcceleratorError, AccelOptions, open_accelerator
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.accel.native import missing
from qmpserver.vm.accel.native.missing import explain

EXTENSION = "qmpserver.vm.accel.native._native"
AGAIN = "install qmpserver again, with pip's --force-reinstall --no-cache-dir"
NOT_BUILT = ModuleNotFoundError(f"No module named '{EXTENSION}'", name=EXTENSION)


def on(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))


@pytest.mark.parametrize(
    ("platform", "machine", "expected"),
    [
        ("linux", "riscv64", "not linux on riscv64"),
        ("darwin", "arm64", "not darwin on arm64"),
        ("freebsd14", "x86_64", "not freebsd14 on x86_64"),
    ],
)
def test_elsewhere(
    monkeypatch: pytest.MonkeyPatch, platform: str, machine: str, expected: str
) -> None:
    on(monkeypatch, machine)
    monkeypatch.setattr(sys, "platform", platform)
    assert explain(NOT_BUILT) == f"the native engine needs Linux on x86-64 or arm64, {expected}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ModuleNotFoundError("No module named '_cffi_backend'", name="_cffi_backend"),
            "the native engine needs cffi: pip install cffi",
        ),
        (
            ImportError("undefined symbol: sem_clockwait", name=EXTENSION),
            "the native engine cannot be loaded (undefined symbol: sem_clockwait): " + AGAIN,
        ),
        (NOT_BUILT, f"the native engine was not built: {AGAIN} -v, which shows why"),
    ],
)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_here(
    monkeypatch: pytest.MonkeyPatch, error: ImportError, expected: str, machine: str
) -> None:
    on(monkeypatch, machine)
    monkeypatch.setattr(missing, "_lacking", dict)
    assert explain(error) == expected


def test_requirements_that_are_not_met(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", {"CC": "strange-gcc -pthread"}.get)
    monkeypatch.setattr(sysconfig, "get_path", {"include": str(tmp_path)}.get)
    monkeypatch.setattr(missing, "KERNEL_HEADER", tmp_path / "kvm.h")
    assert explain(NOT_BUILT) == (
        "the native engine was not built, for lack of the C compiler strange-gcc, Python.h, "
        "linux/kvm.h of Linux 5.15 or later: install that (Debian: apt-get install gcc libc6-dev "
        f"python3-dev linux-libc-dev), then {AGAIN}"
    )
    (tmp_path / "kvm.h").write_text("#define KVM_CAP_DIRTY_LOG_RING 192\n")
    assert "Python.h, linux/kvm.h of Linux 5.15 or later: install that" in explain(NOT_BUILT)
    (tmp_path / "kvm.h").write_text("#define KVM_CAP_SREGS2 200\n")
    (tmp_path / "Python.h").touch()
    assert "for lack of the C compiler strange-gcc: install that" in explain(NOT_BUILT)


def test_kvm_is_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    ram = Ram(16 << 20)
    on(monkeypatch, "aarch64")
    try:
        with pytest.raises(AcceleratorError, match="KVM is used on x86-64 only, this is aarch64"):
            open_accelerator(ram, [AccelOptions("kvm")])
        accel, refused = open_accelerator(ram, [AccelOptions("kvm"), AccelOptions("soft")])
        accel.close()
        assert len(refused) == 1
    finally:
        ram.close()
