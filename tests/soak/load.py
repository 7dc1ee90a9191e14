"""The load: rounds of clients that come and go, while one client steers the machine."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.conftest import listens
from tests.fuzz.messages import make
from tests.monitor.conftest import until
from tests.soak.programs import MACHINE, PATIENCE, TOKEN, Program, running
from tests.standin.conftest import Raw

Step = Callable[[], Awaitable[None]]
ENDED = ("completed", "failed", "cancelled")


class Load:
    """Load on a machine and a stand-in.

    Attributes:
        done: How often each step was made.
    """

    def __init__(
        self, rng: random.Random, machine: Program, stand_in: Program, control: Raw
    ) -> None:
        self.done: Counter[str] = Counter()
        self._rng = rng
        self._machine = machine
        self._stand_in = stand_in
        self._control = control
        self._destinations = 0
        self._visits: list[Step] = [self.visit, self.visit, self.rude, self.human, self.web]
        self._visits += [self.websocket]
        self._steering: list[Step] = [self.limit, self.limit, self.measure, self.reset]
        self._steering += [self.pause, self.migrate, self.cancel, self.refused]

    async def round(self) -> None:
        """Make a few visits at once, and a step of steering beside them; return when all left."""
        steps = [self._rng.choice(self._steering)]
        steps += self._rng.choices(self._visits, k=self._rng.randint(1, 8))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(step() for step in steps))
        self.done.update(step.__name__ for step in steps)

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Execute a command that steers the machine; it must succeed."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._control.send(command, named)
        reply = await self._control.reply()
        assert "return" in reply, (command, arguments, reply)
        return reply["return"]

    # Visits

    async def visit(self) -> None:
        """A client asks, and leaves."""
        client = await self._rng.choice([self._machine, self._stand_in]).client()
        try:
            for _ in range(self._rng.randint(1, 20)):
                name = self._rng.choice(["query-status", "query-version", "query-name", "nothing"])
                await client.execute(name)
        finally:
            await client.close()

    async def rude(self) -> None:
        """A client sends junk, and goes without a look at the answers."""
        program = self._rng.choice([self._machine, self._stand_in])
        client = await Raw.connect(program.path)
        client.writer.write(b"".join(make(self._rng) for _ in range(20)))
        with contextlib.suppress(OSError):
            await client.writer.drain()
        client.writer.transport.abort()

    async def human(self) -> None:
        """A person looks at the machine."""
        path = self._machine.directory / "human"
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            await reader.readuntil(b"(qemu) ")
            for command in ("info status", "info migrate", "info vcpu_dirty_limit", "nothing"):
                writer.write(f"{command}\n".encode())
                await reader.readuntil(b"(qemu) ")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(path=str(self._machine.directory / "web"))
        token = TOKEN if self._rng.random() < 0.9 else "wrong"
        return aiohttp.ClientSession(
            "http://localhost", connector=connector, headers={"Authorization": f"Bearer {token}"}
        )

    async def web(self) -> None:
        """A browser loads the page; a program reads the metrics and sends a command."""
        async with self._session() as session:
            statuses = []
            for path in ("/", "/metrics", "/help", "/nothing"):
                async with session.get(path) as response:
                    await response.read()
                    statuses.append(response.status)
            async with session.post("/qmp", json={"execute": "query-status"}) as response:
                await response.read()
                statuses.append(response.status)
        assert statuses in ([200, 200, 200, 404, 200], [401] * 5), statuses

    async def websocket(self) -> None:
        """A page watches for a moment, and sends commands."""
        async with self._session() as session:
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                async with session.ws_connect("/live") as live, session.ws_connect("/qmp") as qmp:
                    await live.receive_json()
                    await qmp.receive_json()
                    await qmp.send_str('{"execute": "qmp_capabilities"}')
                    assert await qmp.receive_json() == {"return": {}}
                    await qmp.send_str('{"execute": "query-status", "id": 1}')
                    while (await qmp.receive_json()).get("id") != 1:
                        pass

    # Steering

    async def limit(self) -> None:
        """Limit a vCPU, or all; then none."""
        which = self._rng.choice([{}, {"cpu_index": 0}, {"cpu_index": 1}])
        await self.execute("set-vcpu-dirty-limit", dirty_rate=self._rng.randint(1, 100), **which)
        await self.execute("query-vcpu-dirty-limit")
        await asyncio.sleep(self._rng.random() * 0.05)
        await self.execute("cancel-vcpu-dirty-limit")

    async def measure(self) -> None:
        """Measure the dirty rate."""
        mode = self._rng.choice(["page-sampling", "dirty-ring"])
        unit = {"calc_time_unit": "millisecond"}
        await self.execute("calc-dirty-rate", calc_time=50, mode=mode, **unit)
        await self._wait(self._control, "query-dirty-rate", "measured")

    async def reset(self) -> None:
        """Reset the machine."""
        await self.execute("system_reset")
        await self.execute("query-status")

    async def pause(self) -> None:
        """Stop the guest and resume it."""
        await self.execute("stop")
        await self.execute("cont")

    async def migrate(self) -> None:
        """Move the guest to a destination, which ends; then resume it here."""
        await self.execute("migrate-set-parameters", max_bandwidth=0)
        self._destinations += 1
        name, directory = f"destination{self._destinations}", self._machine.directory
        stream = directory / f"{name}.stream"
        options = [*MACHINE, "-incoming", f"unix:{stream}"]
        async with running(name, directory, *options) as destination:
            await until(lambda: listens(stream))
            await self.execute("migrate", uri=f"unix:{stream}")
            assert await self._ended() == "completed", await self.execute("query-migrate")
            client = await destination.client()
            await self._wait(client, "query-status", "running")
            await client.close()
        (directory / f"{name}.log").unlink()
        await self.execute("cont")

    async def cancel(self) -> None:
        """Begin a migration that would take long, and cancel it."""
        await self.execute("migrate-set-parameters", max_bandwidth=1 << 16)
        await self.execute("migrate", uri="exec:cat >/dev/null")
        await asyncio.sleep(self._rng.random() * 0.05)
        await self.execute("migrate_cancel")
        assert await self._ended() == "cancelled"

    async def refused(self) -> None:
        """Migrate to nobody; the guest runs on."""
        await self.execute("migrate", uri=f"unix:{self._machine.directory}/nobody")
        assert await self._ended() == "failed"
        assert (await self.execute("query-status"))["status"] == "running"

    async def _wait(self, client: Raw, query: str, *statuses: str) -> str:
        """Repeat a query until the status is one of these; return it."""
        while True:
            status: str = (await client.execute(query))["status"]
            if status in statuses:
                return status
            await asyncio.sleep(0.005)

    async def _ended(self) -> str:
        """Wait for the end of the migration; return its status."""
        return await self._wait(self._control, "query-migrate", *ENDED)
