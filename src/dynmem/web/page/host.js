// The host: its budget as one bar and as figures, and what an operator should know at once.

import { arrange, find, make, mark, place, say, show } from "./dom.js";
import { percent, size, text } from "./format.js";

// In the order of the bar; all parts together are the budget, or more where more is held.
const PARTS = [
  ["held", "held by VMs"],
  ["reserved", "reserved for VMs about to start"],
  ["ready", "ready reserve"],
  ["free", "measured free beyond that"],
  ["absent", "within the budget, but not available on the host"],
  ["slush", "slush, never granted"],
];
const FIGURES = [
  ["budget", "Budget", (status) => status.budget_bytes],
  ["held", "Held by VMs", (status) => status.measured_free?.held_bytes],
  ["reserved", "Reserved", (status) => status.measured_free?.reserved_bytes],
  ["ready", "Ready reserve", (status) => status.ready_bytes],
  ["free", "Measured free", (status) => status.measured_free?.bytes],
  ["slush", "Slush", (status) => status.slush_bytes],
  ["available", "MemAvailable", (status) => status.measured_free?.mem_available_bytes],
];
const PROBLEMS = [
  ["Journal", "journal_problem"],
  ["History", "history_problem"],
  ["Configuration", "config_problem"],
];
const RESERVATIONS_MAX = 50;

// Returns the bytes of each part of the bar.
export function parts(status) {
  const measured = status.measured_free;
  if (!measured) return { slush: status.slush_bytes };
  const free = Math.max(0, measured.bytes);
  const ready = Math.min(status.ready_bytes, free);
  return {
    held: measured.held_bytes,
    reserved: measured.reserved_bytes,
    ready,
    free: free - ready,
    absent: Math.max(0, measured.budget_term_bytes) - free,
    slush: status.slush_bytes,
  };
}

// Returns the sentences of what is wrong by this status.
export function alarms(status) {
  const found = [];
  if (status.emergency) found.push("Emergency: the VMs occupy more than the budget");
  if (status.shortage_bytes) found.push(`Shortage: ${size(status.shortage_bytes)} more is wanted than is available`);
  for (const [word, field] of PROBLEMS) {
    if (status.manager?.[field]) found.push(`${word}: ${text(status.manager[field])}`);
  }
  return found;
}

export class Host {
  #bar = find("bar");
  #segments = new Map();
  #figures = new Map();

  constructor() {
    for (const [key] of PARTS) {
      const made = make("div", { class: `part ${key}` });
      this.#segments.set(key, made);
      this.#bar.append(made);
    }
    for (const [key, title] of FIGURES) {
      const value = make("dd");
      this.#figures.set(key, value);
      find("figures").append(make("div", { class: key }, make("dt", {}, title), value));
    }
  }

  show(status) {
    say(find("mode"), modeLine(status));
    for (const [key, , read] of FIGURES) {
      const bytes = read(status);
      say(this.#figures.get(key), size(bytes));
      mark(this.#figures.get(key), "title", exact(bytes));
    }
    this.#showBar(status);
    say(find("sum"), text(status.measured_free?.text));
    this.#showReservations(status.reservations ?? []);
  }

  #showBar(status) {
    const bytes = parts(status);
    const sum = Object.values(bytes).reduce((all, each) => all + Math.max(0, each), 0);
    const whole = Math.max(1, status.budget_bytes, sum);
    const said = [];
    for (const [key, title] of PARTS) {
      const length = Math.max(0, bytes[key] ?? 0);
      const segment = this.#segments.get(key);
      place(segment, "width", `${(length / whole) * 100}%`);
      show(segment, length > 0);
      mark(segment, "title", `${title}: ${exact(length)}, ${percent(length / status.budget_bytes)} of the budget`);
      if (length) said.push(`${title} ${size(length)}`);
    }
    this.#bar.classList.toggle("over", sum > status.budget_bytes);
    mark(this.#bar, "aria-label", `Budget ${size(status.budget_bytes)}: ${said.join(", ")}`);
  }

  #showReservations(all) {
    const lines = all.slice(0, RESERVATIONS_MAX).map((each) => {
      const words = `Reservation for ${text(each.name)}: ${size(each.size_bytes)}, ${text(each.state)}. ${text(each.reason)}`;
      return make("p", {}, words);
    });
    const box = find("reservations");
    if (box.textContent !== lines.map((each) => each.textContent).join("")) box.replaceChildren(...lines);
  }
}

// The banner: sentences that stay until they are no longer so.
export class Alarms {
  #lines = new Map();

  show(sentences) {
    const lines = sentences.map((each) => this.#lines.get(each) ?? make("p", { class: "alarm" }, each));
    this.#lines = new Map(sentences.map((each, at) => [each, lines[at]]));
    arrange(find("alarms"), [...this.#lines.values()]);
    document.title = sentences.length ? "(!) dynmem" : "dynmem";
  }
}

function exact(bytes) {
  return Number.isFinite(bytes) ? `${size(bytes)} (${bytes} bytes)` : "not known";
}

function modeLine(status) {
  const running = status.vms.filter((vm) => vm.there).length;
  const note = status.mode === "enforce" ? "" : " (nothing is sent)";
  const period = Number((status.period_ns / 1e9).toPrecision(3));
  return `${text(status.mode)}${note}; a sweep every ${period} s; ${status.vms.length} VMs, ${running} running`;
}
