// The table of the queue and the runs: filters, order, pages.
// Neighbours: `experiments` holds the data and chooses, `app` says when it changed. Invariants: at most one page of rows is in the
// document, however many experiments there are; a row that stays is changed in place, so focus and selection survive live updates.

import { byId, el, outLink, setAttribute, setText } from "./dom.js";
import { STATES, chosen } from "./experiments.js";
import { UNKNOWN, duration, number, share, time, whereabouts } from "./format.js";

const ROWS = 50;
const COLUMNS = [
  ["state", "State"],
  ["name", "Experiment"],
  ["user", "User"],
  ["priority", "Priority"],
  [null, "Progress"],
  ["reward", "Reward", "number"],
  ["eta", "ETA", "number"],
  ["submitted", "Submitted"],
  [null, "MLflow"],
];

export class List {
  #page = 0;
  #filter = { states: new Set(), user: "", text: "" };
  #order = { key: "state", down: false };
  #rows = new Map();
  #chips = new Map();
  #heads = new Map();
  #chosen = "";
  #typed = 0;

  constructor(model) {
    this.model = model;
    this.#makeChips();
    this.#makeHeads();
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("user").addEventListener("change", (event) => this.#narrow({ user: event.target.value }));
    byId("text").addEventListener("input", (event) => {
      clearTimeout(this.#typed);
      this.#typed = setTimeout(() => this.#narrow({ text: event.target.value }), 120);
    });
    byId("earlier").addEventListener("click", () => this.#turn(-1));
    byId("later").addEventListener("click", () => this.#turn(1));
  }

  /** Marks the row whose detail is open. */
  choose(id) {
    this.#chosen = id;
    for (const [known, row] of this.#rows) setAttribute(row.node, "aria-current", known === id ? "true" : null);
  }

  render() {
    const all = this.model.all();
    this.#renderFilters(all);
    const fitting = chosen(all, this.#filter, this.#order);
    this.#page = Math.max(0, Math.min(this.#page, Math.ceil(fitting.length / ROWS) - 1));
    const first = this.#page * ROWS;
    this.#renderRows(fitting.slice(first, first + ROWS));
    this.#renderPages(fitting.length, all.length, first);
  }

  #narrow(change) {
    Object.assign(this.#filter, change);
    this.#page = 0;
    this.render();
  }

  #turn(by) {
    this.#page += by;
    this.render();
    byId("list").scrollIntoView({ block: "start" });
  }

  #makeChips() {
    for (const state of STATES) {
      const count = el("span", { class: "count" }, "0");
      const chip = el("button", { type: "button", class: `chip ${state}`, "aria-pressed": "false" }, el("span", { class: "mark", "aria-hidden": "true" }), state, " ", count);
      chip.addEventListener("click", () => {
        const { states } = this.#filter;
        if (!states.delete(state)) states.add(state);
        setAttribute(chip, "aria-pressed", states.has(state));
        this.#narrow({});
      });
      this.#chips.set(state, count);
      byId("states").append(chip);
    }
  }

  #makeHeads() {
    for (const [key, title, kind] of COLUMNS) {
      const head = el("th", { scope: "col", role: "columnheader", class: kind });
      if (key) {
        head.append(el("button", { type: "button", class: "sort", onclick: () => this.#sort(key) }, title));
        this.#heads.set(key, head);
      } else {
        head.append(title);
      }
      byId("heads").append(head);
    }
    this.#markOrder();
  }

  #sort(key) {
    this.#order = { key, down: this.#order.key === key && !this.#order.down };
    this.#page = 0;
    this.#markOrder();
    this.render();
  }

  #markOrder() {
    for (const [key, head] of this.#heads) {
      setAttribute(head, "aria-sort", key !== this.#order.key ? null : this.#order.down ? "descending" : "ascending");
    }
  }

  #renderFilters(all) {
    const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
    const users = new Set();
    for (const experiment of all) {
      counts[experiment.state] += 1;
      users.add(experiment.user);
    }
    for (const [state, node] of this.#chips) setText(node, counts[state].toLocaleString("en"));
    const select = byId("user");
    const names = ["", ...[...users].filter(Boolean).sort()];
    if (names.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
      select.replaceChildren(...names.map((name) => el("option", { value: name }, name || "everybody")));
      select.value = this.#filter.user;
    }
  }

  #renderRows(experiments) {
    const body = byId("rows");
    const wanted = new Set(experiments.map((experiment) => experiment.id));
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      row.node.remove();
      this.#rows.delete(id);
    }
    experiments.forEach((experiment, at) => {
      let row = this.#rows.get(experiment.id);
      if (!row) this.#rows.set(experiment.id, (row = new Row(experiment.id)));
      row.show(experiment);
      if (body.children[at] !== row.node) body.insertBefore(row.node, body.children[at] ?? null);
    });
    this.choose(this.#chosen);
  }

  #renderPages(fitting, all, first) {
    const last = Math.min(first + ROWS, fitting);
    const cut = this.model.cut ? " (the newest; older ones: mgrd ps)" : "";
    setText(byId("range"), fitting ? `${first + 1}–${last} of ${fitting.toLocaleString("en")}${cut}` : "");
    byId("earlier").disabled = first === 0;
    byId("later").disabled = last >= fitting;
    byId("earlier").hidden = byId("later").hidden = fitting <= ROWS;
    const empty = byId("empty");
    empty.hidden = fitting > 0 || !this.model.complete;
    setText(empty, all ? "No experiment fits the filters." : "No experiment yet. The first one: mgrd submit experiment=demo");
  }
}

/** One row. Its cells are made once and changed in place. */
class Row {
  constructor(id) {
    this.badge = el("span", { class: "badge" }, el("span", { class: "mark", "aria-hidden": "true" }), el("span"));
    this.link = el("a", { href: `#/${encodeURIComponent(id)}`, class: "name" });
    this.id = el("span", { class: "id" }, id);
    [this.user, this.priority, this.reward, this.eta, this.submitted, this.mlflow] = Array.from({ length: 6 }, () => el("span"));
    this.bar = el("progress", { max: 1, "aria-label": `Progress of ${id}` });
    this.where = el("span", { class: "where" });
    this.node = el(
      "tr",
      { role: "row" },
      cell("state", this.badge),
      el("th", { role: "rowheader", scope: "row", class: "c-name" }, this.link, this.id),
      cell("user", this.user),
      cell("priority", this.priority),
      cell("progress", this.bar, this.where),
      cell("reward number", this.reward),
      cell("eta number", this.eta),
      cell("submitted", this.submitted),
      cell("mlflow", this.mlflow),
    );
    this.shown = "";
  }

  show(experiment) {
    const text = JSON.stringify(experiment);
    if (text === this.shown) return;
    this.shown = text;
    const { state, progress } = experiment;
    setAttribute(this.badge, "class", `badge ${state}`);
    setText(this.badge.lastChild, experiment.wanted ? `${state}, to ${experiment.wanted}` : state);
    setText(this.link, experiment.name || experiment.id);
    this.id.hidden = this.link.textContent === experiment.id;
    setText(this.user, experiment.user);
    setText(this.priority, experiment.priority);
    setAttribute(this.priority, "class", `priority ${experiment.priority}`);
    const done = share(experiment);
    setAttribute(this.bar, "value", done ?? 0);
    setAttribute(this.bar, "class", state);
    setText(this.where, whereabouts(experiment));
    this.bar.hidden = state === "queued" && !done;
    const eta = ["running", "starting"].includes(state) ? duration(progress.eta_s) : UNKNOWN;
    for (const [node, value] of [[this.reward, number(progress.reward)], [this.eta, eta]]) {
      setText(node, value);
      setAttribute(node, "class", value === UNKNOWN ? "unknown" : "known");
    }
    setText(this.submitted, time(experiment.submitted_at));
    const link = experiment.mlflow_url ? outLink(experiment.mlflow_url, "run", { "aria-label": `MLflow run of ${experiment.id}` }) : UNKNOWN;
    this.mlflow.replaceChildren(link);
  }
}

function cell(kind, ...children) {
  return el("td", { role: "cell", class: kind.split(" ").map((name, at) => (at ? name : `c-${name}`)).join(" ") }, ...children);
}
