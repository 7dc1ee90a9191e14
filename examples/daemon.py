"""A kettle that any QMP client can use: python examples/daemon.py SOCKET."""

import asyncio
import sys
from pathlib import Path

from qmpserver.monitor import Registry, Server, UnixAddress
from qmpserver.qapi import Schema


async def main(path: str) -> None:
    """Serve until told to quit."""
    registry = Registry(Schema.load(Path(__file__).with_name("daemon-schema.json")))
    version = {"qemu": {"major": 1, "minor": 0, "micro": 0}, "package": "kettle"}
    server = Server(registry, version=version)
    done, water = asyncio.Event(), {"temperature": 20}
    registry.command("query-kettle")(lambda: water)
    registry.command("quit")(done.set)

    @registry.command("heat")
    async def heat(to: int = 100) -> None:
        while water["temperature"] < to:
            await asyncio.sleep(0.01)
            water["temperature"] += 1
        server.emit("HOT", water)

    registry.check()  # nothing declared without a handler, no handler undeclared
    await server.listen(UnixAddress(path), max_clients=8)
    await done.wait()
    await server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
