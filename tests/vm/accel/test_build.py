"""The engine's C on other systems than this one: older kernel headers, musl, arm64."""

import os
import re
import runpy
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import NATIVE

pytestmark = pytest.mark.slow

FLAGS = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}"]
SOURCES = sorted(path for path in NATIVE.rglob("*.c") if path.name[0] != "_")
AFTER_5_15 = [
    "KVM_CAP_DIRTY_LOG_RING_ACQ_REL",
    "KVM_CAP_X86_TRIPLE_FAULT_EVENT",
    "KVM_CAP_XSAVE2",
    "KVM_GET_XSAVE2",
    "KVM_VCPU_TSC_CTRL",
    "KVM_VCPU_TSC_OFFSET",
]
AFTER_5_10 = ["KVM_CAP_DIRTY_LOG_RING", "KVM_CAP_SREGS2", "KVM_GET_SREGS2", "KVM_SET_SREGS2"]

Headers = Callable[[list[str]], Path]


@pytest.fixture
def headers(tmp_path: Path) -> Headers:
    """Return a directory with KVM's headers of this system, without the names given."""

    def older(absent: list[str]) -> Path:
        (tmp_path / "kvm.c").write_text("#include <linux/kvm.h>\n")
        needed = subprocess.run(
            ["cc", "-M", "kvm.c"], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        define = re.compile(rf"^\s*#\s*define\s+({'|'.join(absent)})\s.*$", re.MULTILINE)
        removed: set[str] = set()
        for word in needed.stdout.split():
            path = Path(word)
            if path.name == "kvm.h":
                text = path.read_text()
                removed |= {match[1] for match in define.finditer(text)}
                copy = tmp_path / "old" / path.parent.name / path.name
                copy.parent.mkdir(parents=True)
                copy.write_text(define.sub("", text))
        assert removed >= {name for name in absent if "_VCPU_" not in name}
        return tmp_path / "old"

    return older


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """The C file that cffi writes."""
    path = tmp_path / "_native.c"
    runpy.run_path(str(NATIVE / "build.py"))["ffibuilder"].emit_c_code(str(path))
    return path


def compiled(compiler: list[str], *sources: Path, flags: list[str]) -> str:
    """Return a compiler's messages, after an error; it writes nothing."""
    command = [*compiler, *FLAGS, *flags, "-fsyntax-only", *map(str, sources)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode == 0) == (not ran.stderr), ran.stderr
    return ran.stderr


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_headers_of_linux_5_15(compiler: str, headers: Headers, glue: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    flags = [f"-I{headers(AFTER_5_15)}", f"-I{sysconfig.get_path('include')}"]
    assert compiled([compiler], *SOURCES, glue, flags=flags) == ""


def test_older_headers_are_refused(headers: Headers) -> None:
    said = compiled(["cc"], NATIVE / "kvm.c", flags=[f"-I{headers(AFTER_5_15 + AFTER_5_10)}"])
    [first, *_] = [line for line in said.splitlines() if "error:" in line]
    assert "linux/kvm.h of Linux 5.15 or later is needed" in first


def test_musl(glue: Path, tmp_path: Path) -> None:
    if shutil.which("musl-gcc") is None:
        pytest.skip("musl-gcc is not installed")
    # The kernel's headers are not musl's, and lie among glibc's; so do some of Debian's Python.
    multiarch = Path(f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}")
    python = Path(sysconfig.get_path("include"))
    asm = multiarch / "asm"
    for name, place in {
        "linux": Path("/usr/include/linux"),
        "asm-generic": Path("/usr/include/asm-generic"),
        "asm": asm if asm.exists() else Path("/usr/include/asm"),
        f"{multiarch.name}/{python.name}": multiarch / python.name,
    }.items():
        link = tmp_path / "apart" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place)
    flags = [f"-isystem{tmp_path}/apart", f"-I{python}"]
    assert compiled(["musl-gcc"], *SOURCES, glue, flags=flags) == ""


def test_arm64(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    include = Path("/usr/aarch64-linux-gnu/include")
    if shutil.which("clang") is None or not include.exists():
        pytest.skip("clang, or the C library's headers for arm64, are not installed")
    compiler = ["clang", "--target=aarch64-linux-gnu", "-isystem", str(include)]
    for source in SOURCES:
        command = [*compiler, *FLAGS, "-c", str(source), "-o", str(tmp_path / "object.o")]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="aarch64"))
    path = tmp_path / "_native.c"
    runpy.run_path(str(NATIVE / "build.py"))["ffibuilder"].emit_c_code(str(path))
    assert "kvm_sregs" not in path.read_text()
