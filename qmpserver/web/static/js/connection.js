// The state of the connection to the server.

import { byId, setText } from "./dom.js";
import { timeOfDay } from "./format.js";

const SILENCE = 3000; // ms without a frame after which the server counts as silent

/** Watch the WebSockets; frames arrive on `live`. */
export function watchConnection(live, qmp) {
  const shown = byId("connection");
  const banner = byId("gone");
  let heard = performance.now();
  let lostAt = null;
  let answer = null; // the HTTP status of a probe, or null if the server did not answer

  async function probe() {
    // A WebSocket has no reason for its failure.
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
    if (answer === null) return `went away at ${since}. Reconnecting …`;
    if (answer === 401) return "has another token now: open the link that it showed when it started.";
    return "answers, but does not accept the WebSockets: at most 32 pages can be connected. Reconnecting …";
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
      probe();
    });
  }
  setInterval(show, 1000);
}
