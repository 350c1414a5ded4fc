// What a state means and what its user can do about it.
// Neighbours: `detail` and `actions` show it. Invariant: pure; the rules of who may do what are the service's own, said again here only
// so that nobody is offered a button that will be refused.

const ENDED = ["succeeded", "failed", "cancelled"];
const RESUMABLE = ["paused", "failed", "cancelled"];

/** The deeds that make sense now. me: {name, scopes}. */
export function possible(experiment, me) {
  const mine = me && (me.scopes.includes("admin") || (me.scopes.includes("submit") && me.name === experiment.user));
  if (!mine) return [];
  const { state, wanted } = experiment;
  const deeds = [];
  if (["starting", "running"].includes(state) && !wanted) deeds.push("pause");
  if (RESUMABLE.includes(state)) deeds.push("resume");
  if (!ENDED.includes(state) && wanted !== "cancel") deeds.push("cancel");
  return deeds;
}

/** {kind: "bad" | "note", title, text} for what needs explaining; null where all goes its way. */
export function advice(experiment) {
  const { state, cause, wanted, reason, attempt } = experiment;
  if (state === "failed") return { kind: "bad", title: FAILED[cause]?.title ?? "It failed", reason, text: FAILED[cause]?.text ?? FAILED.run.text };
  if (wanted === "cancel") return note("Cancel was asked for", "Its processes are being ended; that takes up to 20 s.");
  if (wanted === "pause") return note("Pause was asked for", "It stops after the policy update at work, with a checkpoint.");
  if (state === "paused") return note("Paused", "Resume goes on from its checkpoint. It holds no resources meanwhile.", reason);
  if (state === "cancelled") return note("Cancelled", "Resume goes on from its last checkpoint.", reason);
  if (state === "queued" && attempt > 0) return note("Waiting for another attempt", "It is tried again by itself and goes on from its last checkpoint.", reason);
  if (reason && state !== "succeeded") return note("Note", "", reason);
  return null;
}

const FAILED = {
  user: {
    title: "Refused: the input can't be run",
    text: "It is not tried again. Mend what the reason names, then resume with changed keys, or submit anew.",
  },
  run: {
    title: "The run failed",
    text: "It would fail again the same way, so it is not tried again. Look at the driver's log; resume, with changed keys if need be, goes on from the last checkpoint.",
  },
  infrastructure: {
    title: "A process, machine or server was lost",
    text: "It was tried again until its retries were used up. Check the cluster with `mgrd doctor`; resume goes on from the last checkpoint.",
  },
};

function note(title, text, reason = "") {
  return { kind: "note", title, text, reason };
}
