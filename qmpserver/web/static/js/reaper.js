// The reaper: its state, its counters, its wake-up times.

import { byId, el, setText } from "./dom.js";
import { showHistogram } from "./histogram.js";

const MODES = {
  event: "event-driven",
  poll: "polling",
};
const COUNTS = {
  Turns: (frame) => frame.reaper.turns,
  "Fallback turns": (frame) => frame.reaper["fallback-turns"],
  Kicks: (frame) => frame.reaper.kicks,
  Wakes: (frame) => frame.reaper.wakes,
  "Coalesced kicks": (frame) => frame.reaper["coalesced-kicks"],
  "Ring-full exits": (frame) => frame["full-exits"].reduce((sum, count) => sum + count, 0),
  "Ring overflows": (frame) => frame.overflows,
  "Reset shortfalls": (frame) => frame["reset-shortfalls"],
};
const LOST = ["Ring overflows", "Reset shortfalls"]; // after each, all memory counts as dirty

export class ReaperPanel {
  #values = new Map();

  constructor(machine) {
    setText(byId("reaper-mode"), MODES[machine["reaper-mode"]]);
    byId("reaper-counts").replaceChildren(
      ...Object.keys(COUNTS).flatMap((name) => {
        const value = el("dd");
        this.#values.set(name, value);
        return [el("dt", {}, name), value];
      }),
    );
  }

  update(frame) {
    setText(byId("reaper-state"), frame.reaper.state);
    for (const [name, value] of this.#values) {
      const count = COUNTS[name](frame);
      setText(value, `${count}`);
      value.classList.toggle("lost", LOST.includes(name) && count > 0);
    }
    showHistogram(byId("kick-to-wake"), frame.reaper["kick-to-wake"]);
    showHistogram(byId("cancel-to-wake"), frame.reaper["cancel-to-wake"]);
  }
}
