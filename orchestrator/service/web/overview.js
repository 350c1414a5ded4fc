// How far an experiment is: progress, stages, curves over its policy updates, the same as a table.
// Neighbours: `detail` opens it, `curves` draws. Invariants: each policy update counts once, by its number; the list that was read is the
// truth, events add what is newer.

import { of } from "./api.js";
import { Curves } from "./curves.js";
import { el, setAttribute, setText } from "./dom.js";
import { UNKNOWN, duration, number, percent, share, whole } from "./format.js";

const FIGURES = [
  { name: "reward", title: "Reward", names: ["reward/mean", "reward"], format: (value) => number(value), least: 0.02 },
  { name: "accuracy", title: "Accuracy", names: ["accuracy"], format: percent, least: 0.02, share: true },
  { name: "think", title: "Think length (tokens)", names: ["think/tokens", "think_tokens"], format: (value) => number(value, 1), least: 1 },
  { name: "perceptions", title: "True perceptions", names: ["think/true_perceptions", "true_perceptions"], format: percent, least: 0.02, share: true },
].map((figure) => ({
  ...figure,
  tick: (value) => (figure.share ? `${Number((100 * value).toPrecision(4))} %` : value.toLocaleString("en", { maximumFractionDigits: 4 })),
  of: (record) => figure.names.map((name) => (record.metrics ?? record)[name]).find((value) => typeof value === "number"),
}));
const TABLE_ROWS = 200; // the latest; all of them are in MLflow

export class Overview {
  #records = new Map();
  #drawn = 0;
  #abort = new AbortController();

