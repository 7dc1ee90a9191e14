// The chart: rates as lines, limits as dashed steps, drawn by uPlot.

import * as colors from "./colors.js";
import { timeOfDay } from "./format.js";

const FONT = '11px system-ui, "DejaVu Sans", sans-serif';
const DEFAULT_TOP = 1000; // MB/s, while there are no values

/** Round up to a number with few digits. */
function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * unit >= value);
}

/** Events: "drawn" after each drawing, "point" when the cursor moves. */
export class Chart extends EventTarget {
  #place;
  #history;
  #plot = null;
  #hidden = new Set();
  #window = 60;
  #log = false;
  #pending = false;
  held = null; // the time at the right edge, if the chart is held
  frozenTop = null; // the fixed top of the scale, if any
  showTotal = false;

  constructor(place, history) {
    super();
    this.#place = place;
    this.#history = history;
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(place);
    colors.onChange(() => this.#build());
    document.addEventListener("visibilitychange", () => this.draw());
    this.#build();
  }

  get plot() {
    return this.#plot;
  }

  /** The margin for the limits' handles, whose width is in chart.css. */
  get #margin() {
    return matchMedia("(max-width: 600px)").matches ? 104 : 132;
  }

  /** The time under the cursor, or null. */
  get pointed() {
    const { left } = this.#plot.cursor;
    return left >= 0 ? this.#plot.posToVal(left, "x") : null;
  }

  shows(index) {
    return !this.#hidden.has(index);
  }

  /** Show or hide a vCPU. */
  show(index, shown) {
    if (shown) this.#hidden.delete(index);
    else this.#hidden.add(index);
    this.#plot.setSeries(index + 2, { show: shown }, false);
    this.draw();
  }

  setTotal(shown) {
    this.showTotal = shown;
    this.#plot.setSeries(1, { show: shown }, false);
    this.draw();
  }

  setWindow(seconds) {
    this.#window = seconds;
    this.draw();
  }

  setLog(log) {
    this.#log = log;
    this.#build();
  }

  setHistory(history) {
    this.#history = history;
    this.#hidden.clear();
    this.#build();
  }

  /** Redraw with the next animation frame. */
  draw() {
    if (this.#pending || document.hidden) return;
    this.#pending = true;
    requestAnimationFrame(() => {
      this.#pending = false;
      this.#plot.setData(this.#data());
    });
  }

  #data() {
    const { times, total, rates } = this.#history;
    return [times, total, ...rates];
  }

  #size() {
    return { width: this.#place.clientWidth, height: this.#place.clientHeight };
  }

  #xRange() {
    const end = this.held ?? this.#history.end;
    return [end - this.#window, end];
  }

  #yRange(most) {
    if (this.frozenTop) return [this.#log ? 1 : 0, this.frozenTop];
    const limits = this.#history.limits.map((steps, index) => (this.shows(index) && steps.at(-1)?.[1]) || 0);
    const top = Math.max(most ?? 0, ...limits);
    if (this.#log) return [1, Math.max(10, 10 ** Math.ceil(Math.log10(Math.max(top, 2) * 1.05)))];
    return [0, top ? Math.max(10, roundUp(top * 1.08)) : DEFAULT_TOP];
  }

  #build() {
    const muted = colors.ofPage("--muted");
    const grid = { stroke: colors.ofPage("--grid"), width: 1 };
    const axis = { stroke: muted, grid, ticks: { ...grid, size: 4 }, font: FONT };
    const line = { points: { show: false }, spanGaps: false };
    const many = this.#history.rates.length > 16;
    const options = {
      ...this.#size(),
      padding: [14, () => this.#margin, 0, 0],
      legend: { show: false },
      cursor: {
        drag: { x: false, y: false },
        points: { show: false },
        y: false,
        bind: { mousemove: (_plot, _target, handler) => handler }, // also over the lines of limits
      },
      scales: {
        x: { time: true, range: () => this.#xRange() },
        y: { range: (_plot, _least, most) => this.#yRange(most), distr: this.#log ? 3 : 1 },
      },
      axes: [
        { ...axis, size: 24, space: 80, values: (_plot, times) => times.map(timeOfDay) },
        { ...axis, size: 48, space: 34, values: (_plot, rates) => rates.map((rate) => (rate === null ? "" : `${rate}`)) },
      ],
      series: [
        {},
        { ...line, label: "total", stroke: colors.ofPage("--text"), width: 1.5, show: this.showTotal },
        ...this.#history.rates.map((_, index) => ({
          ...line,
          label: `vCPU ${index}`,
          stroke: colors.ofVcpu(index),
          width: many ? 1 : 1.5,
          show: this.shows(index),
        })),
      ],
      hooks: {
        drawAxes: [() => this.#drawLimits()],
        draw: [() => this.dispatchEvent(new Event("drawn"))],
        setCursor: [() => this.dispatchEvent(new Event("point"))],
      },
    };
    this.#plot?.destroy();
    this.#plot = new uPlot(options, this.#data(), this.#place);
  }

  #drawLimits() {
    const { ctx, bbox, scales } = this.#plot;
    const x = (time) => this.#plot.valToPos(time, "x", true);
    const y = (rate) => this.#plot.valToPos(rate, "y", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    this.#history.limits.forEach((steps, index) => {
      if (!steps.length || !this.shows(index)) return;
      ctx.strokeStyle = colors.ofVcpu(index);
      ctx.beginPath();
      steps.forEach(([time, limit], at) => {
        const end = steps[at + 1]?.[0] ?? this.#history.end;
        if (!limit || end < scales.x.min) return;
        ctx.moveTo(x(Math.max(time, scales.x.min)), y(limit));
        ctx.lineTo(x(end), y(limit));
      });
      ctx.stroke();
    });
    ctx.restore();
  }
}
