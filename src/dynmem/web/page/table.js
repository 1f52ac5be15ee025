// The table of VMs: rows that are made once for each VM and touched where a text of theirs changed.

import { arrange, find, make, mark, place, say, show } from "./dom.js";
import { need, percent, pressure, size, state, text, why } from "./format.js";

// Beyond this many, the filter has to help.
const ROWS_MAX = 500;
const ORDER = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const NEEDS = { low: "low", warning: "warning" };

// As docs/top.md names them. key, title, text, what it sorts by, whether it is a figure: those sort from the largest on.
const COLUMNS = [
  ["name", "VM", (vm) => text(vm.name), (vm) => text(vm.name), false],
  ["state", "State", (vm) => state(vm) + (NEEDS[need(vm)] ? `, ${NEEDS[need(vm)]}` : ""), state, false],
  ["demand", "Demand", (vm) => size(vm.demand_bytes), (vm) => vm.demand_bytes, true],
  ["target", "Target", (vm) => size(vm.assigned_bytes), (vm) => vm.assigned_bytes, true],
  ["actual", "Actual", (vm) => size(vm.actual_bytes), (vm) => vm.actual_bytes, true],
  ["resident", "Resident", (vm) => size(vm.resident_bytes), (vm) => vm.resident_bytes, true],
  ["range", "Min to max", bounds, (vm) => vm.maximum_bytes, true],
  ["pressure", "Pressure", (vm) => percent(pressure(vm)), pressure, true],
  ["why", "Why", why, why, false],
];

function bounds(vm) {
  return `${size(vm.minimum_bytes)} to ${size(vm.maximum_bytes)}`;
}

class Row {
  constructor(vm) {
    this.name = vm.name;
    this.cells = new Map();
    this.button = make("button", { type: "button", tabindex: "-1" });
    this.demand = make("i");
    this.actual = make("b");
    this.element = make("div", { role: "row" });
    for (const [key, title] of COLUMNS) {
      const cell = make("div", { role: key === "name" ? "rowheader" : "cell", class: key, "data-title": title });
      let words = cell;
      if (key === "name") cell.append((words = this.button));
      if (key === "range") {
        words = make("span");
        cell.append(make("div", { class: "between", "aria-hidden": "true" }, this.actual, this.demand), words);
      }
      this.cells.set(key, words);
      this.element.append(cell);
    }
  }

  show(vm) {
    this.vm = vm;
    for (const [key, , read] of COLUMNS) say(this.cells.get(key), read(vm));
    mark(this.element, "data-need", need(vm));
    const span = vm.maximum_bytes - vm.minimum_bytes;
    place(this.actual, "width", percentOf((vm.actual_bytes ?? vm.minimum_bytes) - vm.minimum_bytes, span));
    place(this.demand, "left", percentOf((vm.demand_bytes ?? 0) - vm.minimum_bytes, span));
    show(this.demand, vm.demand_bytes != null);
  }
}

function percentOf(part, whole) {
  return `${(Math.min(1, Math.max(0, whole > 0 ? part / whole : 0)) * 100).toFixed(1)}%`;
}

export class Table {
  #rows = new Map();
  #vms = [];
  #order = 0;
  #isFalling = false;
  #filter = find("filter");
  #box = find("rows");
  #current = null;
  #chosen = null;
  #heads = [];
  #onChoose;

  // onChoose(name) is called when a VM is chosen.
  constructor(onChoose) {
    this.#onChoose = onChoose;
    const line = make("div", { role: "row" });
    COLUMNS.forEach(([key, title], at) => {
      const head = make("div", { role: "columnheader", class: key, "aria-sort": "none" });
      if (key === "why") head.append(title);
      else head.append(this.#sorter(at, title));
      this.#heads.push(head);
      line.append(head);
    });
    find("heads").append(line);
    this.#showOrder();
    this.#filter.addEventListener("input", () => this.#arrange());
    this.#box.addEventListener("click", (event) => this.#clicked(event));
    this.#box.addEventListener("keydown", (event) => this.#pressed(event));
    this.#box.addEventListener("focusin", (event) => this.#focused(event.target));
  }

  #sorter(at, title) {
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => this.#sort(at));
    return button;
  }

  show(vms) {
    this.#vms = vms;
    this.#arrange();
  }

  // Marks the row of the VM that is shown in the plot; null: of none.
  choose(name) {
    this.#chosen = name;
    for (const row of this.#rows.values()) this.#markChosen(row);
  }

  #markChosen(row) {
    const isChosen = row.name === this.#chosen;
    mark(row.button, "aria-pressed", String(isChosen));
    row.element.classList.toggle("chosen", isChosen);
  }

  #sort(at) {
    const isFigure = COLUMNS[at][4];
    this.#isFalling = this.#order === at ? !this.#isFalling : isFigure;
    this.#order = at;
    this.#showOrder();
    this.#arrange();
  }

  #showOrder() {
    const word = this.#isFalling ? "descending" : "ascending";
    this.#heads.forEach((head, at) => mark(head, "aria-sort", at === this.#order ? word : "none"));
  }

  #arrange() {
    const wanted = this.#filter.value.trim().toLowerCase();
    const found = this.#vms.filter((vm) => text(vm.name).toLowerCase().includes(wanted));
    const read = COLUMNS[this.#order][3];
    const sign = this.#isFalling ? -1 : 1;
    found.sort((one, other) => compare(read(one), read(other), sign) || ORDER.compare(one.name, other.name));
    const shown = found.slice(0, ROWS_MAX);
    const before = this.#rows;
    this.#rows = new Map();
    for (const vm of shown) {
      const row = before.get(vm.name) ?? new Row(vm);
      row.show(vm);
      this.#rows.set(vm.name, row);
      this.#markChosen(row);
    }
    arrange(this.#box, [...this.#rows.values()].map((row) => row.element));
    this.#keepReachable();
    say(find("count"), countLine(shown.length, found.length, this.#vms.length));
  }

  // One row is reached by Tab, the others from there by the arrow keys.
  #keepReachable() {
    const names = [...this.#rows.keys()];
    if (!this.#rows.has(this.#current)) this.#current = this.#rows.has(this.#chosen) ? this.#chosen : (names[0] ?? null);
    for (const [name, row] of this.#rows) mark(row.button, "tabindex", name === this.#current ? "0" : "-1");
  }

  #rowOf(element) {
    const line = element.closest("#rows > [role=row]");
    return [...this.#rows.values()].find((row) => row.element === line);
  }

  #focused(element) {
    const row = this.#rowOf(element);
    if (!row || row.name === this.#current) return;
    this.#current = row.name;
    this.#keepReachable();
  }

  #clicked(event) {
    const row = this.#rowOf(event.target);
    if (row) this.#onChoose(row.name);
  }

  #pressed(event) {
    const rows = [...this.#rows.values()];
    const at = rows.findIndex((row) => row.name === this.#current);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || !rows[to]) return;
    event.preventDefault();
    rows[to].button.focus();
  }
}

// What is not known is last in either direction.
function compare(one, other, sign) {
  if (one == null || other == null) return (one == null) - (other == null);
  return sign * (typeof one === "string" ? ORDER.compare(one, other) : one - other);
}

function countLine(shown, found, all) {
  if (shown < found) return `${shown} of ${found} VMs are shown: narrow the filter`;
  return found < all ? `${found} of ${all} VMs` : `${all} VMs`;
}
