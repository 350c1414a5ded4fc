// Cancel, pause, resume: the buttons, the questions, the requests.
// Neighbours: `advice` says which make sense, `dialogs` asks. Invariant: nothing is done without a yes.

import { of } from "./api.js";
import { possible } from "./advice.js";
import { confirmed } from "./dialogs.js";
import { announce, el, setAttribute } from "./dom.js";

const QUESTIONS = {
  cancel: (id) => ({
    title: "Cancel this experiment?",
    text: `${id} gives back everything it holds within 20 s. What it logged and its checkpoints stay; it can be resumed.`,
    yes: "Cancel experiment",
    no: "Keep it",
    dangerous: true,
  }),
  pause: (id) => ({
    title: "Pause this experiment?",
    text: `${id} stops after the policy update at work, writes a checkpoint and gives back its resources.`,
    yes: "Pause",
    no: "Keep it running",
  }),
  resume: (id) => ({
    title: "Resume this experiment?",
    text: `${id} goes back to the queue and continues from its last checkpoint.`,
    yes: "Resume",
    no: "Leave it",
    overrides: true,
  }),
};
const LABELS = { cancel: "Cancel…", pause: "Pause…", resume: "Resume…" };

/** A row of buttons that follows the experiment. */
export class Actions {
  constructor(api, { onDone }) {
    Object.assign(this, { api, onDone, experiment: null });
    this.buttons = Object.fromEntries(
      Object.keys(LABELS).map((deed) => [
        deed,
        el("button", { type: "button", class: deed === "cancel" ? "danger" : "", onclick: () => void this.#ask(deed) }, LABELS[deed]),
      ]),
    );
    this.node = el("div", { class: "buttons", role: "group", "aria-label": "Change this experiment" }, ...["pause", "resume", "cancel"].map((d) => this.buttons[d]));
  }

  show(experiment, me) {
    this.experiment = experiment;
    const offered = possible(experiment, me);
    const focused = document.activeElement;
    for (const [deed, button] of Object.entries(this.buttons)) {
      setAttribute(button, "aria-label", `${LABELS[deed].slice(0, -1)} ${experiment.id}`);
      button.hidden = !offered.includes(deed);
    }
    if (focused instanceof HTMLElement && focused.hidden && this.node.contains(focused)) {
      (Object.values(this.buttons).find((button) => !button.hidden) ?? document.getElementById("main")).focus();
    }
    this.node.hidden = offered.length === 0;
  }

  async #ask(deed) {
    const { id } = this.experiment;
    const answer = await confirmed(QUESTIONS[deed](id), (overrides) =>
      this.api.post(of(id, `:${deed}`), deed === "resume" && overrides.length ? { overrides } : {}),
    );
    if (!answer) return;
    announce(`${id}: ${deed} asked for; it is ${answer.state}`);
    this.onDone(answer);
  }
}
