"""Builds QEMU's own qtests from a source tree of QEMU's, and reports each case of them.

`python -m tests.qtests TREE` needs what QEMU's own build needs: ninja, pkg-config, GLib's headers.
The tests of QMP run against the stand-in, as the release that the tree is of; those of migration
against the real program, on KVM. Nothing is written to the tree.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from qmpserver.releases import RELEASES

# What the tests are to know of the program under test: they are built for another one.
PROGRAM = {
    "CONFIG_VNC": "",
    "CONFIG_SPICE": "",
    "CONFIG_KVM_TARGETS": '"x86_64-softmmu"',
}
# Only the tests are built: this target asks for no firmware, and they do not depend on it.
CONFIGURE = (
    "--without-default-features",
    "--without-default-devices",
    "--target-list=s390x-softmmu",
    "--enable-tcg",
    "--enable-replication",
    "--disable-docs",
    "--disable-tools",
    "--disable-install-blobs",
    "--disable-download",  # of other projects, into the tree
)
# What migrations of this program do not have: QEMU's stream, other encodings, TLS, steps after the
# switchover, other ways to restart, a guest that suspends.
OTHERS = re.compile(
    "analyze-script|plain/z|q(atzip|pl)|uadk|xbzrle|/tls/|postcopy|/mode/|suspend|fdset|"
    "precopy/file(/offset)?$"
)
LONGEST_S = 300


@dataclass(frozen=True)
class Suite:
    """A test program: its name, its options, and whether its cases are of the real program."""

    name: str
    options: tuple[str, ...] = ()
    real: bool = False


SUITES = (
    Suite("qmp-test"),
    Suite("qmp-cmd-test"),
    Suite("migration-test", ("--full", "-m", "slow"), real=True),
)


def main() -> int:
    """Build and run them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.qtests", description=__doc__)
    parser.add_argument("tree", type=Path, help="QEMU's source")
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="a part of the names of the cases to run"
    )
    parser.add_argument("--build", type=Path, default=Path(".qtests"), help="where they are built")
    parser.add_argument("--program", help="another program, such as QEMU itself")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    release = release_of(arguments.tree)
    make(arguments.tree.resolve(), build)
    failed = passed = skipped = 0
    for suite in SUITES:
        program = arguments.program or launcher(build, release, real=suite.real)
        listed = cases(build, suite, program)
        for case in listed:
            if suite.real and OTHERS.search(case):
                continue
            if arguments.cases and not any(part in case for part in arguments.cases):
                continue
            began = time.monotonic()
            below = [one for one in listed if one.startswith(f"{case}/")]
            outcome, words = run(build, suite, case, below, program)
            print(f"{outcome:7} {time.monotonic() - began:6.1f} s  {suite.name} {case}", flush=True)
            for line in words if outcome == "failed" else ():
                print(f"          {line}")
            passed += outcome == "ok"
            skipped += outcome == "skipped"
            failed += outcome == "failed"
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def release_of(tree: Path) -> str:
    """Return the name of the release that a tree is of."""
    try:
        version = (tree / "VERSION").read_text().strip()
    except OSError as error:
        raise SystemExit(f"{tree} is no source of QEMU: {error.strerror}: VERSION") from None
    release = "qemu-" + ".".join(version.split(".")[:2])
    if release not in RELEASES:
        raise SystemExit(f"{tree} is QEMU {version}; known are {', '.join(RELEASES)}")
    return release


def make(tree: Path, build: Path) -> None:
    """Configure, unless that was done, and build the test programs."""
    if not (build / "build.ninja").exists():
        build.mkdir(exist_ok=True)
        python = build / "tools/bin/python"
        _call([sys.executable, "-m", "venv", "tools"], build)
        _call([str(python), "-m", "pip", "install", *tools(tree)], build)
        _call([str(tree / "configure"), f"--python={python}", *CONFIGURE], build)
    header = build / "config-host.h"
    text = header.read_text()
    for name, value in PROGRAM.items():
        text = re.sub(rf"#\w+ {name}\b.*", f"#define {name} {value}", text)
    if text != header.read_text():
        header.write_text(text)
    _call(["ninja", *(f"tests/qtest/{suite.name}" for suite in SUITES)], build)


def tools(tree: Path) -> list[str]:
    """Return the Python packages that build a tree, with their versions."""
    wanted = tomllib.loads((tree / "pythondeps.toml").read_text())["meson"]
    return [f"{name}=={one['installed']}" for name, one in wanted.items()]


def _call(command: list[str], build: Path) -> None:
    log = build / "log"
    with log.open("wb") as output:
        status = subprocess.run(command, cwd=build, stdout=output, stderr=output, check=False)
    if status.returncode:
        sys.stderr.write("\n".join(log.read_text(errors="replace").splitlines()[-20:]) + "\n")
        raise SystemExit(f"{command[0]} failed; {log} has all of it")


def launcher(build: Path, release: str, *, real: bool) -> str:
    """Write a program that starts ours as the tests start QEMU, and return its path.

    The tests take the architecture from the end of its name.
    """
    words = [sys.executable, "-m", "qmpserver.cli"]
    words += ["-release", release] if real else ["-fake", f"default,schema={release}"]
    path = build / f"{'machine' if real else 'stand-in'}-system-x86_64"
    path.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    path.chmod(0o755)
    return str(path)


def cases(build: Path, suite: Suite, program: str) -> list[str]:
    """Return the names of a suite's cases."""
    listed = _test(build, suite, program, "-l").stdout.decode()
    return [line for line in listed.splitlines() if line.startswith("/")]


def run(
    build: Path, suite: Suite, case: str, below: list[str], program: str
) -> tuple[str, list[str]]:
    """Run a case without those below it; return `ok`, `skipped` or `failed`, and its output."""
    skips = [word for one in below for word in ("-s", one)]
    try:
        ran = _test(build, suite, program, "--tap", "-p", case, *skips)
        output, status = ran.stdout, ran.returncode
    except subprocess.TimeoutExpired as error:
        output, status = error.stdout or b"", -1
    lines = output.decode(errors="replace").splitlines()
    results = [line for line in lines if re.match("(not )?ok ", line)]
    results = [line for line in results if "# SKIP by request" not in line]
    if status == 0 and len(results) == 1 and results[0].startswith("ok "):
        return "skipped" if "# SKIP" in results[0] else "ok", lines
    return "failed", lines[-8:]


def _test(
    build: Path, suite: Suite, program: str, *options: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [build / "tests/qtest" / suite.name, *suite.options, *options],
        cwd=build,
        env=os.environ | {"QTEST_QEMU_BINARY": program},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LONGEST_S,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
