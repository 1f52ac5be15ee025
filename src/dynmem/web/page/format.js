// Sizes, times and VMs in the words that dynmem's own commands have for them.

const UNITS = [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10], ["B", 1]];
const WHOLE_BELOW = 10000;
export const UNKNOWN = "-";

// Returns bytes as people read them: "1.5 GiB", "1200 MiB" (format_size of dynmem/units.py).
export function size(given) {
  if (!Number.isFinite(given)) return UNKNOWN;
  const bytes = Math.round(given);
  if (bytes < 0) return `-${size(-bytes)}`;
  let at = UNITS.findIndex(([, factor]) => bytes >= factor);
  if (at < 0) at = UNITS.length - 1;
  const [unit, factor] = UNITS[at];
  if ((bytes * 100) % factor) {
    const [smaller, below] = UNITS[at + 1];
    if (bytes % below === 0 && bytes / below < WHOLE_BELOW) return `${bytes / below} ${smaller}`;
  }
  const hundredths = Math.floor((bytes * 200 + factor) / (2 * factor));
  return `${hundredths / 100} ${unit}`;
}

export function percent(ratio) {
  return Number.isFinite(ratio) ? `${Math.round(ratio * 100)} %` : UNKNOWN;
}

// Returns a time that has passed in its largest unit: "5 s", "12 min".
export function ago(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (whole >= length) return `${Math.floor(whole / length)} ${unit}`;
  }
  return `${whole} s`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

// Returns a point in time in this browser's time zone, with its day unless that is today.
export function when(date, today = new Date()) {
  if (Number.isNaN(date.getTime())) return UNKNOWN;
  const clock = CLOCK.format(date);
  return date.toDateString() === today.toDateString() ? clock : `${DATE.format(date)}, ${clock}`;
}

// Returns a VM's state, and why the manager leaves it as it is, in a word each.
export function state(vm) {
  return vm.standing == null || vm.standing === "movable" ? text(vm.run_state) : `${text(vm.run_state)}, ${text(vm.standing)}`;
}

// Returns whether a VM has what it needs, in Hyper-V's words: a buffer that is not met is "low", a demand that is
// not met a "warning".
export function need(vm) {
  if (!vm.there) return "away";
  if (known(vm.demand_bytes) && known(vm.actual_bytes) && vm.demand_bytes > vm.actual_bytes) return "warning";
  return vm.short_bytes ? "low" : "met";
}

export function pressure(vm) {
  return known(vm.demand_bytes) && vm.actual_bytes ? vm.demand_bytes / vm.actual_bytes : null;
}

// Returns what a VM uses, what it has and why, in a few plain words (in_a_line of dynmem/cli/explain_text.py).
export function why(vm) {
  if (!vm.there) return text(vm.problem) || "it is not running";
  if (vm.standing !== "movable" || !known(vm.demand_bytes) || !known(vm.actual_bytes)) {
    return text(vm.reason).split("; ", 1)[0] || "nothing is known of its guest yet";
  }
  const line = `uses ${size(vm.demand_bytes)}${vm.expected_bytes ? ", grows" : ""}, has ${size(vm.actual_bytes)}`;
  if (vm.books && !vm.books.may_allocate) return `${line}: ${text(vm.books.may_not_allocate_why).split(":", 1)[0]}`;
  if (vm.short_bytes) return `${line}: ${size(vm.short_bytes)} short, since others hold it`;
  if (known(vm.planned_bytes) && vm.actual_bytes > vm.planned_bytes) {
    return `${line}: ${size(vm.actual_bytes - vm.planned_bytes)} of it others may have`;
  }
  if (known(vm.wanted_bytes) && vm.actual_bytes > vm.wanted_bytes) return `${line}: nobody else needs the rest`;
  return `${line}: ${size(Math.max(0, vm.actual_bytes - vm.demand_bytes))} at hand`;
}

// What others write can be long, and can hold characters that turn a line around or hide.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;
const TEXT_MAX = 2000;

export function text(given) {
  return given == null ? "" : String(given).slice(0, TEXT_MAX).replace(UNSEEN, "?");
}

function known(value) {
  return value != null;
}
