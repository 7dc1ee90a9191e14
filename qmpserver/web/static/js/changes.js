// Changes between frames for which QMP has no event: limits, tracking, overflows.

import { ranges } from "./format.js";

/** Logs changes; the first frame is not a change. */
export class Changes {
  #log;
  #last = null;

  constructor(log) {
    this.#log = log;
  }

  /** Start anew: the next frame is from another server. */
  reset() {
    this.#last = null;
  }

  update(frame) {
    const last = this.#last;
    this.#last = frame;
    if (!last) return;
    this.#limits(last.limits, frame);
    if (!last.rates !== !frame.rates) this.#log.note(frame.rates ? "dirty pages are tracked" : "dirty pages are no longer tracked", frame.time);
    if (frame.overflows > last.overflows) this.#log.bad("a dirty ring overflowed: all memory counts as dirty", frame.time);
    if (frame["reset-shortfalls"] > last["reset-shortfalls"]) {
      this.#log.bad("a ring reset freed too few entries: all memory counts as dirty", frame.time);
    }
  }

  #limits(before, { limits, time }) {
    const changed = new Map(); // limit -> vCPUs
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
