// The last sampled trajectories: recordings, question, think text, answer, verdict by component, reference.
// Neighbours: `detail` opens it. Invariants: a recording is fetched with the token and played from memory, when its sample comes into
// view; a sample that stays is left alone, so that live news interrupts nobody's listening.

import { of } from "./api.js";
import { el, setText } from "./dom.js";
import { number } from "./format.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const REREAD_MS = 8000; // at most this often while policy updates come in
const KINDS = { all: () => true, right: (s) => s.score !== null && s.correct, wrong: (s) => s.score !== null && !s.correct, invalid: (s) => s.score === null };

export class Samples {
  #cards = new Map();
  #abort = new AbortController();
  #reread = 0;
  #samples = [];

  constructor(api, experiment) {
    Object.assign(this, { api, id: experiment.id });
    this.note = el("p", { class: "dim", role: "status" }, "Reading the samples…");
    this.kind = el("select", { onchange: () => this.#render() }, ...Object.keys(KINDS).map((kind) => el("option", { value: kind }, kind)));
    this.box = el("div", { class: "samples" });
    this.node = el("section", {}, el("h3", {}, "Last sampled trajectories"), el("div", { class: "fields" }, el("label", {}, "Show ", this.kind)), this.note, this.box);
    this.view = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) this.#listen(target);
    }, { rootMargin: "300px" });
    void this.#load();
  }

  show() {}

  apply(event) {
    if (event.kind === "update" || event.kind === "stage") this.#reread ||= setTimeout(() => void this.#load(), REREAD_MS);
  }

  reread() {
    void this.#load();
  }

  close() {
    this.#abort.abort();
    clearTimeout(this.#reread);
    this.view.disconnect();
    for (const card of this.#cards.values()) drop(card);
    this.#cards.clear();
  }

  async #load() {
    this.#reread = 0;
    try {
      this.#samples = (await this.api.json(of(this.id, "/samples"), { signal: this.#abort.signal })).samples;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.name !== "ApiError") throw error;
      setText(this.note, `The samples can't be shown: ${error.words}`);
      this.note.hidden = false;
      return;
    }
    this.#render();
  }

  /** The newest first. */
  #render() {
    const fitting = this.#samples.filter(KINDS[this.kind.value]).sort((a, b) => b.update - a.update);
    const ids = new Set(fitting.map((sample) => keyOf(sample)));
    for (const [key, card] of this.#cards) {
      if (ids.has(key)) continue;
      drop(card);
      this.#cards.delete(key);
    }
    fitting.forEach((sample, at) => {
      const key = keyOf(sample);
      let card = this.#cards.get(key);
      if (!card) {
        this.#cards.set(key, (card = this.#card(sample)));
        for (const audio of card.querySelectorAll("audio")) this.view.observe(audio);
      }
      if (this.box.children[at] !== card) this.box.insertBefore(card, this.box.children[at] ?? null);
    });
    const none = this.#samples.length ? "None of the samples kept is of this kind." : "No sample yet: the first ones come with the first policy update.";
    setText(this.note, fitting.length ? "" : none);
    this.note.hidden = fitting.length > 0;
  }

  #card(sample) {
    const invalid = sample.score === null;
    const verdict = invalid ? "invalid" : sample.correct ? "right" : "wrong";
    const clips = sample.clips.map(([sha256], at) =>
      el("div", { class: "clip" }, el("audio", { controls: true, preload: "metadata", "data-clip": sha256, "aria-label": `Recording ${at + 1} of ${sample.clips.length}` }), el("span", { class: "clip-note", role: "status" })),
    );
    return el(
      "article",
      { class: "sample", "aria-label": `Sample of policy update ${sample.update}` },
      el("p", { class: "sample-head" }, el("span", { class: `verdict ${verdict}` }, verdict), el("span", {}, `update ${sample.update}${sample.stage ? ` · ${sample.stage}` : ""}`), el("code", {}, sample.id)),
      ...clips,
      el("h4", {}, sample.question),
      sample.choices.length ? el("ol", { class: "choices" }, ...sample.choices.map((choice, at) => this.#choice(sample, choice, at))) : null,
      el("h5", {}, "Think text"),
      el("pre", { class: "think", tabindex: "0" }, sample.reasoning || "(none)"),
      el("dl", { class: "answer" }, pair("Answer", el("strong", { class: verdict }, sample.reply || "(none)")), pair("Reference", sample.answer || "(none)")),
      this.#verdict(sample),
    );
  }

  #choice(sample, choice, at) {
    const reference = choice === sample.answer || LETTERS[at] === sample.answer;
    return el("li", { class: reference ? "reference" : "" }, el("span", { class: "letter" }, `${LETTERS[at] ?? at + 1}.`), ` ${choice}`, reference && el("small", {}, "reference"), choice === sample.reply && el("small", {}, "answered"));
  }

  #verdict(sample) {
    const parts = Object.entries(sample.components);
    return el(
      "table",
      { class: "components" },
      el("caption", {}, "Verdict by component"),
      el("thead", {}, el("tr", {}, ...parts.map(([name]) => el("th", { scope: "col" }, name)), el("th", { scope: "col" }, "reward"))),
      el("tbody", {}, el("tr", {}, ...parts.map(([, value]) => el("td", {}, number(value, 2))), el("td", { class: "sum" }, sample.score === null ? `invalid: ${sample.reason || "no reason given"}` : number(sample.score, 2)))),
    );
  }

  async #listen(audio) {
    this.view.unobserve(audio);
    const note = audio.nextElementSibling;
    try {
      const blob = await this.api.blob(of(this.id, `/audio/${encodeURIComponent(audio.dataset.clip)}`), { signal: this.#abort.signal });
      if (audio.isConnected) audio.src = URL.createObjectURL(blob);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.name !== "ApiError") throw error;
      setText(note, `This recording can't be played: ${error.words}`);
      audio.hidden = true;
    }
  }
}

function keyOf(sample) {
  return JSON.stringify([sample.id, sample.update]);
}

function pair(name, value) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value));
}

/** Off the page, and its recordings out of memory. */
function drop(card) {
  for (const audio of card.querySelectorAll("audio")) {
    audio.pause();
    if (audio.src) URL.revokeObjectURL(audio.src);
  }
  card.remove();
}
