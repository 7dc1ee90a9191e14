"""What connections come over: TLS, and the socket of a proxy in front."""

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import trustme

from qmpserver.monitor import DeviceError, Server
from qmpserver.vm.machine.machine import Machine
from qmpserver.web.address import parse_http
from qmpserver.web.serve import serve
from tests.web.conftest import serving

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 10
TOKEN = "a-token-of-the-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.mark.slow
async def test_tls(server: Server, machine: Machine, token_file: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    value = f"localhost:0,tls-cert={cert},tls-key={key},token-file={token_file}"
    site = await serve(server, machine, parse_http(value))
    trusting, doubting = ssl.create_default_context(), ssl.create_default_context()
    authority.configure_trust(trusting)
    outdated = ssl.create_default_context()
    authority.configure_trust(outdated)
    outdated.maximum_version = ssl.TLSVersion.TLSv1_2
    outdated.set_ciphers("AES128-SHA:@SECLEVEL=0")
    try:
        assert site.url.startswith("https://localhost:")
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            link = http.get(f"{site.url}?token={TOKEN}", ssl=trusting, allow_redirects=False)
            async with link as response:
                cookie = next(iter(SimpleCookie(response.headers["Set-Cookie"]).values()))
            assert cookie["secure"] is True
            own = site.url.rstrip("/")
            page = {"Cookie": f"{cookie.key}={cookie.value}", "Origin": own}
            async with http.ws_connect(site.url + "qmp", headers=page, ssl=trusting) as ws:
                assert "QMP" in await ws.receive_json(timeout=PATIENCE)
            other = page | {"Origin": own.replace("https", "http")}
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(site.url + "qmp", headers=other, ssl=trusting)
            assert refused.value.status == 403
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await http.get(site.url, ssl=doubting)
            with pytest.raises(aiohttp.ClientConnectionError):
                await http.get(site.url, ssl=outdated)
            with pytest.raises(aiohttp.ClientError):  # in the clear
                await http.get(site.url.replace("https", "http"), headers=BEARER)
    finally:
        await site.close()


@pytest_asyncio.fixture
async def behind_a_proxy(
    server: Server, machine: Machine, token_file: Path, tmp_path: Path
) -> AsyncIterator[Path]:
    path = tmp_path / "http.sock"
    site = await serve(server, machine, parse_http(f"unix:{path},token-file={token_file}"))
    yield path
    await site.close()
    assert not path.exists()


async def test_the_socket_of_a_proxy(behind_a_proxy: Path) -> None:
    """A proxy tells by what name it is known, and speaks TLS itself."""
    assert stat.S_IMODE(os.stat(behind_a_proxy).st_mode) == 0o600
    connector = aiohttp.UnixConnector(str(behind_a_proxy))
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as http:
        url = "http://vm.example"
        async with http.get(url + "/nothing") as response:
            assert response.status == 401
        async with http.get(url + "/nothing", headers=BEARER) as response:
            assert response.status == 404
        for forwarded, secure in (({}, ""), ({"X-Forwarded-Proto": "https"}, True)):
            link = http.get(f"{url}/?token={TOKEN}", headers=forwarded, allow_redirects=False)
            async with link as response:
                cookie = next(iter(SimpleCookie(response.headers["Set-Cookie"]).values()))
            assert cookie["secure"] == secure
            assert cookie.key == "qmpserver"
        page = {"Cookie": f"{cookie.key}={cookie.value}", "Origin": "https://vm.example"}
        async with http.ws_connect(url + "/qmp", headers=page) as ws:
            assert "QMP" in await ws.receive_json(timeout=PATIENCE)
        for origin in ("https://attacker.example", "https://vm.example:81", "null"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(url + "/qmp", headers=page | {"Origin": origin})
            assert refused.value.status == 403


async def test_a_live_socket_is_not_taken_away(
    server: Server, machine: Machine, behind_a_proxy: Path
) -> None:
    with pytest.raises(DeviceError, match="Address already in use"):
        await serve(server, machine, parse_http(f"unix:{behind_a_proxy}"))
    assert stat.S_ISSOCK(os.stat(behind_a_proxy).st_mode)


@pytest.mark.slow
async def test_nginx_in_front(
    server: Server, machine: Machine, token_file: Path, tmp_path: Path
) -> None:
    """As examples/nginx.conf says."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    block = (EXAMPLES / "nginx.conf").read_text()
    for said, here in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/ssl/vm.example.pem", f"{tmp_path}/cert.pem"),
        ("/etc/ssl/private/vm.example.key", f"{tmp_path}/key.pem"),
        ("/run/qmpserver/http.sock", f"{tmp_path}/http.sock"),
    ):
        assert said in block
        block = block.replace(said, here)
    user = "user root;" if os.geteuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; {user} pid {tmp_path}/pid; error_log {tmp_path}/log;\n"
        f"events {{}}\nhttp {{ access_log off; {block} }}\n"
    )
    url = f"https://localhost:{port}"
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serving(server, machine, f"unix:{tmp_path}/http.sock,token-file={token_file}"):
        process = await asyncio.create_subprocess_exec(
            nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"
        )
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as http:
                async with asyncio.timeout(PATIENCE):
                    while True:
                        with contextlib.suppress(aiohttp.ClientConnectorError):
                            response = await http.get(f"{url}/?token={TOKEN}")
                            break
                        await asyncio.sleep(0.02)
                async with response:  # it has followed the redirect, with the cookie
                    assert response.status == 200
                    assert str(response.url) == f"{url}/"
                async with http.ws_connect(url + "/qmp", origin=url) as ws:
                    assert "QMP" in await ws.receive_json(timeout=PATIENCE)
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await http.ws_connect(url + "/qmp", origin="https://attacker.example")
                assert refused.value.status == 403
        finally:
            process.terminate()
            await process.wait()
