// Curves over policy updates, drawn as SVG: one small chart a figure, one cursor for all.
// Neighbours: `overview` feeds them, `scales` has the arithmetic. Invariants: a chart is a slider for the keyboard and for screen
// readers (arrows, Home, End, Page Up/Down read out values); drawn at its real width, so text is never stretched.

import { el, setAttribute, setText, svg } from "./dom.js";
import { UNKNOWN } from "./format.js";
import { frame, nearest, path, scale, smooth, thin, ticks } from "./scales.js";

const HEIGHT = 150;
const EDGE = { left: 46, right: 10, top: 10, bottom: 22 };
const FEW = 12; // fewer points than this are drawn as they are, with dots

/** figures: [{name, title, format(value), of(record)}], each drawn over `record.update`. */
export class Curves {
  #records = [];
  #cursor = null;

  constructor(figures) {
    this.charts = figures.map((figure) => new Chart(figure, (at) => this.#move(at)));
    this.node = el("div", { class: "curves" }, ...this.charts.map((chart) => chart.node));
    this.watch = new ResizeObserver(() => this.#draw());
    this.watch.observe(this.node);
  }

  /** records: ascending by update. */
  show(records) {
    this.#records = records;
    if (this.#cursor !== null && this.#cursor >= records.length) this.#cursor = null;
    this.#draw();
  }

  close() {
    this.watch.disconnect();
  }

  #draw() {
    for (const chart of this.charts) {
      chart.draw(this.#records);
      chart.point(this.#records, this.#cursor);
    }
  }

  #move(cursor) {
    this.#cursor = cursor;
    for (const chart of this.charts) chart.point(this.#records, cursor);
  }
}

class Chart {
  #updates = [];
  #values = [];
  #x = () => 0;
  #y = () => 0;
  #cursor = null;

  constructor(figure, onMove) {
    Object.assign(this, { figure, onMove });
    this.now = el("span", { class: "now" });
    this.drawing = svg("svg", { "aria-hidden": "true", height: HEIGHT });
    this.slider = el("div", { class: "plot", role: "slider", tabindex: "0", "aria-label": `${figure.title} by policy update` }, this.drawing);
    this.node = el("figure", { class: "curve" }, el("figcaption", {}, el("span", { class: "title" }, figure.title), this.now), this.slider);
    this.slider.addEventListener("pointermove", (event) => this.#hover(event));
    this.slider.addEventListener("pointerdown", (event) => this.#hover(event));
    this.slider.addEventListener("pointerleave", () => onMove(null));
    this.slider.addEventListener("keydown", (event) => this.#key(event));
    this.slider.addEventListener("blur", () => onMove(null));
  }

  draw(records) {
    const width = Math.max(160, Math.floor(this.slider.clientWidth));
    this.#updates = records.map((record) => record.update);
    this.#values = records.map((record) => this.figure.of(record) ?? NaN);
    const known = this.#values.some((value) => Number.isFinite(value));
    const bottom = HEIGHT - EDGE.bottom;
    const marks = frame(this.#values, this.figure.least);
    const [first, last] = [this.#updates[0] ?? 0, this.#updates.at(-1) ?? 1];
    this.#x = scale(first, first === last ? first + 1 : last, EDGE.left, width - EDGE.right);
    this.#y = scale(marks[0], marks.at(-1), bottom, EDGE.top);
    this.crosshair = svg("g", { class: "cursor", visibility: "hidden" }, svg("line", { y1: EDGE.top, y2: bottom }), svg("circle", { r: 3.5 }));
    setAttribute(this.drawing, "width", width);
    setAttribute(this.drawing, "viewBox", `0 0 ${width} ${HEIGHT}`);
    this.drawing.replaceChildren(
      ...this.#grid(marks, width),
      ...this.#axis(first, last, width, bottom),
      ...this.#borders(records, bottom),
      ...(known ? this.#lines(width) : [svg("text", { class: "none", x: (EDGE.left + width) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "no values yet")]),
      this.crosshair,
    );
    setAttribute(this.slider, "aria-valuemin", first);
    setAttribute(this.slider, "aria-valuemax", last);
    setAttribute(this.slider, "aria-disabled", known ? null : "true");
  }

  /** Puts the cursor on one record, or with null shows the latest value. */
  point(records, cursor) {
    this.#cursor = cursor;
    const at = cursor ?? this.#values.findLastIndex((value) => Number.isFinite(value));
    const [update, value] = [this.#updates[at], this.#values[at]];
    const told = at < 0 || at === undefined ? UNKNOWN : this.figure.format(value);
    setText(this.now, cursor === null ? told : `${told} at update ${update}`);
    setAttribute(this.slider, "aria-valuenow", update ?? 0);
    setAttribute(this.slider, "aria-valuetext", update === undefined ? "no values yet" : `policy update ${update}: ${told}`);
    const shown = cursor !== null && update !== undefined;
    setAttribute(this.crosshair, "visibility", shown ? "visible" : "hidden");
    if (!shown) return;
    const [line, dot] = this.crosshair.children;
    const x = this.#x(update).toFixed(1);
    setAttribute(line, "x1", x);
    setAttribute(line, "x2", x);
    setAttribute(dot, "cx", x);
    setAttribute(dot, "visibility", Number.isFinite(value) ? "inherit" : "hidden");
    if (Number.isFinite(value)) setAttribute(dot, "cy", this.#y(value).toFixed(1));
  }

  #grid(marks, width) {
    return marks.flatMap((value, at) => {
      const y = this.#y(value).toFixed(1);
      return [
        svg("line", { class: at === 0 ? "base" : "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }),
        svg("text", { x: EDGE.left - 6, y, dy: "0.32em", "text-anchor": "end" }, this.figure.tick(value)),
      ];
    });
  }

  #axis(first, last, width, bottom) {
    const marks = ticks(first, last, Math.max(2, Math.floor(width / 55))).filter(Number.isInteger);
    return marks.map((value) =>
      svg("text", { x: this.#x(value).toFixed(1), y: bottom + 15, "text-anchor": "middle" }, value.toLocaleString("en")),
    );
  }

  /** A line where another stage begins. */
  #borders(records, bottom) {
    const found = [];
    for (let at = 1; at < records.length; at++) {
      if (records[at].stage === records[at - 1].stage) continue;
      const x = ((this.#x(records[at].update) + this.#x(records[at - 1].update)) / 2).toFixed(1);
      found.push(svg("line", { class: "border", x1: x, x2: x, y1: EDGE.top, y2: bottom }));
    }
    return found;
  }

  #lines(width) {
    const place = (values) => (at) => [this.#x(this.#updates[at]), this.#y(values[at])];
    const kept = thin(this.#values, width);
    const raw = kept.map(place(this.#values));
    const count = this.#values.filter((value) => Number.isFinite(value)).length;
    if (count < FEW) {
      const dots = raw.filter(([, y]) => Number.isFinite(y)).map(([cx, cy]) => svg("circle", { class: "dot", cx: cx.toFixed(1), cy: cy.toFixed(1), r: 2.5 }));
      return [svg("path", { class: "line", d: path(raw) }), ...dots];
    }
    const even = smooth(this.#values, 1 - 1 / Math.max(3, count / 15));
    return [svg("path", { class: "raw", d: path(raw) }), svg("path", { class: "line", d: path(kept.map(place(even))) })];
  }

  #hover(event) {
    if (!this.#updates.length) return;
    const { left } = this.drawing.getBoundingClientRect();
    const [from, to] = [this.#x(this.#updates[0]), this.#x(this.#updates.at(-1))];
    const wanted = scale(from, to, this.#updates[0], this.#updates.at(-1))(event.clientX - left);
    this.onMove(nearest(this.#updates, wanted));
  }

  #key(event) {
    const last = this.#updates.length - 1;
    if (last < 0) return;
    const now = this.#cursor ?? last;
    const stride = Math.max(1, Math.round(last / 10));
    const to = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageDown: now - stride, PageUp: now + stride, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.onMove(Math.max(0, Math.min(last, to)));
  }
}