  constructor(api, experiment) {
    Object.assign(this, { api, id: experiment.id, experiment });
    this.bar = el("progress", { max: 1, "aria-labelledby": "progress-title" });
    this.done = el("span", { class: "share" });
    this.tiles = el("dl", { class: "tiles" });
    this.stages = el("ol", { class: "stages" });
    this.stagesBox = el("section", { hidden: true }, el("h3", {}, "Stages"), this.stages);
    this.curves = new Curves(FIGURES);
    this.note = el("p", { class: "dim" }, "Reading the policy updates…");
    this.table = el("tbody");
    this.details = el("details", { class: "as-table", ontoggle: () => this.#fillTable() }, el("summary", {}, "The same as a table"), el("div", { class: "table-box" }, this.#makeTable()));
    this.node = el(
      "div",
      {},
      el("section", {}, el("h3", { id: "progress-title" }, "Progress"), el("div", { class: "overall" }, this.bar, this.done), this.tiles),
      this.stagesBox,
      el("section", {}, el("h3", {}, "Policy updates"), this.note, this.curves.node, this.details),
    );
    void this.#load();
  }

  show(experiment) {
    this.experiment = experiment;
    const { progress, state } = experiment;
    const done = share(experiment);
    setAttribute(this.bar, "value", done ?? 0);
    setAttribute(this.bar, "class", state);
    setText(this.done, done === null ? "" : percent(done));
    const running = ["running", "starting"].includes(state);
    const tiles = [
      ["Stage", progress.stage || UNKNOWN, progress.stages_total ? `${progress.stages_done} of ${progress.stages_total} done` : ""],
      ["Policy updates", whole(progress.update), progress.updates_total ? `of ${whole(progress.updates_total)}` : ""],
      ["Reward", number(progress.reward), "last policy update"],
      ["Accuracy", percent(progress.accuracy), "last policy update"],
      ["ETA", running ? duration(progress.eta_s) : UNKNOWN, running ? "left, estimated" : ""],
      ["Sampled", progress.tokens_per_s === null ? UNKNOWN : `${whole(progress.tokens_per_s)} tok/s`, ""],
      ["Invalid verdicts", percent(progress.invalid_share), ""],
      ["Scoring time", duration(progress.reward_p95_s), "95th percentile"],
    ];
    if (!this.tiles.children.length) {
      this.tiles.append(...tiles.map(([name]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("span"), el("small")))));
    }
    tiles.forEach(([, value, more], at) => {
      const [big, small] = this.tiles.children[at].lastChild.children;
      setText(big, value);
      setText(small, more);
    });
    this.#showStages();
  }

  apply(event) {
    if (event.kind === "update") this.#take(event.data);
  }

  reread() {
    void this.#load();
  }

  close() {
    this.#abort.abort();
    this.curves.close();
    clearTimeout(this.#drawn);
  }

  async #load() {
    try {
      const { updates } = await this.api.json(of(this.id, "/updates"), { signal: this.#abort.signal });
      const last = updates.at(-1)?.update ?? -1;
      const newer = [...this.#records.values()].filter((record) => record.update > last); // told while it was read
      this.#records = new Map([...updates, ...newer].map((record) => [record.update, record]));
      this.#drawn ||= setTimeout(() => this.#draw(), 0);
      if (!updates.length) setText(this.note, "No policy update yet.");
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.name !== "ApiError") throw error;
      setText(this.note, `The policy updates can't be shown: ${error.words}`);
    }
  }

  #take(record) {
    if (typeof record.update !== "number") return;
    // A run that went back to a checkpoint makes later updates anew.
    for (const known of this.#records.keys()) if (known > record.update) this.#records.delete(known);
    this.#records.set(record.update, record);
    this.#drawn ||= setTimeout(() => this.#draw(), 250);
  }

  #draw() {
    this.#drawn = 0;
    const records = this.#ascending();
    if (records.length) setText(this.note, records.length < 12 ? "" : "Over policy updates. Thin: each one; thick: moving average; dashed: another stage begins.");
    this.note.hidden = !this.note.textContent;
    this.curves.show(records);
    this.#fillTable();
    this.#showStages();
  }

  #ascending() {
    return [...this.#records.values()].sort((a, b) => a.update - b.update);
  }

  /** The plan, as far as it is told, with the policy updates of each stage; what is done, at work, to come. */
  #showStages() {
    const { progress, state } = this.experiment;
    const spans = new Map((progress.plan ?? []).map((name) => [name, null]));
    for (const { stage, update } of this.#ascending()) {
      if (stage) spans.set(stage, [spans.get(stage)?.[0] ?? update, update]);
    }
    if (progress.stage && !spans.has(progress.stage) && !progress.plan?.length) spans.set(progress.stage, null);
    const done = state === "succeeded" ? spans.size : progress.stages_done;
    const live = ["running", "starting"].includes(state) ? progress.stage : "";
    const rows = [...spans].map(([name, updates], at) => {
      const where = name === live ? "at work" : !progress.plan?.length ? "" : at < done ? "done" : "to come";
      return [name, updates ? `updates ${updates[0]}–${updates[1]}` : "", where];
    });
    const text = JSON.stringify(rows);
    if (text === this.stagesShown) return;
    this.stagesShown = text;
    this.stagesBox.hidden = rows.length === 0;
    this.stages.replaceChildren(
      ...rows.map(([name, updates, where]) =>
        el("li", { class: where.replace(" ", "-"), "aria-current": where === "at work" ? "step" : null }, el("strong", {}, name), ...[where, updates].filter(Boolean).map((words) => el("small", {}, words))),
      ),
    );
  }

  #makeTable() {
    const heads = ["Update", "Stage", ...FIGURES.map((figure) => figure.title)];
    return el("table", { class: "plain" }, el("caption", {}, `Latest first, at most ${TABLE_ROWS} policy updates`), el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), this.table);
  }

  #fillTable() {
    if (!this.details.open) return;
    const rows = this.#ascending().slice(-TABLE_ROWS).reverse();
    this.table.replaceChildren(
      ...rows.map((record) =>
        el("tr", {}, el("th", { scope: "row" }, whole(record.update)), el("td", {}, record.stage ?? ""), ...FIGURES.map((figure) => el("td", { class: "number" }, figure.format(figure.of(record))))),
      ),
    );
  }
}
