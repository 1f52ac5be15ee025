// What is looked at more closely, the host or one VM: its figures over time, what happened to it, and why it has what it has.

import { ask } from "./ask.js";
import { find, make, say, show } from "./dom.js";
import { item } from "./events.js";
import { text, when } from "./format.js";
import { OF_A_VM, OF_THE_HOST, Plot } from "./plot.js";

const POINTS_MAX = 600;
const EVENTS_MAX = 1000;
const LISTED_MAX = 50;
const RELOAD_MS = 10000;
const RELOAD_MS_MAX = 300000;
const EXPLAIN_MS = 5000;
const NOT_FOUND = 404;
const DARK = matchMedia("(prefers-color-scheme: dark)");

export class Detail {
  #name = null;
  #plot = null;
  #found = null;
  #form = find("span");
  #box = find("plot");
  #asking = null;
  #timer = null;
  #explaining = null;
  #explained = { seen: "", at: 0 };
  #moment = null; // the point in time that is explained, in seconds; null: now

  // onUnchoose() is called when the host is to be shown again.
  constructor(onUnchoose) {
    find("unchoose").addEventListener("click", onUnchoose);
    this.#form.addEventListener("change", (event) => event.target.name === "span" && this.#spanChosen());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.load();
    });
    this.#box.addEventListener("keydown", (event) => this.#pressed(event));
    this.#box.addEventListener("blur", () => this.#plot?.leave());
    DARK.addEventListener("change", () => this.#redraw());
    document.addEventListener("visibilitychange", () => !document.hidden && this.load());
    find("explain").addEventListener("toggle", () => this.#explain());
    find("explain-now").addEventListener("click", () => this.#pick(null));
    this.#redraw();
  }

  get name() {
    return this.#name;
  }

  // Shows a VM; null: the host.
  choose(name) {
    this.#name = name;
    this.#found = null;
    say(find("detail-head"), name === null ? "Host over time" : text(name));
    show(find("unchoose"), name !== null);
    show(find("explain"), name !== null);
    say(find("explain").querySelector("pre"), "");
    this.#moment = null;
    find("moves").querySelector("ol").replaceChildren();
    this.#explained = { seen: "", at: 0 };
    this.#redraw();
    this.#explain();
    this.load();
  }

  // Looks at a new status: the page of a VM that changed is asked for again.
  show(vm) {
    if (!vm || this.#moment !== null) return;
    const seen = JSON.stringify(vm);
    if (seen === this.#explained.seen || Date.now() - this.#explained.at < EXPLAIN_MS) return;
    this.#explained.seen = seen;
    this.#explain();
  }

  async load() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    const [since, until] = this.#span();
    if (!(since < until)) {
      say(find("plot-note"), "The time has to begin before it ends: correct from and to");
      return;
    }
    const of = this.#name === null ? "host" : `vm:${this.#name}`;
    const about = { of, since: since.toFixed(3), until: until.toFixed(3) };
    const points = Math.max(50, Math.min(POINTS_MAX, this.#box.clientWidth));
    try {
      const [series, events] = await Promise.all([
        ask("api/series", { ...about, points }, { signal: asking.signal }),
        ask("api/events", { ...about, limit: EVENTS_MAX }, { signal: asking.signal }),
      ]);
      if (asking.signal.aborted) return; // it came while the next one was being asked for
      this.#show({ series, events: events.events, since, until });
      const note = events.more ? `Only the last ${events.events.length} events of this time are marked` : "";
      say(find("plot-note"), series.from_s.length ? note : "Nothing is recorded in this time");
    } catch (error) {
      if (asking.signal.aborted) return;
      const isNew = error.status === NOT_FOUND; // it takes some sweeps until a VM is in the history
      say(find("plot-note"), isNew ? "Nothing is recorded of it yet" : `The history cannot be shown: ${text(error.message)}`);
    }
    this.#again(asking, (until - since) / points);
  }

  #again(asking, stepS) {
    if (asking !== this.#asking || this.#form.elements.span.value === "custom") return;
    const pause = Math.min(RELOAD_MS_MAX, Math.max(RELOAD_MS, stepS * 1000));
    this.#timer = setTimeout(() => !document.hidden && this.load(), pause);
  }

  #span() {
    const { span, since, until } = this.#form.elements;
    if (span.value === "custom") return [since, until].map((each) => Date.parse(each.value) / 1000);
    const now = Date.now() / 1000;
    return [now - Number(span.value), now];
  }

  #spanChosen() {
    const isCustom = this.#form.elements.span.value === "custom";
    show(find("custom"), isCustom);
    if (isCustom && !this.#form.elements.since.value) {
      const now = Date.now() / 1000;
      this.#setCustom(now - 3600, now);
    }
    this.load();
  }

  #setCustom(since, until) {
    this.#form.elements.since.value = localText(since);
    this.#form.elements.until.value = localText(until);
  }

  #zoom(since, until) {
    this.#form.elements.span.value = "custom";
    this.#setCustom(Math.floor(since), Math.ceil(until));
    this.#spanChosen();
  }

  #redraw() {
    this.#plot?.destroy();
    const lines = this.#name === null ? OF_THE_HOST : OF_A_VM;
    const zoom = (since, until) => this.#zoom(since, until);
    this.#plot = new Plot(this.#box, find("readout"), lines, zoom, (seconds) => this.#pick(seconds));
    if (this.#found) this.#show(this.#found);
  }

  #show(found) {
    this.#found = found;
    this.#plot.show(found.series, found.events, found.since, found.until);
    find("moves").querySelector("ol").replaceChildren(
      ...found.events.slice(0, LISTED_MAX).map(item),
      ...(found.events.length ? [] : [make("li", { class: "quiet" }, "None")]),
    );
  }

  // Explains a point in time; null: now.
  #pick(seconds) {
    this.#moment = seconds;
    find("explain").open = true;
    this.#explain();
  }

  #pressed(event) {
    if (event.key === "Enter") this.#plot.pick();
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    this.#plot?.step(by);
  }

  async #explain() {
    const name = this.#name;
    if (name === null || !find("explain").open) return;
    this.#explained.at = Date.now();
    this.#explaining?.abort();
    const asking = new AbortController();
    this.#explaining = asking;
    const page = find("explain").querySelector("pre");
    const moment = this.#moment;
    const then = moment === null ? "" : when(new Date(moment * 1000));
    say(find("explain-head"), then ? `Why it had what it had: ${then}` : "Why it has what it has");
    show(find("explain-now"), moment !== null);
    try {
      const about = moment === null ? { vm: name } : { vm: name, at: moment.toFixed(3) };
      const found = await ask("api/explain", about, { signal: asking.signal });
      if (!asking.signal.aborted) say(page, found.lines.map(text).join("\n"));
    } catch (error) {
      if (!asking.signal.aborted) say(page, text(error.message));
    }
  }
}

// Returns a date as an input of kind datetime-local has it.
function localText(seconds) {
  const date = new Date(seconds * 1000);
  return new Date(date.getTime() - date.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}
