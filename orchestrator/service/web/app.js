// The page: wires the API, the feed, the model and the views together and follows the address (#/, #/ID, #/ID/logs).
// Neighbours: everything else in this folder; none of it knows this file.

import { Api } from "./api.js";
import { Detail, PARTS } from "./detail.js";
import { askToken } from "./dialogs.js";
import { announce, byId, setAttribute, setText } from "./dom.js";
import { Experiments } from "./experiments.js";
import { Feed } from "./feed.js";
import { List } from "./list.js";

const TITLE = document.title;
const CONNECTION = { live: "live", reconnecting: "reconnecting…", resting: "resting: this tab was hidden", refused: "not connected: no valid token" };

class App {
  #detail = null;
  #me = null;

  constructor() {
    this.api = new Api(askToken);
    this.model = new Experiments(this.api, { onChange: (ids) => this.#changed(ids), onProblem: (error) => this.#problem(error) });
    this.list = new List(this.model);
    this.feed = new Feed(this.api, {
      path: "/v1/events",
      onEvent: (event) => this.#event(event),
      onState: (state) => this.#connection(state),
      poll: () => void this.#reread(),
    });
    addEventListener("hashchange", () => void this.#follow());
    byId("forget").addEventListener("click", () => {
      this.api.forget();
      location.reload();
    });
  }

  async start() {
    await this.#introduce();
    this.feed.start();
    await this.#follow();
  }

  /** Who reads: decides which buttons are offered. */
  async #introduce() {
    try {
      this.#me = await this.api.json("/v1/me");
      if (this.#detail?.opened) this.#detail.show(this.model.get(this.#detail.id));
      setText(byId("who"), `${this.#me.name} (${this.#me.scopes.join(", ")})`);
    } catch (error) {
      if (error.name !== "ApiError") throw error;
      this.#problem(error);
    }
    this.#tokenButton();
  }

  #tokenButton() {
    byId("forget").hidden = !this.api.hasToken && !this.api.declined;
    setText(byId("forget"), this.api.hasToken ? "Forget token" : "Enter token");
  }

  /** Shows what the address names. */
  async #follow() {
    const [id, part] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
    const name = Object.hasOwn(PARTS, part ?? "") ? part : "overview";
    const place = byId("detail");
    if (this.#detail?.id !== id) {
      const back = this.#detail?.id;
      this.#detail?.close();
      this.#detail = id ? new Detail(this.api, id, { me: () => this.#me, onDone: (experiment) => this.model.take(experiment) }) : null;
      place.replaceChildren(...(this.#detail ? [this.#detail.node] : []));
      if (!id && back) document.querySelector(`a.name[href="#/${CSS.escape(encodeURIComponent(back))}"]`)?.focus();
    }
    place.hidden = !id;
    setAttribute(document.body, "class", id ? "with-detail" : null);
    document.title = id ? `${id} – ${TITLE}` : TITLE;
    this.list.choose(id ?? "");
    if (this.#detail) await this.#open(this.#detail, name);
  }

  async #open(detail, name) {
    const isNew = !detail.opened;
    try {
      const experiment = this.model.get(detail.id) ?? (await this.model.fetch(detail.id));
      if (detail !== this.#detail) return; // went elsewhere meanwhile
      detail.opened = name;
      detail.open(name, experiment);
      if (isNew) {
        scrollTo(0, 0);
        detail.title.focus({ preventScroll: true });
      }
    } catch (error) {
      if (error.name !== "ApiError") throw error;
      detail.body.textContent = error.words;
    }
  }

  /** What no event told: before the stream stood, or while there is none. */
  async #reread() {
    if (this.#detail?.opened) this.#detail.reread();
    await this.model.load();
    this.list.render();
  }

  #changed(ids) {
    this.list.render();
    const detail = this.#detail;
    if (!detail || !ids.has(detail.id)) return;
    if (detail.opened) detail.show(this.model.get(detail.id));
    else void this.#follow();
  }

  #event(event) {
    this.model.apply(event);
    if (this.#detail?.opened && event.experiment === this.#detail.id) this.#detail.apply(event);
  }

  #connection(state) {
    const node = byId("connection");
    setAttribute(node, "data-state", state);
    setText(node.firstElementChild, CONNECTION[state]);
    if (state === "live" && !this.#me) void this.#introduce();
    this.#tokenButton();
  }

  /** A problem stays in view until a later request succeeds. */
  #problem(error) {
    const node = byId("problem");
    node.hidden = !error;
    setText(node, error ? `${error.words}.${error.status ? "" : " Trying again; what is shown may be old."}` : "");
    if (error) announce(error.words);
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (error.name !== "URIError") throw error;
    return text;
  }
}

void new App().start();
