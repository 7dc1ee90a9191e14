// What has changed from frame to frame and no QMP event tells: limits, tracking, lost precision.

import { ranges } from "./format.js";

/** Tells a log of changes; what the first frame says is no change. */
export class Changes {
  #log;
  #last = null;

  constructor(log) {
    this.#log = log;
  }

  /** Forget: the next frame is another server's. */
  reset() {
    this.#last = null;
  }

  update(frame) {
    const last = this.#last;
    this.#last = frame;
    if (!last) return;
    this.#limits(last.limits, frame);
    if (!last.rates !== !frame.rates) this.#log.note(frame.rates ? "tracked" : "not tracked any more", frame.time);
    if (frame.overflows > last.overflows) this.#log.bad("a ring was overrun: all memory counts as dirty", frame.time);
    if (frame["reset-shortfalls"] > last["reset-shortfalls"]) {
      this.#log.bad("a reset came up short: all memory counts as dirty", frame.time);
    }
  }

  #limits(before, { limits, time }) {
    const changed = new Map(); // who has got which limit
    limits.forEach((limit, index) => {
      if (limit === before[index]) return;
      if (changed.has(limit)) changed.get(limit).push(index);
      else changed.set(limit, [index]);
    });
    for (const [limit, indexes] of changed) {
      this.#log.note(`vCPU ${ranges(indexes)}: ${limit ? `limit ${limit} MB/s` : "no limit"}`, time);
    }
  }
}
