"""The page in a real browser, on servers that are programs of their own."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.web.browser import Browser, Tab, browser, chromium
from tests.web.serving import PATIENCE, TOKEN, Guest, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(chromium() is None, reason="chromium is not installed"),
]

LIMIT_OF_ALL = "tr.total input[type=number]"
CANCEL_ALL = "tr.total .limit-cell button"


def limit_of(index: int) -> str:
    return f"tr[data-vcpu='{index}'] input[type=number]"


Serve = Callable[..., AbstractAsyncContextManager[Guest]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chrome(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with browser(tmp_path_factory.mktemp("profile")) as steered:
        yield steered


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Start a small server."""
    return functools.partial(serving, tmp_path, "-m", "64M", "-name", "tested")


def machine(accel: str = "soft", cpus: int = 2) -> list[str]:
    """Options; the guest leaves the browser some of the processor."""
    ring = f"{accel},dirty-ring-size=4096"
    return ["-accel", ring, "-smp", f"{cpus}", "-guest", "dirty,rate=200"]


async def opened(chrome: Browser, guest: Guest, width: int = 1280, height: int = 800) -> Tab:
    """Open the page, and wait until it is of use."""
    tab = await chrome.open(guest.url, width, height)
    await tab.until("document.querySelector('#run').disabled === false")
    await tab.until("document.querySelector('.limit-handle')")
    return tab


async def put(tab: Tab, selector: str, text: str) -> None:
    """Type into a field, in place of what is there."""
    await tab.click(selector)
    await tab.evaluate("document.activeElement.select()")
    await tab.type(text)
    await tab.key("Enter")


async def drawn(tab: Tab, index: int) -> int:
    """Count the pixels of a vCPU's colour in the chart."""
    count = await tab.evaluate(f"""(async () => {{
        const {{ ofVcpu }} = await import("/static/js/colors.js");
        const hex = ofVcpu({index}).match(/[0-9a-f]{{2}}/g).map((part) => parseInt(part, 16));
        const canvas = document.querySelector("#plot canvas");
        const {{ data }} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let at = 0; at < data.length; at += 4)
            if (hex.every((part, i) => Math.abs(data[at + i] - part) < 24)) count += 1;
        return count;
    }})()""")
    return int(count)


