// The live feed: server-sent events read with a token in the header, gone on with after every break.
// Neighbours: `app` hands its events to the model. Invariants: reconnects with the last id it saw, so nothing is missed; while there is
// no stream the reader polls and says so; a silent connection counts as a broken one; a tab nobody looks at holds no connection.

const SILENCE_MS = 45_000; // the service sends a comment at least every 15 s
const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const POLL_MS = 5000;
const HIDDEN_MS = 60_000; // browsers allow six connections a host: many tabs must not use them up

/** Splits a stream of text into events (https://html.spec.whatwg.org/multipage/server-sent-events.html). Pure. */
export class EventParser {
  #rest = "";
  #event = {};

  /** The events that `chunk` completes: {id, event, data}. */
  push(chunk) {
    const lines = (this.#rest + chunk).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    const complete = [];
    for (const line of lines) {
      if (line === "") {
        if (this.#event.data !== undefined) complete.push(this.#event);
        this.#event = {};
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "data") this.#event.data = this.#event.data === undefined ? value : `${this.#event.data}\n${value}`;
      else if (field === "id" || field === "event") this.#event[field] = value;
    }
    return complete;
  }
}

export class Feed {
  #last = "";
  #abort = null;
  #attempt = 0;
  #poll = 0;
  #hidden = 0;
  #running = false;
  #watchdog = 0;
  #refused = false;

  /** onEvent(event), onState("live" | "reconnecting" | "resting" | "refused"), poll(): reads everything anew; rejections are the caller's. */
  constructor(api, { path, onEvent, onState, poll }) {
    Object.assign(this, { api, path, onEvent, onState, poll });
    document.addEventListener("visibilitychange", () => this.#look());
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    void this.#run();
  }

  stop() {
    this.#running = false;
    this.#abort?.abort();
    clearInterval(this.#poll);
    this.#poll = 0;
  }

  #look() {
    clearTimeout(this.#hidden);
    if (document.hidden) {
      this.#hidden = setTimeout(() => {
        this.stop();
        this.onState("resting");
      }, HIDDEN_MS);
    } else if (!this.#running) {
      this.start();
    }
  }

  async #run() {
    while (this.#running) {
      this.#abort = new AbortController();
      await this.#read(this.#abort);
      if (!this.#running) return;
      if (this.#refused) {
        this.stop();
        this.onState("refused");
        return;
      }
      this.onState("reconnecting");
      this.#poll ||= setInterval(this.poll, POLL_MS);
      const wait = RETRY_MS[Math.min(this.#attempt++, RETRY_MS.length - 1)];
      await new Promise((done) => setTimeout(done, wait * (0.75 + Math.random() / 2)));
    }
  }

  /** Until the stream ends, for whatever reason. */
  async #read(abort) {
    const beat = () => {
      clearTimeout(this.#watchdog);
      this.#watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    };
    beat();
    const headers = { Accept: "text/event-stream", ...(this.#last && { "Last-Event-ID": this.#last }) };
    this.#refused = false;
    const onRefusal = (error) => (this.#refused = error.status === 401 || error.status === 403);
    const response = await unbroken(this.api.response(this.path, { headers, signal: abort.signal }), onRefusal);
    if (response) {
      clearInterval(this.#poll);
      this.#poll = 0;
      this.#attempt = 0;
      this.onState("live");
      this.poll(); // what happened before the stream stood
      const parser = new EventParser();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await unbroken(reader.read()); part && !part.done; part = await unbroken(reader.read())) {
        beat();
        for (const event of parser.push(part.value)) {
          if (event.id) this.#last = event.id;
          if (event.event !== "dropped") this.onEvent(JSON.parse(event.data)); // dropped: too slow, the stream ends, the next one goes on
        }
      }
    }
    clearTimeout(this.#watchdog);
  }
}

/** What `promise` brings, or null when the service refused, went away or was given up: all of them mean a broken stream. */
async function unbroken(promise, onRefusal = () => {}) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "ApiError") onRefusal(error);
    if (["ApiError", "AbortError", "TypeError"].includes(error.name)) return null;
    throw error;
  }
}
