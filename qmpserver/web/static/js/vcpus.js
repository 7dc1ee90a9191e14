// The table of vCPUs: visibility, rates, limits, pauses, rings.

import * as colors from "./colors.js";
import { byId, el, setText } from "./dom.js";
import { timeOfDay } from "./format.js";

const PAUSE_SPAN = 10; // frames over which the paused share of time is computed

/** An input for the limit of some vCPUs, and a button that cancels it. */
function limitCell(name, indexes, limits) {
  const input = el("input", {
    type: "number",
    min: 1,
    step: 1,
    inputMode: "numeric",
    placeholder: "none",
    "aria-label": `Limit of ${name} in MB/s; Enter sets it`,
  });
  const cancel = el("button", { type: "button", title: "Cancel", "aria-label": `Cancel the limit of ${name}` }, "×");
  const form = el("form", { className: "limit-cell" }, input, cancel);
  let current = "";
  const show = (text) => {
    const focused = document.activeElement === input;
    const edited = focused && input.value !== current;
    current = text;
    cancel.disabled = !text;
    if (edited || input.value === text) return;
    input.value = text;
    if (focused) input.select();
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    current = input.value;
    if (input.value) limits.set(indexes, Number(input.value));
    else limits.cancel(indexes);
  };
  input.onkeydown = (event) => {
    if (event.key === "Escape") input.value = current;
  };
  input.onfocus = () => input.select();
  input.onblur = () => {
    input.value = current;
  };
  cancel.onclick = () => limits.cancel(indexes);
  return { form, input, show };
}

function row(name, indexes, limits, onShow) {
  const shown = el("input", { type: "checkbox", "aria-label": `Show ${name} in the chart` });
  shown.onchange = () => onShow(shown.checked);
  const swatch = el("span", { className: "swatch" });
  const head = el("th", { scope: "row" }, el("label", {}, shown, swatch, name));
  const rate = el("td", { className: "number" });
  const paused = el("td", { className: "number" });
  const fill = el("span");
  const waiting = el("output", { "aria-live": "off" });
  const ring = el("td", {}, el("div", { className: "ring" }, el("div", { className: "bar" }, fill), waiting));
  const limit = limitCell(name, indexes, limits);
  const node = el("tr", {}, head, rate, el("td", {}, limit.form), paused, ring);
  return { node, shown, swatch, rate, paused, fill, waiting, limit };
}

export class VcpuTable {
  #chart;
  #rows;
  #all;
  #ringSize;
  #frames = [];
  #history;

  constructor({ vcpus, "ring-size": ringSize }, chart, history, limits) {
    this.#chart = chart;
    this.#history = history;
    this.#ringSize = ringSize;
    const indexes = Array.from({ length: vcpus }, (_, index) => index);
    this.#all = row("All", indexes, limits, (shown) => chart.setTotal(shown));
    this.#all.shown.setAttribute("aria-label", "Show the total in the chart");
    this.#all.node.className = "total";
    this.#all.shown.checked = chart.showTotal;
    this.#rows = indexes.map((index) => row(`${index}`, [index], limits, (shown) => chart.show(index, shown)));
    this.#rows.forEach(({ shown, node, limit }, index) => {
      node.dataset.vcpu = index;
      shown.checked = true;
      shown.setAttribute("aria-label", `Show vCPU ${index} in the chart`);
      limit.input.setAttribute("aria-label", `Limit of vCPU ${index} in MB/s; Enter sets it`);
    });
    byId("vcpu-rows").replaceChildren(this.#all.node, ...this.#rows.map(({ node }) => node));
    byId("show-all").onclick = () => this.#choose(() => true);
    byId("show-none").onclick = () => this.#choose(() => false);
    byId("show-limited").onclick = () => this.#choose((index) => this.#frames.at(-1)?.limits[index]);
    this.paint();
  }

  /** Apply the current colours. */
  paint() {
    this.#all.swatch.style.setProperty("--series", colors.ofPage("--text"));
    this.#rows.forEach(({ swatch }, index) => swatch.style.setProperty("--series", colors.ofVcpu(index)));
  }

  focusLimit() {
    this.#all.limit.input.focus();
  }

  #choose(wanted) {
    this.#rows.forEach(({ shown }, index) => {
      shown.checked = Boolean(wanted(index));
      this.#chart.show(index, shown.checked);
    });
  }

  /** Process a frame; show it if `visible`. */
  update(frame, visible) {
    this.#frames.push(frame);
    if (this.#frames.length > PAUSE_SPAN + 1) this.#frames.shift();
    if (!visible) return;
    this.showRates();
    const [first] = this.#frames;
    const span = (frame.time - first.time) * 1000;
    this.#rows.forEach(({ paused, fill, waiting, limit }, index) => {
      const held = frame["throttle-time"][index] - first["throttle-time"][index];
      setText(paused, frame.limits[index] && span ? `${Math.max(0, Math.min(100, Math.round((100 * held) / span)))} %` : "");
      limit.show(frame.limits[index] ? `${frame.limits[index]}` : "");
      fill.style.transform = `scaleX(${this.#ringSize ? frame.waiting[index] / this.#ringSize : 0})`;
      setText(waiting, `${frame.waiting[index]}`);
    });
    const same = frame.limits.every((limit) => limit === frame.limits[0]);
    this.#all.limit.show(same && frame.limits[0] ? `${frame.limits[0]}` : "");
    this.#all.limit.input.placeholder = same ? "none" : "mixed";
    this.#all.limit.form.lastChild.disabled = frame.limits.every((limit) => !limit);
    const waiting = frame.waiting.reduce((sum, count) => sum + count, 0);
    setText(this.#all.waiting, `${waiting}`);
    const room = this.#ringSize * frame.waiting.length;
    this.#all.fill.style.transform = `scaleX(${room ? waiting / room : 0})`;
  }

  /** Show the rates at the chart's cursor, or the last ones. */
  showRates() {
    const at = this.#chart.pointed;
    const place = at === null ? this.#history.times.length - 1 : this.#history.indexAt(at);
    const tell = (rate) => (rate === null || rate === undefined ? "–" : rate.toFixed(rate < 10 ? 1 : 0));
    setText(byId("moment"), at === null ? "" : `at ${timeOfDay(at)}`);
    this.#rows.forEach(({ rate }, index) => setText(rate, tell(this.#history.rates[index][place])));
    setText(this.#all.rate, tell(this.#history.total[place]));
  }
}
