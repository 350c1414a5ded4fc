// Questions to the reader: the token, and "are you sure".
// Neighbours: `api` asks for the token, `actions` for consent. Invariants: native modal dialogs, so focus is held and Esc is a no; the
// first focus is on what changes nothing; the token's field is emptied when the dialog closes.

import { byId, setText } from "./dom.js";

/** The token typed in, or "" when the reader does not want to give one now. */
export function askToken(problem) {
  const dialog = byId("token-dialog");
  const field = byId("token");
  setText(byId("token-problem"), problem ? `Not accepted: ${problem}` : "");
  return new Promise((resolve) => {
    open(dialog, async () => field.value.trim(), (token) => {
      field.value = "";
      resolve(token ?? "");
    });
    field.focus();
  });
}

/**
 * Asks before something is done, and does it while the dialog is open, so that a refusal is read where it was asked for.
 * question: {title, text, yes, no, dangerous, overrides}; deed(overrides): a promise. Resolves to its result, or null for no.
 */
export function confirmed(question, deed) {
  const dialog = byId("ask-dialog");
  const [yes, no, problem, overrides] = ["ask-yes", "ask-no", "ask-problem", "ask-overrides"].map(byId);
  setText(byId("ask-title"), question.title);
  setText(byId("ask-text"), question.text);
  setText(yes, question.yes);
  setText(no, question.no);
  setText(problem, "");
  yes.className = question.dangerous ? "danger" : "main";
  byId("ask-more").hidden = !question.overrides;
  overrides.value = "";
  return new Promise((resolve) => {
    const lines = () => overrides.value.split("\n").map((line) => line.trim()).filter(Boolean);
    open(dialog, () => deed(lines()), (result) => resolve(result ?? null), problem);
    no.focus();
  });
}

function open(dialog, deed, closed, problem = null) {
  const form = dialog.querySelector("form");
  const button = form.querySelector("button[type=submit]");
  let result;
  const ends = new AbortController();
  const { signal } = ends;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      result = await deed();
      dialog.close();
    } catch (error) {
      if (error.name !== "ApiError" || !problem) throw error;
      setText(problem, error.words);
    } finally {
      button.disabled = false;
    }
  }, { signal });
  form.querySelector("button[value=close]").addEventListener("click", () => dialog.close(), { signal });
  dialog.addEventListener("close", () => {
    ends.abort();
    closed(result);
  }, { signal });
  dialog.showModal();
}
