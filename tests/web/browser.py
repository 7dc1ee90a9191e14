"""A headless Chromium, steered by its DevTools protocol over aiohttp.

Playwright would bring a second language's runtime with it, more than 40 MB, for the few things
that are asked for here.
"""

import asyncio
import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE = 15.0
_KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "ArrowUp": (38, ""),
    "ArrowDown": (40, ""),
    "Delete": (46, ""),
}

_UNTIL = """new Promise((done) => {
    const look = () => {
        let value;
        try { value = CONDITION; } catch { /* what it looks at is not there yet */ }
        if (value) done(value); else setTimeout(look, 20);
    };
    look();
})"""


class Browser:
    """A browser with nothing stored; its tabs share cookies."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws
        self._last = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}

    async def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._last += 1
        answer = self._waiting[self._last] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        await self._ws.send_json(message)
        async with asyncio.timeout(PATIENCE):
            result: dict[str, Any] = await answer
        return result

    async def read(self) -> None:
        """Take answers and events, until the browser has gone."""
        async for frame in self._ws:
            message = json.loads(frame.data)
            if (answer := self._waiting.pop(message.get("id"), None)) is None:
                if tab := self._tabs.get(message.get("sessionId")):
                    tab.take(message["method"], message["params"])
            elif "error" in message:
                answer.set_exception(RuntimeError(message["error"]["message"]))
            else:
                answer.set_result(message["result"])

    async def open(self, url: str, width: int = 1280, height: int = 800) -> "Tab":
        """Open a page in a window of its own: it is visible, so that it draws."""
        target = await self.call("Target.createTarget", url="about:blank", newWindow=True)
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        tab = self._tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        for domain in ("Runtime", "Log", "Page"):
            await tab.call(f"{domain}.enable")
        await tab.resize(width, height)
        await tab.call("Page.navigate", url=url)
        return tab


class Tab:
    """A page; `errors` are what its console has shown as errors."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.errors: list[str] = []

    def take(self, method: str, params: dict[str, Any]) -> None:
        """Note an error."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params["args"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol for this page."""
        return await self._browser.call(method, self._session, **params)

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, awaited."""
        done = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"]["description"])
        return done["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait until an expression is true in the page; return its value."""
        try:
            return await self.evaluate(_UNTIL.replace("CONDITION", condition))
        except TimeoutError:
            raise AssertionError(f"it does not come true: {condition}") from None

    async def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Give the page this size, in CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    async def prefer(self, scheme: str) -> None:
        """Prefer ``light`` or ``dark`` colours."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def key(self, name: str, modifiers: int = 0) -> None:
        """Press a key, by its name or the character that it types."""
        code, text = _KEYS.get(name, (ord(name[0].upper()), name))
        common = {"key": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def type(self, text: str) -> None:
        """Type where the focus is."""
        await self.call("Input.insertText", text=text)

    async def center(self, selector: str) -> tuple[float, float]:
        """Return the middle of an element that is there, or will be, scrolled into view."""
        x, y = await self.until(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect();"
            " return r.width && [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return float(x), float(y)

    async def mouse(self, kind: str, x: float, y: float, buttons: int = 0) -> None:
        """Send one event of the mouse: ``Pressed``, ``Moved`` or ``Released``."""
        button = "none" if kind == "Moved" and not buttons else "left"
        await self.call(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=x,
            y=y,
            button=button,
            buttons=buttons,
            clickCount=0 if kind == "Moved" else 1,
        )

    async def click(self, selector: str) -> None:
        """Click an element."""
        x, y = await self.center(selector)
        await self.mouse("Moved", x, y)
        await self.mouse("Pressed", x, y, 1)
        await self.mouse("Released", x, y)

    async def drag(self, selector: str, to_y: float, look: str = "null") -> Any:
        """Drag an element straight to a height of the window; return what *look* is there."""
        await self.mouse("Moved", *await self.center(selector))
        x, y = await self.center(selector)  # what is pointed at stays
        await self.mouse("Pressed", x, y, 1)
        for part in (0.25, 0.5, 0.75, 1):
            await self.mouse("Moved", x, y + (to_y - y) * part, 1)
        seen = await self.evaluate(look)
        await self.mouse("Released", x, to_y)
        return seen

    async def screenshot(self) -> bytes:
        """Return what is seen, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


def chromium() -> str | None:
    """Return the browser's program, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Browser]:
    """Run a browser; *profile* is an empty directory."""
    program = chromium()
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program,
        "--headless=new",
        "--no-sandbox",  # tests run as root, and load this project's page only
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while (address := _address(profile)) is None:
                assert process.returncode is None, "the browser has ended"
                await asyncio.sleep(0.02)
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(address, max_msg_size=0) as ws,
        ):
            steered = Browser(ws)
            reading = asyncio.create_task(steered.read())
            try:
                yield steered
                with contextlib.suppress(ConnectionError, TimeoutError):
                    await steered.call("Browser.close")
            finally:
                reading.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _address(profile: Path) -> str | None:
    """Return where the browser listens, once it has told in its profile."""
    try:
        port, path = (profile / "DevToolsActivePort").read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return f"ws://127.0.0.1:{port}{path}"
