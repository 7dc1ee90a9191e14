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
  let answer = null; // the status of what the server answers, if it does

  async function findOut() {
    // A WebSocket does not tell why it was refused.
    try {
      answer = (await fetch("static/icon.svg", { cache: "no-store" })).status;
    } catch {
      answer = null;
    }
    show();
  }

  function reason(silent) {
    const since = timeOfDay(lostAt);
    if (silent) return `has sent nothing since ${since}.`;
    if (answer === null) return `went away at ${since}. Trying to reach it again …`;
    if (answer === 401) return "has another token now: open the link that it showed at its start.";
    return "answers, but has not opened its WebSockets yet; it does for 32 pages at most. Trying again …";
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
    setText(banner, `The server at ${location.host} ${reason(silent)}`);
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
