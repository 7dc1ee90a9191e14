// Limits as handles in the chart's margin and lines across it, moved by dragging or arrow keys.
//
// One handle represents all shown vCPUs with the same limit. The handle of those without a limit is
// parked at the top.

import * as colors from "./colors.js";
import { el, setText } from "./dom.js";
import { ranges } from "./format.js";

const HEIGHT = 24; // px, of a handle with its margin
const PULLED_OUT = 14; // px above the chart, where dropping a handle cancels the limit
const SETTLED = 600; // ms after the last arrow key

/** Round a limit to a tidy step. */
function tidy(rate) {
  const step = rate < 100 ? 1 : rate < 1000 ? 5 : 50;
  return Math.max(1, Math.round(rate / step) * step);
}

export class Handles {
  #chart;
  #limits;
  #current = []; // the limit of each vCPU
  #handles = new Map(); // by the vCPUs that they represent
  #lines = el("div");
  #margin = el("div");
  #moved = null; // the handle that is being moved

  constructor(place, chart, limits) {
    this.#chart = chart;
    this.#limits = limits;
    place.append(this.#margin);
    chart.addEventListener("drawn", () => this.#layOut());
  }

  update(limits) {
    this.#current = limits;
  }

  /** The limits of shown vCPUs, each with its vCPUs; 0 is no limit. */
  #groups() {
    const groups = new Map();
    this.#current.forEach((limit, index) => {
      if (!this.#chart.shows(index)) return;
      if (groups.has(limit)) groups.get(limit).push(index);
      else groups.set(limit, [index]);
    });
    return [...groups].map(([limit, indexes]) => ({ limit, indexes }));
  }

  #layOut() {
    const { plot } = this.#chart;
    if (!plot) return;
    if (this.#lines.parentNode !== plot.over) plot.over.append(this.#lines);
    if (this.#moved) {
      this.#placeMoved();
      return;
    }
    const room = Math.floor(plot.over.clientHeight / HEIGHT);
    const groups = this.#groups().sort((a, b) => (b.limit || Infinity) - (a.limit || Infinity));
    const wanted = new Set();
    const handles = [];
    for (const group of groups.slice(0, room)) {
      const key = group.indexes.join();
      wanted.add(key);
      if (!this.#handles.has(key)) this.#handles.set(key, this.#make(group.indexes));
      const handle = this.#handles.get(key);
      this.#show(handle, group.limit);
      handles.push(handle);
    }
    for (const [key, handle] of this.#handles) {
      if (wanted.has(key)) continue;
      handle.node.remove();
      handle.line.remove();
      this.#handles.delete(key);
      this.#freeze(false); // the cursor may have been over one of them
    }
    this.#spread(handles);
  }

  /** Place handles at their limits, and overlapping ones side by side. */
  #spread(handles) {
    const { plot } = this.#chart;
    const height = plot.over.clientHeight;
    let free = 0;
    const tops = handles.map((handle) => {
      const top = Math.max(free, handle.limit ? plot.valToPos(handle.limit, "y") : 0);
      free = top + HEIGHT;
      return top;
    });
    let ceiling = height;
    for (let at = tops.length - 1; at >= 0; at -= 1) {
      tops[at] = Math.min(tops[at], ceiling);
      ceiling = tops[at] - HEIGHT;
    }
    handles.forEach((handle, at) => this.#place(handle, tops[at]));
  }

  #place({ node, line, limit }, top) {
    const { plot } = this.#chart;
    node.style.left = `${plot.over.offsetLeft + plot.over.clientWidth + 6}px`;
    node.style.top = `${plot.over.offsetTop + top}px`;
    line.hidden = !limit;
    if (limit) line.style.top = `${plot.valToPos(limit, "y")}px`;
  }

