"""A daemon that QMP clients control, here a kettle: python examples/daemon.py SOCKET."""

import asyncio
import sys
from pathlib import Path

from qmpserver import Registry, Schema, Server


async def main(path: str) -> None:
    """Serve until a client sends `quit`."""
    registry = Registry(Schema.load(Path(__file__).with_name("daemon-schema.json")))
    done, water = asyncio.Event(), {"temperature": 20}
    registry.command("query-kettle")(lambda: water)
    registry.command("quit")(done.set)

    @registry.command("heat")
    async def heat(to: int = 100) -> None:
        while water["temperature"] < to:
            await asyncio.sleep(0.01)
            water["temperature"] += 1
        server.emit("HOT", water)

    async with Server(registry) as server:  # fails if handlers and schema differ
        await server.serve_unix(path, max_clients=8)
        await done.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
