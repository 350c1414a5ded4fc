// The experiments this tab knows, kept up to date by events.
// Neighbours: `feed` brings events, `list` and `detail` show. Invariants: what the service says last wins; a burst of events costs one
// request, not one each; a view hears of changes at most every 200 ms.

import { of } from "./api.js";

export const STATES = ["running", "starting", "queued", "paused", "failed", "succeeded", "cancelled"];
const LIVELY = ["running", "starting", "queued", "paused"];
const PAGE = 200;
const OLDER = 1000; // the most that the service hands out at once
const LARGEST = 10_000; // newest ones held; older ones are found by `mgrd ps`
const REFETCH_MS = 400;
const ONE_BY_ONE = 10; // read at once; of more changed experiments, the newest page comes first
const UPDATE_MS = 500; // times the number of running ones: how often one of them is read for its policy updates
const NOTIFY_MS = 200;

export class Experiments {
  #known = new Map();
  #stale = new Set();
  #refetch = 0;
  #notify = 0;
  #changed = new Set();
  #asked = new Map(); // id → when it was last read, ms
  #later = new Map(); // id → timer of its next reading
  #loading = null;

  /** onChange(ids): these are new or different. onProblem(error). */
  constructor(api, { onChange, onProblem }) {
    Object.assign(this, { api, onChange, onProblem, complete: false, cut: false });
  }

  get(id) {
    return this.#known.get(id);
  }

  all() {
    return [...this.#known.values()];
  }

  /** Reads what moves and the newest page; the first time goes on to the older ones in the background. */
  load() {
    this.#loading ??= this.#load().finally(() => {
      this.#loading = null;
    });
    return this.#loading;
  }

  async #load() {
    try {
      const lively = LIVELY.map((state) => `state=${state}`).join("&");
      const [moving, newest] = await Promise.all([this.#page(`${lively}&limit=${PAGE}`), this.#page(`limit=${PAGE}`)]);
      this.#merge([...moving, ...newest]);
      // A run that ended while nobody listened is no longer among the moving ones.
      const moved = new Set(moving.map((experiment) => experiment.id));
      if (moving.length < PAGE) {
        for (const known of this.#known.values()) if (LIVELY.includes(known.state) && !moved.has(known.id)) this.#soon(known.id);
      }
      this.onProblem(null);
      if (!this.complete) await this.#older(newest);
    } catch (error) {
      this.#failed(error);
    }
  }

  async #older(page) {
    let full = page.length === PAGE;
    while (full && this.#known.size < LARGEST) {
      page = await this.#page(`limit=${OLDER}&before=${encodeURIComponent(page.at(-1).id)}`);
      this.#merge(page);
      full = page.length === OLDER;
    }
    this.cut = full;
    this.complete = true;
  }

  async #page(query) {
    return (await this.api.json(`/v1/experiments?${query}`)).experiments;
  }

  /** Takes what an event tells, and asks for the rest. */
  apply(event) {
    const known = this.#known.get(event.experiment);
    const data = event.data ?? {};
    if (known && event.kind === "state" && data.state) this.#merge([{ ...known, state: data.state }]);
    if (known && event.kind === "update" && data.metrics) {
      const { stage = known.progress.stage, update, metrics } = data;
      const progress = { ...known.progress, stage, update, reward: metrics["reward/mean"] ?? null, accuracy: metrics.accuracy ?? null };
      this.#merge([{ ...known, progress }]);
      // The rest, the estimate of what is left above all, is read the less often the more of them run.
      const running = this.all().filter((experiment) => experiment.state === "running").length;
      const wait = (this.#asked.get(known.id) ?? 0) + running * UPDATE_MS - Date.now();
      if (wait > 0) {
        if (!this.#later.has(known.id)) this.#later.set(known.id, setTimeout(() => this.#soon(known.id), wait));
        return;
      }
    }
    this.#soon(event.experiment);
  }

  /** One experiment as the service holds it now. */
  async fetch(id) {
    this.#asked.set(id, Date.now());
    const experiment = await this.api.json(of(id));
    this.#merge([experiment]);
    return experiment;
  }

  take(experiment) {
    this.#merge([experiment]);
  }

  #merge(experiments) {
    for (const experiment of experiments) {
      const known = this.#known.get(experiment.id);
      if (known && JSON.stringify(known) === JSON.stringify(experiment)) continue;
      this.#known.set(experiment.id, experiment);
      this.#changed.add(experiment.id);
    }
    if (this.#changed.size) this.#notify ||= setTimeout(() => this.#tell(), NOTIFY_MS);
  }

  #tell() {
    const changed = this.#changed;
    this.#changed = new Set();
    this.#notify = 0;
    this.onChange(changed);
  }

  #soon(id) {
    clearTimeout(this.#later.get(id));
    this.#later.delete(id);
    this.#stale.add(id);
    this.#refetch ||= setTimeout(() => void this.#refresh(), REFETCH_MS);
  }

  async #refresh() {
    this.#refetch = 0;
    try {
      if (this.#stale.size > ONE_BY_ONE) {
        const newest = await this.#page(`limit=${PAGE}`);
        this.#merge(newest);
        for (const { id } of newest) this.#stale.delete(id);
      }
      const ids = [...this.#stale].slice(0, ONE_BY_ONE);
      for (const id of ids) this.#stale.delete(id);
      await Promise.all(ids.map((id) => this.fetch(id)));
    } catch (error) {
      this.#failed(error);
    }
    if (this.#stale.size) this.#refetch ||= setTimeout(() => void this.#refresh(), REFETCH_MS);
  }

  #failed(error) {
    if (error.name !== "ApiError") throw error;
    this.onProblem(error);
  }
}

/** Those that fit, the liveliest first (pure). filter: {states: Set, user, text}; order: {key, down}. */
export function chosen(experiments, filter, order) {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (experiment) => {
    if (filter.states.size && !filter.states.has(experiment.state)) return false;
    if (filter.user && experiment.user !== filter.user) return false;
    if (!words.length) return true;
    const tags = Object.entries(experiment.tags ?? {}).flatMap(([key, value]) => [`${key}:${value}`, value]);
    const text = [experiment.id, experiment.name, experiment.user, experiment.reason, ...experiment.overrides, ...tags].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const key = KEYS[order.key] ?? KEYS.state;
  const turn = order.down ? -1 : 1;
  return experiments
    .filter(fits)
    .map((experiment) => [key(experiment), experiment])
    .sort(([a, one], [b, two]) => turn * compare(a, b) || two.submitted_at - one.submitted_at || compare(one.id, two.id))
    .map(([, experiment]) => experiment);
}

const PRIORITIES = { high: 0, normal: 1, low: 2 };

export const KEYS = {
  state: (x) => Math.min(STATES.indexOf(x.state), 4), // what has ended stands together, by age
  name: (x) => x.name.toLowerCase(),
  user: (x) => x.user.toLowerCase(),
  priority: (x) => PRIORITIES[x.priority],
  reward: (x) => -(x.progress.reward ?? -Infinity),
  eta: (x) => x.progress.eta_s ?? Infinity,
  submitted: (x) => -x.submitted_at,
};

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
