// One experiment: who, where it is, what it needs from its user, and four parts to look into.
// Neighbours: `app` opens and closes it, `overview`, `samples`, `logs`, `settings` are the parts. Invariants: one part is alive at a
// time; one that was left stops reading; what changes while one looks is changed in place.

import { Actions } from "./actions.js";
import { advice } from "./advice.js";
import { announce, el, outLink, setAttribute, setText } from "./dom.js";
import { duration, number, time, whole } from "./format.js";
import { Logs } from "./logs.js";
import { Overview } from "./overview.js";
import { Samples } from "./samples.js";
import { Settings } from "./settings.js";

export const PARTS = { overview: [Overview, "Overview"], samples: [Samples, "Samples"], logs: [Logs, "Logs"], config: [Settings, "Configuration"] };

export class Detail {
  #part = null;
  #partName = "";
  #state = "";

  /** me(): who reads, or null while that is not known. */
  constructor(api, id, { me, onDone }) {
    Object.assign(this, { api, id, me });
    this.actions = new Actions(api, { onDone });
    this.title = el("h2", { id: "detail-title", tabindex: "-1" }, id);
    this.badge = el("span", { class: "badge" }, el("span", { class: "mark", "aria-hidden": "true" }), el("span"));
    this.facts = el("dl", { class: "facts" });
    this.notice = el("div", { class: "notice", hidden: true });
    const link = (name) => el("a", { href: `#/${encodeURIComponent(id)}${name === "overview" ? "" : `/${name}`}` }, PARTS[name][1]);
    this.links = Object.fromEntries(Object.keys(PARTS).map((name) => [name, link(name)]));
    this.body = el("div", { class: "part" });
    this.node = el(
      "article",
      {},
      el("p", { class: "back" }, el("a", { href: "#/" }, "← All experiments")),
      el("header", { class: "detail-head" }, el("div", { class: "titles" }, this.title, this.badge), this.actions.node),
      this.facts,
      this.notice,
      el("nav", { class: "parts", "aria-label": "Parts" }, ...Object.values(this.links)),
      this.body,
    );
  }

  /** Opens a part; the same one again goes on as it is. */
  open(name, experiment) {
    if (name !== this.#partName) {
      this.#part?.close();
      for (const [known, link] of Object.entries(this.links)) setAttribute(link, "aria-current", known === name ? "page" : null);
      const [Part] = PARTS[name];
      this.#part = new Part(this.api, experiment);
      this.#partName = name;
      this.body.replaceChildren(this.#part.node);
    }
    this.show(experiment);
  }

  show(experiment) {
    const { state } = experiment;
    if (this.#state && this.#state !== state) announce(`${this.id} is now ${state}`);
    this.#state = state;
    setText(this.title, experiment.name || this.id);
    setAttribute(this.badge, "class", `badge ${state}`);
    setText(this.badge.lastChild, state);
    this.actions.show(experiment, this.me());
    this.#showFacts(experiment);
    this.#showNotice(advice(experiment), experiment);
    this.#part.show(experiment);
  }

  /** Reads again what only events keep up to date. */
  reread() {
    this.#part?.reread();
  }

  /** An event of this experiment. */
  apply(event) {
    this.#part?.apply(event);
  }

  close() {
    this.#part?.close();
  }

  #showFacts(experiment) {
    const { demand, retries, tags } = experiment;
    const sum = (key) => demand.bundles.reduce((total, bundle) => total + bundle[key], 0);
    const retried = Object.entries(retries ?? {}).map(([cause, count]) => `${count} × ${cause}`).join(", ");
    const until = experiment.ended_at || Date.now() / 1000;
    const facts = [
      ["Id", el("code", {}, this.id)],
      ["User", experiment.user],
      ["Priority", experiment.priority],
      ["Submitted", time(experiment.submitted_at)],
      experiment.started_at && ["Started", time(experiment.started_at)],
      experiment.ended_at ? ["Ended", `${time(experiment.ended_at)}${experiment.started_at ? `, after ${duration(until - experiment.started_at)}` : ""}`] : null,
      ["Attempt", `${experiment.attempt}${retried ? ` (tried again: ${retried})` : ""}`],
      [["starting", "running"].includes(experiment.state) ? "Holds" : "Needs", `${number(sum("cpus"), 0)} cores${sum("gpus") ? `, ${number(sum("gpus"), 0)} GPUs` : ""}${sum("memory_gib") ? `, ${number(sum("memory_gib"), 0)} GiB` : ""} in ${whole(demand.bundles.length)} processes`],
      experiment.parent && ["Sweep", el("code", {}, experiment.parent)],
      experiment.cloned_from && ["Cloned from", el("a", { href: `#/${encodeURIComponent(experiment.cloned_from)}` }, experiment.cloned_from)],
      Object.keys(tags ?? {}).length && ["Tags", Object.entries(tags).map(([key, value]) => (value ? `${key}: ${value}` : key)).join(", ")],
      experiment.mlflow_url && ["MLflow", outLink(experiment.mlflow_url, experiment.mlflow_run ? `run ${experiment.mlflow_run.slice(0, 8)}` : "open")],
      experiment.run_dir && ["Files", el("code", {}, experiment.run_dir)],
    ].filter(Boolean);
    const text = JSON.stringify(facts.map(([name, value]) => [name, value instanceof Node ? value.outerHTML : value]));
    if (text === this.factsShown) return; // what somebody is selecting stays selected
    this.factsShown = text;
    this.facts.replaceChildren(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }

  #showNotice(said, experiment) {
    this.notice.hidden = !said;
    const key = JSON.stringify([said, experiment.not_before]);
    if (!said || key === this.noticeShown) return;
    this.noticeShown = key;
    setAttribute(this.notice, "class", `notice ${said.kind}`);
    const later = experiment.state === "queued" && experiment.not_before * 1000 > Date.now() ? ` Not before ${time(experiment.not_before)}.` : "";
    this.notice.replaceChildren(
      el("h3", {}, said.title),
      ...(said.reason ? [el("pre", { class: "reason" }, said.reason)] : []),
      el("p", {}, `${said.text}${later}`, said.kind === "bad" && [" ", el("a", { href: `#/${encodeURIComponent(this.id)}/logs` }, "Open its logs")]),
    );
  }
}
