// The page of dynmem: what the manager's last status says, as often as it changes.

import { Acts } from "./acts.js";
import { Live } from "./ask.js";
import { find, say } from "./dom.js";
import { Detail } from "./detail.js";
import { Events } from "./events.js";
import { text } from "./format.js";
import { Alarms, Host, alarms } from "./host.js";
import { Table } from "./table.js";

const NARROW = matchMedia("(max-width: 75rem)");
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

const host = new Host();
const banner = new Alarms();
const events = new Events();
const acts = new Acts();
const table = new Table((name) => choose(name === detail.name ? null : name));
const detail = new Detail(() => choose(null));

let status = null;
let trouble = "";
let isWaiting = false;

function choose(name) {
  table.choose(name);
  detail.choose(name);
  acts.show(vmOf(name));
  if (!NARROW.matches) return;
  find("detail").scrollIntoView({ behavior: STILL.matches ? "auto" : "smooth" });
  find("detail-head").focus({ preventScroll: true });
}

function vmOf(name) {
  return status?.vms?.find?.((vm) => vm?.name === name) ?? null;
}

// However many statuses come, a frame is drawn once.
function draw() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    paint();
  });
}

function paint() {
  const sentences = trouble ? [trouble] : [];
  if (status) {
    try {
      host.show(status);
      table.show(status.vms);
      events.show(status.vms);
      const vm = vmOf(detail.name);
      detail.show(vm);
      acts.show(vm);
      sentences.push(...alarms(status));
    } catch {
      sentences.push("The status cannot be shown: reload the page, and see whether dynmem status shows it");
    }
  }
  document.body.classList.toggle("lost", trouble !== "");
  banner.show(sentences);
}

function setTrouble(sentence) {
  trouble = sentence;
  draw();
}

new Live({
  status(found) {
    status = found;
    say(find("link"), "Live");
    setTrouble("");
  },
  trouble(sentence) {
    say(find("link"), "Not live");
    setTrouble(`The manager does not reply: ${text(sentence)}`);
  },
  happened(event) {
    events.happened(event);
  },
  joined() {
    acts.load();
    events.load();
    detail.load();
  },
  lost(sentence) {
    say(find("link"), "Not live");
    setTrouble(`${text(sentence)}: trying again. What is shown is old.`);
  },
});
