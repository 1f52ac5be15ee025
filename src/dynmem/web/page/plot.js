// One plot over time, drawn by uPlot, with marks where something happened; what is under the pointer is also there as text.

import { make, mark, say } from "./dom.js";
import { size, text, when } from "./format.js";

const HEIGHT = 260;
const NEAR_PX = 8;
const MOVES = new Set(["moved", "would move"]);
const POWERS = Array.from({ length: 51 }, (_, power) => 2 ** power);
const NARROWEST_ZOOM_PX = 8;

// Name in the reply, words, the variable of style.css that has its colour, and how it is drawn.
export const OF_A_VM = [
  ["demand_bytes", "Demand", "--demand", {}],
  ["target_bytes", "Target", "--target", { isStepped: true, dash: [6, 3] }],
  ["actual_bytes", "Actual", "--actual", {}],
  ["resident_bytes", "Resident", "--resident", {}],
];
export const OF_THE_HOST = [
  ["budget_bytes", "Budget", "--target", { isStepped: true, dash: [6, 3] }],
  ["held_bytes", "Held by VMs", "--actual", {}],
  ["free_bytes", "Measured free", "--resident", {}],
  ["ready_bytes", "Ready reserve", "--demand", {}],
];

export class Plot {
  #box;
  #events = [];
  #lines;
  #plot;
  #reader;
  #watching;
  #range;
  #onPick;

  // lines: one of the tables above; onZoom(since, until) is called when a part of it is drawn over, onPick(seconds) when a
  // point of it is clicked.
  constructor(box, readout, lines, onZoom, onPick) {
    this.#box = box;
    this.#onPick = onPick;
    this.#lines = lines;
    this.#reader = new Reader(readout, lines);
    this.#range = [0, 1];
    this.#plot = new globalThis.uPlot(this.#options(onZoom), [[], ...lines.map(() => [])], box);
    this.#plot.over.addEventListener("click", () => this.pick());
    this.#watching = new ResizeObserver(() => this.#fit());
    this.#watching.observe(box);
  }

  // Shows a reply of /api/series, and the events of the same time.
  show(found, events, since, until) {
    this.#range = [since, until];
    this.#events = events
      .map((event) => ({ event, at: Date.parse(event.at) / 1000 }))
      .filter(({ at }) => at >= since && at <= until);
    const { from_s: times, series } = found;
    this.#plot.setData([times, ...this.#lines.map(([name]) => series[name] ?? times.map(() => null))]);
    this.#read();
  }

  // Moves the cursor by so many points in time.
  step(by) {
    const times = this.#plot.data[0];
    if (!times.length) return;
    const before = this.#plot.cursor.idx ?? (by > 0 ? -1 : times.length);
    const at = Math.min(times.length - 1, Math.max(0, before + by));
    this.#plot.setCursor({ left: this.#plot.valToPos(times[at], "x"), top: 0 });
  }

  // Picks the point in time that the cursor is on.
  pick() {
    const { idx, left } = this.#plot.cursor;
    const seconds = this.#plot.data[0][idx];
    if (left >= 0 && seconds !== undefined) this.#onPick(seconds);
  }

  leave() {
    this.#plot.setCursor({ left: -10, top: -10 });
  }

  destroy() {
    this.#watching.disconnect();
    this.#plot.destroy();
    this.#reader.clear();
    this.#events = [];
  }

  #fit() {
    const width = this.#box.clientWidth;
    if (width && width !== this.#plot.width) this.#plot.setSize({ width, height: HEIGHT });
  }