  #show(handle, limit, cancels = false) {
    handle.limit = limit;
    const { node, grip, value, cancel, line, indexes } = handle;
    const color = indexes.length === 1 ? colors.ofVcpu(indexes[0]) : colors.ofPage("--muted");
    for (const one of [node, line]) one.style.setProperty("--series", color);
    setText(value, cancels ? "cancel" : limit ? `${limit}` : "none");
    grip.setAttribute("aria-valuenow", limit);
    grip.setAttribute("aria-valuetext", limit ? `${limit} MB/s` : "no limit");
    cancel.hidden = !limit || handle === this.#moved;
    node.classList.toggle("parked", !limit);
    node.classList.toggle("cancels", cancels);
  }

  #make(indexes) {
    const name = `vCPU ${ranges(indexes)}`;
    const value = el("span", { className: "value" });
    const grip = el(
      "div",
      {
        className: "grip",
        role: "slider",
        tabIndex: 0,
        title: `${name}: drag, or use the arrow keys; out of the top cancels`,
        "aria-label": `Limit of ${name} in MB/s`,
        "aria-orientation": "vertical",
        "aria-valuemin": 0,
        "aria-valuemax": 1000000,
      },
      el("span", { className: "who" }, el("span", { className: "prefix" }, "vCPU "), ranges(indexes)),
      value,
    );
    const cancel = el("button", { type: "button", className: "cancel", "aria-label": `Cancel the limit of ${name}` }, "×");
    const node = el("div", { className: "limit-handle", "data-vcpus": indexes.join() }, grip, cancel);
    const line = el("div", { className: "limit-line", "data-vcpus": indexes.join() });
    const handle = { indexes, node, grip, value, cancel, line, limit: 0 };
    cancel.onclick = () => this.#limits.cancel(indexes);
    for (const one of [grip, line]) one.onpointerdown = (event) => this.#drag(handle, one, event);
    for (const one of [node, line]) {
      one.onpointerenter = () => this.#freeze(true);
      one.onpointerleave = () => this.#freeze(false);
    }
    grip.onkeydown = (event) => this.#key(handle, event);
    grip.onblur = () => handle === this.#moved && handle.timer && this.#commit();
    this.#margin.append(node);
    this.#lines.append(line);
    return handle;
  }

  /** Fix the scale while the user points at a limit, which would move otherwise. */
  #freeze(frozen) {
    if (!this.#moved) this.#chart.frozenTop = frozen ? this.#chart.plot.scales.y.max : null;
  }

  // -- moving a handle

  #begin(handle) {
    this.#freeze(true);
    this.#moved = handle;
    for (const one of [handle.node, handle.line]) one.classList.add("dragged");
  }

  #move(limit, cancels = false) {
    this.#show(this.#moved, limit, cancels);
    this.#placeMoved();
  }

  #placeMoved() {
    const { plot } = this.#chart;
    const { limit } = this.#moved;
    const top = limit ? plot.valToPos(limit, "y") : 0;
    this.#place(this.#moved, Math.max(0, Math.min(top, plot.over.clientHeight)));
  }

  #end() {
    const handle = this.#moved;
    clearTimeout(handle.timer);
    handle.timer = null;
    this.#moved = null;
    this.#freeze(false);
    for (const one of [handle.node, handle.line]) one.classList.remove("dragged");
    this.#chart.draw();
    return handle;
  }

  #commit() {
    const { limit, indexes } = this.#end();
    for (const index of indexes) this.#current[index] = limit; // until the next frame
    if (limit) this.#limits.set(indexes, limit);
    else this.#limits.cancel(indexes);
  }

  #drag(handle, target, down) {
    if (down.button !== 0 || this.#moved) return;
    down.preventDefault();
    handle.grip.focus({ focusVisible: false });
    const { plot } = this.#chart;
    const before = handle.limit;
    target.setPointerCapture(down.pointerId);
    const ended = new AbortController();
    const { signal } = ended;
    const on = (type, listener) => target.addEventListener(type, listener, { signal });
    on("pointermove", (event) => {
      if (!this.#moved && Math.abs(event.clientY - down.clientY) < 3) return;
      if (!this.#moved) this.#begin(handle);
      const y = event.clientY - plot.over.getBoundingClientRect().top;
      if (y < -PULLED_OUT) this.#move(0, Boolean(before));
      else this.#move(tidy(plot.posToVal(Math.max(0, Math.min(y, plot.over.clientHeight)), "y")));
    });
    on("pointerup", () => {
      ended.abort();
      if (!this.#moved) return;
      if (handle.limit === before) this.#end();
      else this.#commit();
    });
    const giveUp = () => {
      ended.abort();
      if (this.#moved) this.#end();
    };
    on("pointercancel", giveUp);
    addEventListener("keydown", (event) => event.key === "Escape" && giveUp(), { signal });
  }

  #key(handle, event) {
    const from = handle.limit || Math.round(this.#chart.plot.scales.y.max);
    const step = Math.max(1, tidy(from / 50));
    const limit = {
      ArrowUp: from + step,
      ArrowRight: from + step,
      ArrowDown: from - step,
      ArrowLeft: from - step,
      PageUp: from * 2,
      PageDown: from / 2,
      Delete: 0,
      Backspace: 0,
    }[event.key];
    if (event.key === "Enter" && this.#moved === handle) this.#commit();
    else if (event.key === "Escape" && this.#moved === handle) this.#end();
    else if (limit === undefined) return;
    else {
      if (!this.#moved) this.#begin(handle);
      this.#move(limit && tidy(limit));
      clearTimeout(handle.timer);
      if (limit) handle.timer = setTimeout(() => this.#commit(), SETTLED);
      else this.#commit();
    }
    event.preventDefault();
  }
}
