// The configuration an experiment resolved to, flat, with a search; what was submitted is marked.
// Neighbours: `detail` opens it. Invariant: the service's own keys and values, shown as text.

import { of } from "./api.js";
import { announce, el, setText } from "./dom.js";

export class Settings {
  #rows = [];
  #abort = new AbortController();

  constructor(api, experiment) {
    Object.assign(this, { api, id: experiment.id, overrides: experiment.overrides });
    this.search = el("input", { type: "search", placeholder: "part of a key or value", autocomplete: "off", spellcheck: "false", oninput: () => this.#filter() });
    this.mine = el("input", { type: "checkbox", onchange: () => this.#filter() });
    this.count = el("p", { class: "dim", role: "status" }, "Reading the configuration…");
    this.body = el("tbody");
    this.node = el(
      "section",
      {},
      el("h3", {}, "Configuration"),
      el("p", { class: "overrides" }, "Submitted as ", ...experiment.overrides.flatMap((text) => [el("code", {}, text), " "])),
      el("div", { class: "fields" }, el("label", { class: "grow" }, "Search ", this.search), el("label", { class: "check" }, this.mine, "Only what was submitted")),
      this.count,
      el("div", { class: "table-box" }, el("table", { class: "plain config", "aria-label": "Configuration" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Key"), el("th", { scope: "col" }, "Value"))), this.body)),
    );
    void this.#load();
  }

  show() {}

  apply() {}

  reread() {}

  close() {
    this.#abort.abort();
  }

  async #load() {
    try {
      const { flat } = await this.api.json(of(this.id, "/config"), { signal: this.#abort.signal });
      const mine = new Set(this.overrides.map((text) => text.replace(/^[+~]*/, "").split("=")[0]));
      this.#rows = Object.entries(flat).map(([key, value]) => {
        const text = typeof value === "string" ? value : JSON.stringify(value);
        const node = el("tr", { class: mine.has(key) ? "mine" : "" }, el("th", { scope: "row" }, key, mine.has(key) && el("small", {}, "submitted")), el("td", {}, text));
        return { words: `${key} ${text}`.toLowerCase(), mine: mine.has(key), node };
      });
      this.body.replaceChildren(...this.#rows.map((row) => row.node));
      this.#filter();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.name !== "ApiError") throw error;
      setText(this.count, `The configuration can't be shown: ${error.words}`);
      announce(this.count.textContent);
    }
  }

  #filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of this.#rows) {
      row.node.hidden = !(words.every((word) => row.words.includes(word)) && (row.mine || !this.mine.checked));
      if (!row.node.hidden) shown += 1;
    }
    setText(this.count, `${shown} of ${this.#rows.length} keys`);
  }
}
