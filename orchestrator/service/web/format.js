// Numbers, times and names as people read them.
// Neighbours: all views. Invariant: pure; what is not known is a dash.

export const UNKNOWN = "–";

/** 0.53187 → 0.532; 1234.5 → 1,235; null → a dash. */
export function number(value, digits = 3) {
  if (typeof value !== "number" || !Number.isFinite(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size !== 0 && (size < 10 ** -digits || size >= 1e9)) return value.toExponential(2);
  return value.toLocaleString("en", size >= 100 ? { maximumFractionDigits: 0 } : { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function whole(value) {
  return typeof value === "number" && Number.isFinite(value) ? Math.round(value).toLocaleString("en") : UNKNOWN;
}

/** 0.531 → 53.1 %. */
export function percent(value) {
  return typeof value === "number" && Number.isFinite(value) ? `${(100 * value).toFixed(1)} %` : UNKNOWN;
}

/** Seconds in the two largest units: 3 h 20 min. */
export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds) || seconds < 0) return UNKNOWN;
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const left = seconds < 60 ? Math.round(seconds) : Math.round(seconds / (seconds < 3600 ? 1 : 60)) * (seconds < 3600 ? 1 : 60);
  const first = units.findIndex(([size]) => left >= size);
  const [size, unit] = units[first];
  const rest = units[first + 1] ? Math.floor((left % size) / units[first + 1][0]) : 0;
  return `${Math.floor(left / size)} ${unit}${rest ? ` ${rest} ${units[first + 1][1]}` : ""}`;
}

/** Seconds since 1970 as the reader's own date and time. */
export function time(at) {
  return at ? new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : UNKNOWN;
}

/** Whole-run share done, 0 to 1; null where nothing says how much there is. */
export function share(experiment) {
  const { state, progress } = experiment;
  if (state === "succeeded") return 1;
  if (progress.updates_total > 0) return Math.min(1, progress.update / progress.updates_total);
  if (progress.stages_total > 0) return Math.min(1, progress.stages_done / progress.stages_total);
  return null;
}

/** Where a run is, in words short enough for a row. */
export function whereabouts(experiment) {
  const { progress, reason, state } = experiment;
  if (reason && ["failed", "queued"].includes(state)) return reason;
  const parts = [];
  if (progress.stage && state !== "succeeded") parts.push(progress.stage);
  if (progress.updates_total) parts.push(`${whole(progress.update)} / ${whole(progress.updates_total)}`);
  else if (progress.stages_total) parts.push(`stage ${progress.stages_done} / ${progress.stages_total}`);
  return parts.join(" · ");
}

const ESCAPES = /\u001b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\))/g;

/** A log without the escape sequences that colour a terminal. */
export function plainLog(text) {
  return text.replace(ESCAPES, "");
}
