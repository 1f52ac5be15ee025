// What the page asks of its server, and the live stream. Addresses are relative: a proxy may serve the page in a folder.

const BACK_OFF_MS = 1000;
const BACK_OFF_MS_MAX = 30000;
// The server sends a status every 15 s at least.
const SILENCE_MS = 45000;
const HIDDEN_MS = 60000;
export const NO_SERVER = "The server of this page (dynmem web) does not reply";

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// Returns the reply to a request, decoded; raises Refused with the server's sentence, or with one of its own.
export async function ask(address, parameters = {}, options = {}) {
  const query = new URLSearchParams(parameters).toString();
  let reply;
  try {
    reply = await fetch(query ? `${address}?${query}` : address, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(NO_SERVER, 0);
  }
  const found = await reply.json().catch(() => null);
  if (reply.ok && found !== null) return found;
  throw new Refused(String(found?.error ?? `The server replied ${reply.status} and no sentence`), reply.status);
}

async function refusal(address) {
  const hangUp = new AbortController();
  try {
    const reply = await fetch(address, { cache: "no-store", signal: hangUp.signal });
    if (!reply.ok) return String((await reply.json()).error);
  } catch {
    // It is as if there were no server.
  }
  hangUp.abort();
  return NO_SERVER;
}

// The one live stream. It is closed while nobody looks at the page, and opened again with growing pauses when it is lost.
export class Live {
  #on;
  #source = null;
  #retry = null;
  #hiding = null;
  #backOff = BACK_OFF_MS;
  #heard = 0;

  // on: { status(status), trouble(sentence), happened(event), joined(), lost(sentence) }
  constructor(on) {
    this.#on = on;
    document.addEventListener("visibilitychange", () => this.#seen());
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", (event) => event.persisted && this.#open());
    setInterval(() => this.#watch(), SILENCE_MS / 3);
    this.#open();
  }

  #open() {
    this.#close();
    this.#heard = Date.now();
    const source = new EventSource("api/live");
    this.#source = source;
    source.addEventListener("open", () => this.#on.joined());
    source.addEventListener("error", () => source === this.#source && this.#lost(source.readyState === EventSource.CLOSED));
    for (const kind of ["status", "trouble", "happened"]) {
      source.addEventListener(kind, (event) => this.#hear(kind, event.data));
    }
  }

  #hear(kind, data) {
    this.#heard = Date.now();
    this.#backOff = BACK_OFF_MS;
    let value = null;
    try {
      value = JSON.parse(data);
    } catch {
      // It is as if there were nothing in it.
    }
    if (value === null || typeof value !== "object") {
      this.#on.trouble("What the server sent cannot be read: reload the page");
      return;
    }
    if (kind === "trouble") this.#on.trouble(String(value?.error ?? "The manager does not reply"));
    else this.#on[kind](value);
  }

  // A stream that was refused (isRefused) has a sentence, which an EventSource keeps to itself.
  #lost(isRefused = false) {
    this.#close();
    const pause = this.#backOff * (0.5 + Math.random() / 2);
    this.#backOff = Math.min(2 * this.#backOff, BACK_OFF_MS_MAX);
    this.#retry = setTimeout(() => this.#open(), pause);
    if (isRefused) refusal("api/live").then((sentence) => !this.#source && this.#on.lost(sentence));
    else this.#on.lost(NO_SERVER);
  }

  #watch() {
    if (this.#source && Date.now() - this.#heard > SILENCE_MS) this.#lost();
  }

  #seen() {
    clearTimeout(this.#hiding);
    if (document.hidden) this.#hiding = setTimeout(() => this.#close(), HIDDEN_MS);
    else if (!this.#source) this.#open();
  }

  #close() {
    clearTimeout(this.#retry);
    this.#source?.close();
    this.#source = null;
  }
}
