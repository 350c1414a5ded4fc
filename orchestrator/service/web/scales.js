// From values to places on a chart.
// Neighbours: `curves` draws with it. Invariant: pure.

/** Round values, at most `most` of them, that span low to high: [0, 0.2, 0.4]. */
export function ticks(low, high, most = 5) {
  if (!(high > low)) return [low];
  const step = stepOf(low, high, most);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(rounded(at * step));
  return found;
}

/** The smallest round step that makes at most `most` marks of it. */
function stepOf(low, high, most) {
  const rough = (high - low) / Math.max(1, most - 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * (1 - 1e-9)) ?? 10 * power;
}

function rounded(value) {
  return Number(value.toPrecision(12));
}

/** Round values whose first and last enclose these values, with room for a line between them; least: height of the narrowest span. */
export function frame(values, least = 0) {
  const known = values.filter((value) => Number.isFinite(value));
  if (!known.length) return [0, 0.5, 1];
  let low = Math.min(...known);
  let high = Math.max(...known);
  if (high - low < least) [low, high] = [low - least / 2, high + least / 2];
  if (high === low) [low, high] = [low - 0.5, high + 0.5];
  const step = stepOf(low, high, 4);
  const [first, last] = [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, at) => rounded((first + at) * step));
}

/** A function from [from, to] to [low, high]. */
export function scale(from, to, low, high) {
  const size = to - from || 1;
  return (value) => low + ((value - from) / size) * (high - low);
}

/** Moving average without a bias towards the first value; gaps stay gaps. weight: of the past, 0 to 1. */
export function smooth(values, weight) {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return NaN;
    sum = sum * weight + value;
    total = total * weight + 1;
    return sum / total;
  });
}

/** Which of n points to draw on `width` pixels so that every peak stays: each bin's first, lowest, highest and last. */
export function thin(values, width) {
  const bins = Math.max(1, Math.floor(width / 2));
  if (values.length <= bins * 4) return values.map((_, at) => at);
  const kept = new Set();
  for (let bin = 0; bin < bins; bin++) {
    const [from, to] = [Math.floor((bin * values.length) / bins), Math.floor(((bin + 1) * values.length) / bins)];
    let [lowest, highest] = [from, from];
    for (let at = from; at < to; at++) {
      if (!(values[at] >= values[lowest])) lowest = at;
      if (!(values[at] <= values[highest])) highest = at;
    }
    for (const at of [from, lowest, highest, to - 1]) kept.add(at);
  }
  return [...kept].sort((a, b) => a - b);
}

/** Path of a line through points; where a value is missing the line is broken. */
export function path(points) {
  let drawn = "";
  let pen = "M";
  for (const [x, y] of points) {
    if (!Number.isFinite(y)) {
      pen = "M";
      continue;
    }
    drawn += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  }
  return drawn;
}

/** Index of the number nearest to `wanted` in an ascending list. */
export function nearest(ascending, wanted) {
  let [low, high] = [0, ascending.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low > 0 && wanted - ascending[low - 1] <= ascending[low] - wanted ? low - 1 : low;
}
