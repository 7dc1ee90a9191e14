// The frames of the last five minutes, in the form that the chart needs.

export const SPAN = 300; // seconds
const GAP = 1; // seconds without a frame that show as a gap
const SLACK = 20; // seconds beyond SPAN, removed at once

export class History {
  times = [];
  rates; // of each vCPU; null while dirty pages are not tracked
  total = [];
  limits; // of each vCPU: its changes, [time, MB/s or 0]

  constructor(vcpus) {
    this.rates = Array.from({ length: vcpus }, () => []);
    this.limits = Array.from({ length: vcpus }, () => []);
  }

  get end() {
    return this.times.at(-1) ?? Date.now() / 1000;
  }

  add({ time, rates, limits }) {
    const last = this.times.at(-1);
    if (time <= last) return; // the host's clock was set back: skip until it catches up
    if (time - last > GAP) this.#push(last + 0.001, null);
    this.#push(time, rates);
    limits.forEach((limit, index) => {
      const steps = this.limits[index];
      if ((steps.at(-1)?.[1] ?? 0) !== limit) steps.push([time, limit]);
    });
    if (time - this.times[0] > SPAN + SLACK) this.#forget(time - SPAN);
  }

  #push(time, rates) {
    this.times.push(time);
    this.total.push(rates && rates.reduce((sum, rate) => sum + rate, 0));
    this.rates.forEach((series, index) => series.push(rates && rates[index]));
  }

  #forget(before) {
    const count = this.times.findIndex((time) => time >= before);
    for (const series of [this.times, this.total, ...this.rates]) series.splice(0, count);
    for (const steps of this.limits) {
      while (steps.length > 1 && steps[1][0] < before) steps.shift();
    }
  }

  /** The index of the last frame at or before a time. */
  indexAt(time) {
    let low = 0;
    let high = this.times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.times[middle] <= time) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}
