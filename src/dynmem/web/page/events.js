// The list of events: the newest first, as many as a page has room for, filtered by VM and kind.

import { ask } from "./ask.js";
import { find, make, say } from "./dom.js";
import { text, when } from "./format.js";

const HELD_MAX = 500;
const SHOWN_MAX = 200;
const TYPING_MS = 300;
const RETRY_MS = 5000;
// As docs/history-fields.md lists them.
export const KINDS = [
  "started", "stopped", "lost", "reload", "mode", "came", "went", "restarted", "reset", "standing", "problem", "stalled",
  "stall over", "moved", "would move", "refused", "interrupted", "request", "shortage", "shortage over", "emergency",
  "emergency over",
];

// Returns an event as an item of a list.
export function item(event) {
  const at = make("time", { datetime: text(event.at) }, when(new Date(event.at)));
  const who = make("span", { class: "who" }, event.vm == null ? "host" : text(event.vm));
  const kind = make("span", { class: "kind" }, text(event.kind));
  const line = make("li", {}, at, " ", who, " ", kind, " ", text(event.text));
  if (event.measurement) line.append(" ", make("span", { class: "quiet" }, `[${text(event.measurement)}]`));
  return line;
}

// The numbers of events begin again with another file of the history.
function key(event) {
  return `${event.id} ${event.at}`;
}

export class Events {
  #held = [];
  #keys = new Set();
  #list = find("events-list");
  #note = find("events-note");
  #vm = find("events-vm");
  #kind = find("events-kind");
  #names = new Set();
  #typing = null;
  #asking = null;
  #failed = 0; // when they could not be read

  constructor() {
    for (const kind of KINDS) this.#kind.append(make("option", { value: kind }, kind));
    this.#kind.addEventListener("change", () => this.#draw());
    this.#vm.addEventListener("input", () => {
      this.#draw();
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.load(), TYPING_MS);
    });
  }

  // Looks at a new status: the name of a VM that is typed whole asks for its older events, and what could not be read is
  // asked for again.
  show(vms) {
    this.#names = new Set(vms.map((vm) => vm.name));
    if (this.#failed && Date.now() - this.#failed > RETRY_MS) this.load();
  }

  async load() {
    this.#asking?.abort();
    this.#failed = 0;
    const asking = new AbortController();
    this.#asking = asking;
    const name = this.#vm.value.trim();
    const about = this.#names.has(name) ? { of: `vm:${name}` } : {};
    try {
      const found = await ask("api/events", { ...about, since: 0, limit: SHOWN_MAX }, { signal: asking.signal });
      if (asking.signal.aborted) return;
      this.#add(found.events);
      say(this.#note, "");
    } catch (error) {
      if (asking.signal.aborted) return;
      this.#failed = Date.now();
      say(this.#note, `Events cannot be shown: ${text(error.message)}`);
    }
  }

  happened(event) {
    if (!this.#add([event], false) || !this.#fits(event)) return;
    if (this.#list.firstElementChild?.classList.contains("quiet")) this.#list.replaceChildren();
    this.#list.prepend(item(event));
    while (this.#list.childElementCount > SHOWN_MAX) this.#list.lastElementChild.remove();
  }

  // Returns whether one of them is new.
  #add(events, isDrawn = true) {
    const fresh = events.filter((event) => !this.#keys.has(key(event)));
    if (!fresh.length) {
      if (isDrawn) this.#draw();
      return false;
    }
    this.#held = [...fresh, ...this.#held].sort((one, other) => newestFirst(one, other));
    if (this.#held.length > HELD_MAX) this.#held = this.#trimmed();
    this.#keys = new Set(this.#held.map(key));
    if (isDrawn) this.#draw();
    return true;
  }

  // What is looked at is kept before what is not.
  #trimmed() {
    const fitting = this.#held.filter((event) => this.#fits(event)).slice(0, SHOWN_MAX);
    const kept = new Set(fitting);
    const others = this.#held.filter((event) => !kept.has(event)).slice(0, HELD_MAX - fitting.length);
    return [...fitting, ...others].sort(newestFirst);
  }

  #fits(event) {
    const wanted = this.#vm.value.trim().toLowerCase();
    if (this.#kind.value && event.kind !== this.#kind.value) return false;
    return !wanted || text(event.vm ?? "host").toLowerCase().includes(wanted);
  }

  #draw() {
    const shown = this.#held.filter((event) => this.#fits(event)).slice(0, SHOWN_MAX);
    this.#list.replaceChildren(...shown.map(item));
    if (!shown.length) this.#list.append(make("li", { class: "quiet" }, "No event"));
  }
}

function newestFirst(one, other) {
  return text(other.at).localeCompare(text(one.at)) || (other.id ?? 0) - (one.id ?? 0);
}
