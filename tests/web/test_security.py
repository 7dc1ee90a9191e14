"""Who is let in, and who is not."""

import asyncio
import subprocess
import sys
from http.cookies import SimpleCookie
from pathlib import Path

import aiohttp
import pytest
import trustme

from qmpserver.cli.commandline import parse_command_line
from qmpserver.cli.settings import CommandLineError
from qmpserver.keyval import OptionError
from qmpserver.monitor import DeviceError, Server
from qmpserver.vm.machine.machine import Machine
from qmpserver.web.address import parse_http
from qmpserver.web.serve import serve
from tests.web.conftest import Web

PATIENCE = 10
# An EC key, encrypted: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes-128-cbc
LOCKED_KEY = b"""\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAipm51f7aPSHgICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEEDsqxhNorniuyWfcrbAMNeQEgZAr
hJRF5LC0HIlxklP0pqxRgZmuf4DWG2KbopIUUTZMCLb+q9TghukLByxDJgW1uFwf
jRyvVf17RhZN8J+X4YGlnGptxMl/iPsTenFqLhzkAIwIsedcqSp7WWj6msoybSkD
+aZwraLcl2B18Whch3iXrKqZi6I/6hSv2ZtDhhDLhEB9tgmhzuXsWnCDzsPKdag=
-----END ENCRYPTED PRIVATE KEY-----
"""
WRONG = {"Authorization": "Bearer wrong"}


