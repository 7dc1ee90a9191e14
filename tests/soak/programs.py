"""The programs under load: a machine with all its monitors, a stand-in, and destinations."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.conftest import HAS_KVM, listens
from tests.standin.conftest import Raw

PATIENCE = 120.0
TOKEN = "the-token-of-this-soak"
ACCEL = "kvm" if HAS_KVM else "soft"
MACHINE = ["-accel", f"{ACCEL},dirty-ring-size=4096", "-smp", "2", "-m", "32M",
           "-guest", "dirty,size=4M,rate=20"]  # fmt: skip


class Program:
    """A running qmpserver in a directory: `NAME` is its QMP socket, `NAME.log` its messages."""

    def __init__(self, name: str, directory: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.directory = directory
        self.process = process

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def path(self) -> Path:
        """The path of its QMP socket."""
        return self.directory / self.name

    async def client(self) -> Raw:
        """Return a client past negotiation."""
        client = await Raw.connect(self.path)
        await client.negotiate()
        return client

    def messages(self) -> str:
        """Return what it has written to its standard error."""
        return (self.directory / f"{self.name}.log").read_text()

    async def end(self) -> None:
        """End it, and check that it ends well and has reported no error."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(PATIENCE):
            status = await self.process.wait()
        said = self.messages()
        assert status == 0, f"{self.name} ended with status {status}: {said}"
        assert "Traceback" not in said, said
        assert "nternal error" not in said, said


@contextlib.asynccontextmanager
async def running(name: str, directory: Path, *options: str) -> AsyncIterator[Program]:
    """Start a program that serves 20 clients at a time; end it after the block."""
    chardev = f"socket,id=qmp,path={directory / name},server=on,wait=off,max-clients=20"
    with (directory / f"{name}.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qmpserver.cli", *options),
            *("-chardev", chardev, "-mon", "chardev=qmp,mode=control"),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=log,
        )
    program = Program(name, directory, process)
    try:
        async with asyncio.timeout(PATIENCE):
            while not listens(program.path):
                assert process.returncode is None, program.messages()
                await asyncio.sleep(0.005)
        yield program
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    await program.end()


def machine_options(directory: Path) -> list[str]:
    """Return the options of the machine under load: its human monitor and its web face."""
    (directory / "token").write_text(TOKEN)
    human = f"socket,id=human,path={directory / 'human'},server=on,wait=off,max-clients=4"
    web = f"unix:{directory / 'web'},token-file={directory / 'token'}"
    return [*MACHINE, "-chardev", human, "-mon", "chardev=human", "-http", web]
