// The end of one component's log, followed while it grows.
// Neighbours: `detail` opens it. Invariants: at most LINES lines are in the document; one that scrolled up is not dragged down again;
// a log is text, whatever it holds.

import { of } from "./api.js";
import { el, setText } from "./dom.js";
import { plainLog } from "./format.js";

const TAILS = [200, 1000, 5000];
const LINES = 5000;
const AGAIN_MS = 3000;

export class Logs {
  #abort = new AbortController();
  #again = 0;
  #closed = false;

  constructor(api, experiment) {
    Object.assign(this, { api, id: experiment.id, experiment });
    const restart = () => void this.#read();
    this.component = el("select", { onchange: restart }, el("option", { value: "driver" }, "driver"));
    this.tail = el("select", { onchange: restart }, ...TAILS.map((count) => el("option", { value: count }, `${count} lines`)));
    this.follow = el("input", { type: "checkbox", onchange: restart });
    this.follow.checked = ["running", "starting"].includes(experiment.state);
    this.note = el("p", { class: "dim", role: "status" });
    this.text = el("pre", { class: "log", tabindex: "0", "aria-label": "Log" });
    this.node = el(
      "section",
      {},
      el("h3", {}, "Logs"),
      el("div", { class: "fields" }, el("label", {}, "Component ", this.component), el("label", {}, "Last ", this.tail), el("label", { class: "check" }, this.follow, "Follow")),
      this.note,
      this.text,
    );
    void this.#begin();
  }

  show(experiment) {
    this.experiment = experiment;
  }

  apply(event) {
    if (event.kind === "stage") void this.#components(); // another stage may start other processes
  }

  reread() {}

  close() {
    this.#closed = true;
    this.#abort.abort();
    clearTimeout(this.#again);
  }

  async #begin() {
    await this.#components();
    await this.#read();
  }

  async #components() {
    const found = await this.#answered(this.api.json(of(this.id, "/logs/components")));
    const names = found?.components ?? [];
    if (!names.length || names.join() === [...this.component.options].map((option) => option.value).join()) return;
    const chosen = this.component.value;
    this.component.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    this.component.value = names.includes(chosen) ? chosen : names[0];
  }

  async #read() {
    this.#abort.abort();
    clearTimeout(this.#again);
    if (this.#closed) return;
    const abort = (this.#abort = new AbortController());
    const follow = this.follow.checked;
    const query = new URLSearchParams({ component: this.component.value, tail: this.tail.value, ...(follow && { follow: "true" }) });
    const response = await this.#answered(this.api.response(of(this.id, `/logs?${query}`), { signal: abort.signal }));
    if (!response || abort.signal.aborted) return;
    this.text.replaceChildren();
    setText(this.note, follow ? "Following: new lines appear by themselves." : "");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await this.#answered(reader.read()); part && !part.done; part = await this.#answered(reader.read())) {
      if (abort.signal.aborted) return;
      this.#append(plainLog(part.value));
    }
    if (abort.signal.aborted) return;
    if (!this.text.textContent) setText(this.note, "Nothing has been written to this log yet.");
    if (follow && ["running", "starting", "queued"].includes(this.experiment.state)) this.#again = setTimeout(() => void this.#read(), AGAIN_MS);
  }

  #append(text) {
    const atEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 40;
    this.text.append(text);
    if (this.text.childNodes.length > 400) {
      const lines = this.text.textContent.split("\n");
      this.text.textContent = lines.slice(-LINES).join("\n");
    }
    if (atEnd) this.text.scrollTop = this.text.scrollHeight;
  }

  /** What the service answers, or null after its refusal has been shown. */
  async #answered(promise) {
    try {
      return await promise;
    } catch (error) {
      if (error.name === "AbortError") return null;
      if (error.name !== "ApiError" && error.name !== "TypeError") throw error; // TypeError: cut off in the middle
      setText(this.note, error.name === "ApiError" ? `The log can't be shown: ${error.words}` : "The connection was lost.");
      return null;
    }
  }
}
