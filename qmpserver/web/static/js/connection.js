// Whether the server is there, said plainly.

import { byId, setText } from "./dom.js";
import { timeOfDay } from "./format.js";

const SILENCE = 3000; // ms without a frame that a living server does not let pass

/** Watch the WebSockets; `live` is the one that frames come on. */
export function watchConnection(live, qmp) {
  const shown = byId("connection");
  const banner = byId("gone");
  let heard = performance.now();
  let lostAt = null;
  let refused = false;

  async function findOut() {
    // A WebSocket does not tell why it was refused.
    try {
      refused = (await fetch("static/icon.svg", { cache: "no-store" })).status === 401;
    } catch {
      refused = false;
    }
    show();
  }

  function show() {
    const open = live.isOpen && qmp.isOpen;
    const silent = open && performance.now() - heard > SILENCE;
    if (open && !silent) lostAt = null;
    else lostAt ??= Date.now() / 1000;
    shown.classList.toggle("bad", !open || silent);
    setText(shown, silent ? "silent" : open ? "connected" : "not connected");
    banner.hidden = lostAt === null;
    if (lostAt === null) return;
    if (silent) setText(banner, `The server at ${location.host} has sent nothing since ${timeOfDay(lostAt)}.`);
    else if (refused) {
      setText(banner, `The server at ${location.host} has another token now: open the link that it showed at its start.`);
    } else {
      setText(banner, `The server at ${location.host} has gone at ${timeOfDay(lostAt)}. Trying to reach it again …`);
    }
  }

  live.addEventListener("message", () => {
    heard = performance.now();
    if (lostAt !== null) show();
  });
  for (const socket of [live, qmp]) {
    socket.addEventListener("open", () => {
      heard = performance.now();
      show();
    });
    socket.addEventListener("lost", () => {
      lostAt ??= Date.now() / 1000;
      show();
      findOut();
    });
  }
  setInterval(show, 1000);
}