async def until_drawn(tab: Tab, index: int) -> None:
    """Wait until a vCPU's line can be seen."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if await drawn(tab, index) > 20:
                return
            await asyncio.sleep(0.05)


async def test_limits_are_set_seen_and_cancelled(chrome: Browser, serve: Serve, accel: str) -> None:
    async with serve(*machine(accel)) as guest:
        tab = await opened(chrome, guest)
        second = await opened(chrome, guest)
        assert await tab.evaluate("document.title") == "tested | qmpserver"
        await tab.until("document.querySelector('#tracking-text').textContent.startsWith('Not ')")
        assert await drawn(tab, 0) == await drawn(tab, 1) == 0

        await put(tab, limit_of(1), "40")
        await guest.until_limits({1: 40})
        # The rates come to the chart and the table, and the vCPU's own to its limit.
        await tab.until("document.querySelector('#tracking-text').textContent.startsWith('Track')")
        rate = "document.querySelector('tr[data-vcpu=\"1\"] td.number').textContent"
        await tab.until(f"Math.abs({rate} - 40) < 8")
        await until_drawn(tab, 0)
        await until_drawn(tab, 1)
        handle = "[...document.querySelectorAll('.limit-handle')].map((one) => one.innerText)"
        x, y = await tab.center(".u-over")
        await tab.mouse("Moved", x, y)
        await tab.mouse("Moved", x * 1.5, y)  # figures of then, not of now
        await tab.until("document.querySelector('#moment').textContent.startsWith('at ')")
        await tab.mouse("Moved", 5, 5)
        await tab.until("document.querySelector('#moment').textContent === ''")
        for each in (tab, second):
            await each.until(f"{handle}.some((text) => /1\\s*40/.test(text))")
        assert await second.evaluate(f'document.querySelector("{limit_of(1)}").value') == "40"

        # Dragging a handle or a line: sets a limit, changes it, and out of the top ends it.
        over = await tab.evaluate(
            "document.querySelector('.u-over').getBoundingClientRect().toJSON()"
        )
        grip = ".limit-handle[data-vcpus='0'] .grip"
        for part in (0.1, 0.9):  # neither is where the other vCPU's limit can be
            height = over["y"] + over["height"] * part
            shown = await tab.drag(grip, height, _DRAGGED)
            assert abs(shown["y"] - height) < 15
            await guest.until_limits({0: shown["limit"], 1: 40})
            await tab.until("!document.querySelector('.limit-handle.parked')")
        await tab.drag(".limit-line[data-vcpus='0']", over["y"] - 40)
        await guest.until_limits({1: 40})

        # A click ends one, another all.
        await second.until("document.querySelectorAll('.limit-handle:not(.parked)').length === 1")
        await second.click(".limit-handle:not(.parked) .cancel")
        await guest.until_limits({})
        await put(second, LIMIT_OF_ALL, "70")
        await guest.until_limits({0: 70, 1: 70})
        await tab.until(f"document.querySelector(\"{LIMIT_OF_ALL}\").value === '70'")
        await tab.click(CANCEL_ALL)
        await guest.until_limits({})
        await tab.until("document.querySelector('#kick-to-wake .count')")
        assert tab.errors == second.errors == []


# The limit that is being dragged, and where it is.
_DRAGGED = """(() => {
    const handle = document.querySelector(".limit-handle.dragged");
    const { y, height } = handle.getBoundingClientRect();
    return { limit: Number(handle.querySelector(".value").textContent), y: y + height / 2 };
})()"""


async def test_by_keyboard(chrome: Browser, serve: Serve) -> None:
    async with serve(*machine()) as guest:
        tab = await opened(chrome, guest)
        await tab.key("l")
        await tab.type("100")
        await tab.key("Enter")
        await guest.until_limits({0: 100, 1: 100})
        await tab.until("document.querySelector('.limit-handle:not(.parked)')")
        await tab.evaluate("document.querySelector('.limit-handle .grip').focus()")
        await tab.key("ArrowDown")
        await tab.key("ArrowDown")
        await guest.until(lambda limits: 80 < limits[0] < 100)
        await tab.key("Delete")
        await guest.until_limits({})
        await tab.evaluate("document.activeElement.blur()")
        await tab.key("s")
        await tab.until("document.querySelector('#status').textContent === 'paused'")
        assert await guest.execute("query-status") == {"running": False, "status": "paused"}
        await tab.until("document.querySelector('#event-log').textContent.includes('STOP')")
        await tab.key("s")
        await tab.until("document.querySelector('#status').textContent === 'running'")
        await tab.key("?")
        await tab.until("document.querySelector('#keys').open")
        assert "Type a limit" in await tab.evaluate("document.querySelector('#keys').innerText")
        await tab.key("Escape")
        await tab.until("!document.querySelector('#keys').open")
        await _tab_through(tab)
        assert not tab.errors


async def _tab_through(tab: Tab) -> None:
    """Every control is come to by Tab, and shows that it is."""
    await tab.evaluate("""{
        const all = [...document.querySelectorAll("button, input, [tabindex='0']")];
        window.controls = new Set(all.filter((one) => !one.disabled
            && one.checkVisibility({visibilityProperty: true})
            && !(one.type === "radio" && !one.checked)));
        window.unseen = [];
        document.activeElement.blur();
    }""")
    for _ in range(100):
        await tab.key("Tab")
        left = await tab.evaluate("""(() => {
            const at = document.activeElement;
            const shown = at.type === "radio" ? at.parentElement : at;
            if (controls.has(at) && getComputedStyle(shown).outlineStyle === "none")
                unseen.push(at.outerHTML);
            controls.delete(at);
            return controls.size;
        })()""")
        if not left:
            break
    assert await tab.evaluate("[...controls].map((one) => one.outerHTML)") == []
    assert await tab.evaluate("unseen") == []


async def test_console(chrome: Browser, serve: Serve) -> None:
    async with serve(*machine(), "-S") as guest:
        tab = await opened(chrome, guest)
        last = "[...document.querySelectorAll('#replies pre')].at(-1)"
        line = "document.querySelector('#line').value"
        options = "[...document.querySelectorAll('#completions li')].map((one) => one.innerText)"

        async def run(text: str) -> str:
            count = await tab.evaluate("document.querySelectorAll('#replies pre').length")
            await tab.evaluate("document.querySelector('#line').value = ''")
            await tab.type(text)
            await tab.key("Escape")
            await tab.key("Enter")
            await tab.until(
                f"document.querySelectorAll('#replies pre').length > {count}"
                f" && {last}.textContent !== '…'"
            )
            return str(await tab.evaluate(f"{last}.textContent"))

        await tab.key("/")
        await tab.type("query-statu")
        await tab.until(f"{options}.length === 1")
        await tab.key("Tab")
        assert await tab.evaluate(line) == "query-status "
        shown = await tab.evaluate("document.querySelector('#help').innerText")
        assert "Return the run state." in shown
        await tab.key("Enter")
        await tab.until(f"{last}.textContent.includes('prelaunch')")

        # Arguments and values come from the schema, with what its documentation says of them.
        await tab.type("calc-dirty-rate mo")
        assert "mode=" in str(await tab.until(f"{options}[0]"))
        await tab.key("Tab")
        await tab.until(f"{options}.length === 3")
        await tab.key("ArrowDown")
        await tab.key("ArrowDown")
        await tab.key("Enter")
        assert await tab.evaluate(line) == "calc-dirty-rate mode=dirty-ring "
        await tab.evaluate("document.querySelector('#line').value = ''")
        await tab.type('{"execute": "query-vcpu-d')
        await tab.until(f"{options}.some((one) => one.startsWith('query-vcpu-dirty-limit'))")

        await run("set-vcpu-dirty-limit dirty-rate=33 cpu-index=1")
        await guest.until_limits({1: 33})
        assert '"limit-rate": 33' in await run('{"execute": "query-vcpu-dirty-limit"}')
        assert "GenericError: " in await run("set-vcpu-dirty-limit dirty-rate=33 cpu-index=9")
        assert (await run("no-such-command")).startswith("CommandNotFound: ")
        assert "is not key=value" in await run("query-status please")
        assert '"id": 7' in await run('{"execute": "query-name", "id": 7}')
        big = 2**64 - 1
        await run(f"set-vcpu-dirty-limit dirty-rate={big}")
        await guest.until_limits({0: big, 1: big})
        assert str(big) in await run("query-vcpu-dirty-limit")
        assert '"meta-type": "command"' in await run("query-qmp-schema")
        await tab.key("ArrowUp")
        await tab.key("ArrowUp")
        assert await tab.evaluate(line) == "query-vcpu-dirty-limit"
        assert not tab.errors


async def test_replies_are_laid_out(chrome: Browser, serve: Serve) -> None:
    texts = {
        "{}": "{}",
        '{"a": 18446744073709551615}': '{"a": 18446744073709551615}',
        '[{"a":"x, y: [\\"z\\"]"},1]': '[\n  {"a": "x, y: [\\"z\\"]"},\n  1\n]',
        json.dumps(["long" * 9] * 2): json.dumps(["long" * 9] * 2, indent=2),
    }
    async with serve(*machine(cpus=1), "-S") as guest:
        tab = await opened(chrome, guest)
        module = "import('/static/js/pretty.js')"
        for text, shown in texts.items():
            laid_out = f"{module}.then(({{pretty}}) => pretty({json.dumps(text)}))"
            assert await tab.evaluate(laid_out) == shown


async def test_a_measurement_is_made_only_when_asked_for(chrome: Browser, serve: Serve) -> None:
    async with serve(*machine()) as guest:
        tab = await opened(chrome, guest)
        await tab.click("#measure")
        await tab.until("document.querySelector('#tracking-text').textContent.startsWith('Track')")
        answer = await guest.execute("query-dirty-rate")
        assert answer["status"] == "measuring"
        assert answer["mode"] == "dirty-ring"
        await tab.until("document.querySelector('tr.total td.number').textContent > 0")
        assert not tab.errors


async def test_without_a_ring_it_says_so(chrome: Browser, serve: Serve) -> None:
    async with serve("-accel", "soft", "-smp", "2") as guest:
        tab = await opened(chrome, guest)
        await tab.until("document.querySelector('#tracking-text').textContent.includes('No dirty')")
        await put(tab, LIMIT_OF_ALL, "50")
        await tab.until("document.querySelector('#event-log .bad').textContent.includes('KVM')")


async def test_the_server_goes_and_comes(chrome: Browser, serve: Serve) -> None:
    banner = "document.querySelector('#gone')"
    async with serve(*machine()) as guest:
        tab = await opened(chrome, guest)
        assert not tab.errors
        guest.process.kill()
        await tab.until(f"!{banner}.hidden && {banner}.textContent.includes('went away')")
        await tab.until("document.querySelector('#run').disabled")
        await tab.until("document.querySelector('#status').textContent === 'unknown'")
    async with serve(*machine(), port=guest.port) as guest:
        await guest.execute("set-vcpu-dirty-limit", dirty_rate=60)
        await tab.until(f"{banner}.hidden && !document.querySelector('#run').disabled")
        await tab.until(f"document.querySelector(\"{LIMIT_OF_ALL}\").value === '60'")
        await tab.click(CANCEL_ALL)
        await guest.until_limits({})
    async with serve(*machine(), port=guest.port, token="another"):
        await tab.until(f"{banner}.textContent.includes('another token')")


async def test_narrow_dark_and_light(chrome: Browser, serve: Serve) -> None:
    async with serve(*machine(cpus=8)) as guest:
        tab = await opened(chrome, guest)
        await put(tab, LIMIT_OF_ALL, "50")
        await tab.until("document.querySelector('.limit-handle:not(.parked)')")
        await tab.key("/")
        await tab.type("query-vcpu-dirty-limit")
        await tab.key("Enter")
        grounds = set()
        for scheme in ("light", "dark"):
            await tab.prefer(scheme)
            grounds.add(await tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert await tab.evaluate(_FAINT) == []
            await until_drawn(tab, 7)
        assert len(grounds) == 2
        for width in (390, 320):
            await tab.resize(width, 800, mobile=True)
            await tab.until(f"innerWidth === {width}")
            assert await tab.evaluate("document.documentElement.scrollWidth") <= width
            await tab.until("document.querySelector('#plot canvas').clientWidth < innerWidth")
            assert await tab.evaluate(_OUTSIDE) == []
        assert not tab.errors


# Elements whose text has less contrast with what is behind it than WCAG's 4.5.
_FAINT = """(() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgb = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data;
    };
    const light = (color) => {
        const [r, g, b] = [...rgb(color)].map((c) => (c /= 255, c <= 0.04045 ? c / 12.92
            : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (one) => rgb(getComputedStyle(one).backgroundColor)[3] === 255
        ? getComputedStyle(one).backgroundColor : behind(one.parentElement);
    return [...document.body.querySelectorAll("*")].filter((one) => {
        if (!one.checkVisibility() || one.closest(":disabled, noscript")) return false;
        if (![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
            return false;
        const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
    }).map((one) => one.outerHTML);
})()"""

# Controls that stick out of the window.
_OUTSIDE = """[...document.querySelectorAll("button, input, .limit-handle")].filter((one) =>
    one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 0.5)
    .map((one) => one.outerHTML)"""


async def test_nothing_comes_from_elsewhere(chrome: Browser, serve: Serve) -> None:
    async with serve(*machine(cpus=1), "-S") as guest:
        tab = await opened(chrome, guest)
        loaded = await tab.evaluate(
            "performance.getEntriesByType('resource').map((one) => one.name)"
        )
        origin = guest.url.split("/?")[0]
        assert len(loaded) > 20
        assert [name for name in loaded if not name.startswith(origin + "/")] == []
        async with aiohttp.ClientSession() as http:
            for name in (origin + "/", *loaded):
                async with http.get(name, headers={"Authorization": f"Bearer {TOKEN}"}) as got:
                    assert got.status == 200
                    assert "unsafe-inline" not in got.headers["Content-Security-Policy"]
                async with http.get(name) as refused:
                    assert refused.status == 401