  #read() {
    const { idx, left } = this.#plot.cursor;
    const times = this.#plot.data[0];
    const isAnywhere = idx != null && left >= 0;
    const at = isAnywhere ? idx : times.length - 1;
    const values = this.#lines.map((_, line) => this.#plot.data[line + 1][at]);
    this.#reader.show(times[at], values, isAnywhere ? this.#near(left) : []);
  }

  // Returns the events that are drawn next to a place.
  #near(left) {
    return this.#events
      .map(({ event, at }) => ({ event, far: Math.abs(this.#plot.valToPos(at, "x") - left) }))
      .filter(({ far }) => far <= NEAR_PX)
      .sort((one, other) => one.far - other.far)
      .slice(0, 3)
      .map(({ event }) => event);
  }

  #options(onZoom) {
    const colour = colours();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { show: false } };
    return {
      width: this.#box.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: true, y: false, setScale: false } },
      scales: {
        x: { time: true, range: () => this.#range },
        y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(1, high ?? 1) * 1.05] },
      },
      axes: [
        { ...axis, space: 70, size: 30, values: (_, splits, __, ___, step) => splits.map((at) => tick(at, step)) },
        { ...axis, size: 72, incrs: POWERS, values: (_, splits) => splits.map(size) },
      ],
      series: [
        {},
        ...this.#lines.map(([, , variable, { isStepped, dash }]) => ({
          stroke: colour(variable),
          width: 2,
          dash,
          ...(isStepped ? { paths: globalThis.uPlot.paths.stepped({ align: 1 }) } : {}),
        })),
      ],
      hooks: {
        draw: [(plot) => this.#drawEvents(plot, colour("--mark"))],
        setCursor: [() => this.#read()],
        setSelect: [(plot) => this.#zoom(plot, onZoom)],
      },
    };
  }

  #zoom(plot, onZoom) {
    const { left, width } = plot.select;
    if (width < NARROWEST_ZOOM_PX) return; // a click that slipped
    const [since, until] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    onZoom(since, until);
  }

  // A move is a triangle at the foot of the plot that points to where the size went, anything else a dot.
  #drawEvents(plot, colour) {
    const { ctx, bbox } = plot;
    const unit = globalThis.uPlot.pxRatio * 4;
    const foot = bbox.top + bbox.height - unit;
    ctx.save();
    ctx.fillStyle = colour;
    for (const { event, at } of this.#events) {
      const x = plot.valToPos(at, "x", true);
      ctx.beginPath();
      if (MOVES.has(event.kind)) {
        const sign = (event.target_bytes ?? 0) >= (event.before_bytes ?? 0) ? -1 : 1;
        ctx.moveTo(x - unit, foot - sign * unit);
        ctx.lineTo(x + unit, foot - sign * unit);
        ctx.lineTo(x, foot + sign * unit);
      } else {
        ctx.arc(x, foot, unit * 0.6, 0, 2 * Math.PI);
      }
      ctx.fill();
    }
    ctx.restore();
  }
}

// What the plot shows at one point in time, as text; it is the legend, too.
class Reader {
  #box;
  #at = make("p", { class: "at" });
  #values;
  #reasons = make("div", { class: "reasons" });

  constructor(box, lines) {
    this.#box = box;
    this.#values = lines.map(() => make("dd"));
    const list = make("dl");
    lines.forEach(([, title, variable], line) => {
      list.append(make("div", {}, make("dt", { class: `key ${variable.slice(2)}` }, title), this.#values[line]));
    });
    box.replaceChildren(this.#at, list, this.#reasons);
  }

  show(seconds, values, events) {
    say(this.#at, seconds === undefined ? "" : when(new Date(seconds * 1000)));
    values.forEach((value, line) => say(this.#values[line], size(value)));
    const sentences = events.map((event) => `${when(new Date(event.at))} ${text(event.kind)}: ${text(event.text)}`);
    if (this.#reasons.textContent !== sentences.join("")) {
      this.#reasons.replaceChildren(...sentences.map((each) => make("p", {}, each)));
    }
    mark(this.#reasons, "data-count", String(sentences.length));
  }

  clear() {
    this.#box.replaceChildren();
  }
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(name).trim();
}

function tick(at, step) {
  const date = new Date(at * 1000);
  const pad = (number) => String(number).padStart(2, "0");
  const isMidnight = !date.getHours() && !date.getMinutes() && !date.getSeconds();
  if (step >= 86400 || isMidnight) return date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  const clock = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
  return step < 60 ? `${clock}:${pad(date.getSeconds())}` : clock;
}
