// What a page may have the manager do, where its server has a token. It is asked for once, checked, and kept in this page's
// memory only: a reload forgets it.

import { ask } from "./ask.js";
import { find, make, say, show } from "./dom.js";
import { size, text } from "./format.js";

const PAUSES = [["600", "10 min"], ["3600", "1 h"], ["86400", "1 day"]];
const ACTS = ["pause", "resume", "release", "take-up"];
const GIB = 2 ** 30;
const NOT_PERMITTED = 403;

// Asks in a dialog, and returns what was typed, true, or null for no.
class Question {
  #dialog = find("ask");
  #token = this.#dialog.querySelector("input");
  #settle = null;

  constructor() {
    this.#dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#close(find("ask-token").hidden || this.#token.value.trim());
    });
    find("ask-no").addEventListener("click", () => this.#close(null));
    this.#dialog.addEventListener("close", () => this.#close(null));
  }

  ask({ head, words, ok, wantsToken = false }) {
    say(find("ask-head"), head);
    say(find("ask-text"), words);
    say(find("ask-ok"), ok);
    show(find("ask-token"), wantsToken);
    this.#token.required = wantsToken;
    this.#dialog.showModal();
    return new Promise((settle) => {
      this.#settle = settle;
    });
  }

  #close(answer) {
    const settle = this.#settle;
    this.#settle = null;
    this.#token.value = "";
    if (this.#dialog.open) this.#dialog.close();
    settle?.(answer);
  }
}

export class Acts {
  #token = null;
  #mayAct = false;
  #question = new Question();
  #box = find("acts");
  #said = find("acted");
  #vm = null;
  #shown = "";

  constructor() {
    find("use-token").addEventListener("click", () => (this.#token === null ? this.#useToken() : this.#forget()));
    find("reserve").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#reserve(event.target.elements);
    });
  }

  // Asks the server what this page may do.
  async load() {
    const session = await ask("api/session", {}, { headers: this.#headers() }).catch(() => null);
    if (session === null) return;
    this.#mayAct = session.may_act === true;
    if (!this.#mayAct) this.#token = null;
    show(find("use-token"), session.acts === true);
    say(find("use-token"), this.#mayAct ? "Forget the token" : "Act with a token");
    show(find("reserve"), this.#mayAct);
    this.#shown = "";
    this.#draw();
  }

  // Shows the buttons for a VM; null: for none.
  show(vm) {
    if (this.#vm?.name !== vm?.name) say(this.#said, "");
    this.#vm = vm;
    this.#draw();
  }

  async #useToken() {
    let words = "It is in the file that dynmem web was started with (--token-file). This page forgets it when it is closed.";
    while (!this.#mayAct) {
      this.#token = await this.#question.ask({ head: "Act with a token", words, ok: "Use it", wantsToken: true });
      if (this.#token === null) return;
      await this.load();
      words = "The server does not accept this token: look into the file that dynmem web was started with.";
    }
  }

  #forget() {
    this.#token = null;
    return this.load();
  }

  #headers() {
    return this.#token === null ? {} : { Authorization: `Bearer ${this.#token}` };
  }

  #draw() {
    const vm = this.#vm;
    const acts = vm?.there && this.#mayAct ? ACTS.filter((act) => isFor(act, vm)) : [];
    const wanted = vm ? `${acts.join(" ")} ${vm.name}` : "";
    if (wanted === this.#shown) return;
    this.#shown = wanted;
    const hadFocus = this.#box.contains(document.activeElement);
    this.#box.replaceChildren(...acts.flatMap((act) => this.#controls(act, vm.name)));
    show(this.#box, acts.length > 0);
    if (hadFocus) this.#box.querySelector("button")?.focus();
  }

  #controls(act, name) {
    if (act === "pause") {
      const length = make("select", { "aria-label": "For how long" });
      for (const [value, words] of PAUSES) length.append(make("option", { value }, words));
      return [button("Pause for", () => this.#act(act, { vm: name, for_s: Number(length.value) })), length];
    }
    if (act === "release") return [button("Release", () => this.#release(name))];
    return [button(act === "resume" ? "Resume" : "Manage again", () => this.#act(act, { vm: name }))];
  }

  async #release(name) {
    const words = `${text(name)} is grown to its full size and then left alone, until it is managed again.`;
    if (await this.#question.ask({ head: `Release ${text(name)}?`, words, ok: "Release" })) {
      await this.#act("release", { vm: name });
    }
  }

  #reserve({ name, gib, wait, result }) {
    const bytes = Math.round(gib.valueAsNumber * GIB);
    const body = { name: name.value.trim(), bytes, wait_s: Number(wait.value) };
    return this.#act("reserve", body, result, `${size(bytes)} are kept for ${body.name}`);
  }

  async #act(act, body, output = this.#said, done = `Done: ${act} ${text(body.vm)}`) {
    say(output, "Asking the manager");
    try {
      await ask(`api/${act}`, {}, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...this.#headers() },
        body: JSON.stringify(body),
      });
      say(output, done);
    } catch (error) {
      say(output, text(error.message));
      if (error.status === NOT_PERMITTED) await this.load();
    }
  }
}

function button(words, act) {
  const made = make("button", { type: "button" }, words);
  made.addEventListener("click", act);
  return made;
}

function isFor(act, vm) {
  const isPaused = vm.standing === "paused";
  return { pause: !isPaused && !vm.released, resume: isPaused, release: !vm.released, "take-up": vm.released }[act];
}
