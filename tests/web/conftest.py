"""A machine of the software accelerator, and its monitors behind HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
import pytest
import pytest_asyncio
import uvloop

from qmpserver.monitor import Registry, Server
from qmpserver.releases import own_schema
from qmpserver.vm.accel import AccelOptions, open_accelerator
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.commands import register_all
from qmpserver.vm.commands.control import version_info
from qmpserver.vm.machine.guest import DirtyGuest
from qmpserver.vm.machine.machine import Machine
from qmpserver.web.address import parse_http
from qmpserver.web.serve import Site, serve

VCPUS = 2


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A server in the test's own process has the program's event loop: transports differ."""
    if "server" in getattr(item, "fixturenames", ()):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


class Web(NamedTuple):
    """A server of HTTP: `url` is ``http://127.0.0.1:PORT``, `bearer` the header to get in."""

    url: str
    token: str
    server: Server
    machine: Machine
    site: Site

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@pytest_asyncio.fixture
async def machine() -> AsyncIterator[Machine]:
    """A machine that runs."""
    ram = Ram(128 << 20)
    accel, _ = open_accelerator(ram, [AccelOptions("soft", 4096)])
    guest = DirtyGuest({"rate": "100"}, ram.buffer, VCPUS, accel.clock_hz)
    guest.load()
    accel.add_vcpus(guest, VCPUS)
    machine = Machine(ram, accel, guest)
    machine.start()
    yield machine
    await machine.close()


@pytest_asyncio.fixture
async def server(machine: Machine) -> AsyncIterator[Server]:
    registry = Registry(own_schema())
    register_all(registry, machine)
    server = Server(registry, version=version_info())
    machine.emit = server.emit
    yield server
    await server.close(grace=0.1)


@asynccontextmanager
async def serving(server: Server, machine: Machine, value: str = ":0") -> AsyncIterator[Web]:
    """Serve as ``-http`` *value* says."""
    options = parse_http(value)
    site = await serve(server, machine, options)
    try:
        yield Web(site.url.removesuffix("/"), options.token, server, machine, site)
    finally:
        await site.close()


@pytest_asyncio.fixture
async def site(server: Server, machine: Machine) -> AsyncIterator[Web]:
    async with serving(server, machine) as web:
        yield web


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that knows nothing yet, and keeps no cookies."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session