async def raw(port: int, *lines: str) -> tuple[int, str]:
    """Send the lines of a request as they are; return status and the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write("\r\n".join((*lines, "Connection: close", "", "")).encode())
        async with asyncio.timeout(PATIENCE):
            answer = (await reader.read()).decode()
    finally:
        writer.close()
    return int(answer.split(" ", 2)[1]), answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (WRONG, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Basic {token}"}, 401),
        ({"Authorization": "Bearer {token}x"}, 401),
        ({"Authorization": "Bearer \N{LATIN SMALL LETTER E WITH ACUTE}"}, 401),
        ({"Cookie": "qmpserver-{port}=wrong"}, 401),
        ({"Cookie": 'qmpserver-{port}="\\'}, 401),
        ({"Cookie": "qmpserver-1={token}"}, 401),  # another server's
        (WRONG | {"Cookie": "qmpserver-{port}={token}"}, 401),
        ({"Authorization": "Bearer {token}", "Host": "attacker.example"}, 421),
        ({"Authorization": "Bearer {token}", "Host": "attacker.example:{port}"}, 421),
        ({"Authorization": "Bearer {token}", "Host": "127.0.0.1"}, 421),
        ({"Authorization": "Bearer {token}", "Host": "192.0.2.1:{port}"}, 421),
        ({"Authorization": "Bearer {token}", "Host": "127.0.0.1:{port}.attacker.example"}, 421),
        ({"Authorization": "Bearer {token}", "Host": "localhost:{port}:{port}"}, 421),
        ({"Authorization": "Bearer {token}", "Host": "[::1"}, 421),
        ({"Authorization": "Bearer {token}", "Host": ""}, 421),
        ({"Authorization": "Bearer {token}", "Origin": "http://attacker.example"}, 403),
        ({"Authorization": "Bearer {token}", "Origin": "https://127.0.0.1:{port}"}, 403),
        ({"Authorization": "Bearer {token}", "Origin": "http://localhost:{port}"}, 403),
        ({"Cookie": "qmpserver-{port}={token}", "Origin": "http://127.0.0.1:1"}, 403),
        ({"Cookie": "qmpserver-{port}={token}", "Origin": "null"}, 403),
        ({"Cookie": "qmpserver-{port}={token}", "Origin": ""}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/qmp", "/nothing"])
async def test_others_are_refused(
    site: Web, http: aiohttp.ClientSession, path: str, headers: dict[str, str], status: int
) -> None:
    sent = {
        name: value.replace("{port}", str(site.port)).replace("{token}", site.token)
        for name, value in headers.items()
    }
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
        async with http.request(
            method, site.url + path, headers=sent, allow_redirects=False
        ) as response:
            assert response.status == status, method
            assert site.token not in await response.text()
            assert "Access-Control-Allow-Origin" not in response.headers
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(site.url + path, headers=sent)
    assert refused.value.status == status
    assert site.server.clients == 0


async def test_a_host_must_be_named_and_only_one(site: Web) -> None:
    bearer = f"Authorization: Bearer {site.token}"
    own = f"Host: 127.0.0.1:{site.port}"
    assert (await raw(site.port, "GET /x HTTP/1.1", own, bearer))[0] == 404
    assert (await raw(site.port, "GET /x HTTP/1.0", bearer))[0] == 421
    assert (await raw(site.port, "GET /x HTTP/1.1", bearer))[0] in (400, 421)
    assert (await raw(site.port, "GET /x HTTP/1.1", own, "Host: attacker.example", bearer))[
        0
    ] == 400
    status, _ = await raw(site.port, "GET http://attacker.example/x HTTP/1.1", own, bearer)
    assert status == 404  # it can only ask for what is here
    origins = [f"Origin: http://{host}" for host in (f"127.0.0.1:{site.port}", "attacker.example")]
    assert (await raw(site.port, "GET /x HTTP/1.1", own, *origins, bearer))[0] in (400, 403)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "[::1]:{port}", "localhost:{port}", "LOCALHOST:{port}"]
)
async def test_its_own_page_passes(site: Web, http: aiohttp.ClientSession, host: str) -> None:
    host = host.replace("{port}", str(site.port))
    cookie = f"qmpserver-{site.port}={site.token}"
    for headers in ({"Origin": f"http://{host}"}, {}):
        headers |= {"Host": host, "Cookie": cookie}
        async with http.ws_connect(site.url + "/qmp", headers=headers) as ws:
            assert "QMP" in await ws.receive_json(timeout=PATIENCE)


async def test_the_link_sets_a_cookie_that_lets_in(site: Web, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{site.url}/?token={site.token}", allow_redirects=False) as response:
        assert response.status == 303
        assert response.headers["Location"] == "/"
        cookie = SimpleCookie(response.headers["Set-Cookie"])[f"qmpserver-{site.port}"]
        assert cookie["httponly"] is True
        assert cookie["samesite"] == "Strict"
        assert cookie["path"] == "/"
        assert not cookie["domain"]
    headers = {"Cookie": f"{cookie.key}={cookie.value}"}
    async with http.get(site.url + "/nothing", headers=headers) as response:
        assert response.status == 404


@pytest.mark.parametrize(
    "target", ["/?token=wrong", "/?token=", "/qmp?token={token}", "//?token={token}"]
)
async def test_no_other_link_does(site: Web, http: aiohttp.ClientSession, target: str) -> None:
    url = site.url + target.replace("{token}", site.token)
    async with http.get(url, allow_redirects=False) as response:
        assert response.status == 401
        assert "Set-Cookie" not in response.headers
    for headers, status in (({"Host": "attacker.example"}, 421), ({"Origin": "null"}, 403)):
        link = f"{site.url}/?token={site.token}"
        async with http.get(link, headers=headers, allow_redirects=False) as response:
            assert response.status == status
            assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("path", ["/", "/qmp", "/nothing"])
@pytest.mark.parametrize("known", [True, False])
async def test_browsers_are_told_what_not_to_do(
    site: Web, http: aiohttp.ClientSession, path: str, known: bool
) -> None:
    async with http.get(site.url + path, headers=site.bearer if known else {}) as response:
        policy = dict(
            part.strip().split(" ", 1)
            for part in response.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert not any("unsafe" in sources for sources in policy.values())
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"


async def test_each_start_has_its_own_token() -> None:
    tokens = {parse_http(":0").token for _ in range(10)}
    assert len(tokens) == 10
    assert min(map(len, tokens)) >= 43  # 256 bits


async def test_a_token_from_a_file(
    server: Server, machine: Machine, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    token = 'it\'s "quoted"; and,=comma'.replace(" ", "")
    (tmp_path / "token").write_text(f"{token}\n")
    options = parse_http(f"127.0.0.1:0,token-file={tmp_path}/token")
    assert not options.made
    site = await serve(server, machine, options)
    try:
        headers = {"Authorization": f"Bearer {token}"}
        async with http.get(site.url + "nothing", headers=headers) as response:
            assert response.status == 404
        link = http.get(site.url, params={"token": token}, allow_redirects=False)
        async with link as response:
            cookie = response.headers["Set-Cookie"].split("; ")[0]
        async with http.get(site.url + "nothing", headers={"Cookie": cookie}) as response:
            assert response.status == 404
    finally:
        await site.close()


async def test_other_addresses_have_to_be_asked_for(
    server: Server, machine: Machine, http: aiohttp.ClientSession
) -> None:
    async def connect(host: str, url: str) -> None:
        _, writer = await asyncio.open_connection(host, int(url.split(":")[-1].rstrip("/")))
        writer.close()

    for value in (":0", "127.0.0.1:0"):
        site = await serve(server, machine, parse_http(value))
        await connect("127.0.0.1", site.url)
        with pytest.raises(ConnectionRefusedError):  # as any address but the very one
            await connect("127.0.0.2", site.url)
        await site.close()
    options = parse_http("0.0.0.0:0")
    site = await serve(server, machine, options)
    try:
        await connect("127.0.0.2", site.url)
        port = int(site.url.split(":")[-1].rstrip("/"))
        url = f"http://127.0.0.1:{port}/nothing"
        async with http.get(url) as response:
            assert response.status == 401  # the token is needed there too
        bearer = {"Authorization": f"Bearer {options.token}"}
        for host, status in (
            (f"127.0.0.1:{port}", 404),
            (f"192.0.2.1:{port}", 404),  # an address says nothing of who resolved it
            (f"[2001:db8::1]:{port}", 404),
            (f"attacker.example:{port}", 421),
        ):
            async with http.get(url, headers=bearer | {"Host": host}) as response:
                assert response.status == status, host
    finally:
        await site.close()


@pytest.mark.parametrize(
    ("value", "warns"),
    [
        (":80", False),
        ("localhost:80", False),
        ("[::1]:80", False),
        ("unix:/tmp/x", False),
        ("0.0.0.0:80", True),
        ("[::]:80", True),
        ("vm.example:80", True),
    ],
)
def test_a_token_in_the_clear_is_warned_of(value: str, warns: bool) -> None:
    settings = parse_command_line(["-http", value])
    assert any("tls-cert" in warning for warning in settings.warnings) == warns


async def test_an_address_in_use_is_said(server: Server, machine: Machine, site: Web) -> None:
    with pytest.raises(DeviceError, match="Address already in use"):
        await serve(server, machine, parse_http(f"127.0.0.1:{site.port}"))


@pytest.mark.parametrize("module", ["aiohttp", "prometheus_client"])
def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CommandLineError, match=f"{module} is not installed") as refused:
        parse_command_line(["-http", ":8080"])
    assert "qmpserver[http]" in refused.value.hint


def test_only_with_http_its_libraries_are_imported() -> None:
    code = (
        "import sys; from qmpserver.cli import commandline, main;"
        "commandline.parse_command_line(['-smp', '2']);"
        "assert not {'aiohttp', 'prometheus_client'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "invalid address ''"),
        ("nonsense", "invalid address 'nonsense'; expected HOST:PORT"),
        ("http://127.0.0.1:80", "invalid address"),
        ("::1:80", "invalid address"),
        ("127.0.0.1:x", "invalid port 'x'; expected a number from 0 to 65535"),
        ("127.0.0.1:", "invalid port ''"),
        ("127.0.0.1:-1", "invalid port '-1'"),
        ("127.0.0.1:65536", "invalid port '65536'"),
        ("unix:", "'unix:' has no path"),
        ("unix:/tmp/x,tls-cert={cert},tls-key={key}", "configure TLS in the proxy"),
        (":80,tls-cert={cert}", "tls-key is missing"),
        (":80,tls-key={key}", "tls-cert is missing"),
        (":80,tls-cert=/nowhere,tls-key={key}", "tls-cert=/nowhere: No such file"),
        (":80,tls-cert={cert},tls-key=/nowhere", "tls-key=/nowhere: No such file"),
        (":80,tls-cert={cert},tls-key={other}", "key values mismatch"),
        (":80,tls-cert={cert},tls-key={cert}", "tls-key="),
        (":80,tls-cert={lines},tls-key={key}", "tls-cert="),
        (":80,tls-cert={cert},tls-key={locked}", "tls-key="),
        ("127.0.0.1:80,port=1", "Invalid parameter 'port'"),
        ("127.0.0.1:80,token-file=", "token-file=: "),
        ("127.0.0.1:80,token-file=/nowhere", "token-file=/nowhere: No such file"),
        ("127.0.0.1:80,token-file=/", "token-file=/: Is a directory"),
        ("127.0.0.1:80,token-file=/dev/null", "the file is empty"),
        ("127.0.0.1:80,token-file={binary}", "printable ASCII"),
        ("127.0.0.1:80,token-file={lines}", "printable ASCII"),
        ("127.0.0.1:80,token-file={long}", "the token has more than 4096 letters"),
    ],
)
def test_what_is_wrong_is_said_when_the_command_line_is_read(
    value: str, said: str, tmp_path: Path
) -> None:
    authority = trustme.CA()
    one, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    files = {
        "binary": b"\xff\xfe",
        "lines": b"one\ntwo\n",
        "long": b"x" * 5000,
        "cert": one.cert_chain_pems[0].bytes(),
        "key": one.private_key_pem.bytes(),
        "other": other.private_key_pem.bytes(),
        "locked": LOCKED_KEY,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        value = value.replace(f"{{{name}}}", str(tmp_path / name))
    with pytest.raises(OptionError) as refused:
        parse_http(value)
    assert said in str(refused.value)
    with pytest.raises(CommandLineError) as error:
        parse_command_line(["-http", value])
    assert str(error.value).startswith("-http")
