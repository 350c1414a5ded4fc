// Elements made from data.
// Neighbours: every view builds with these. Invariant: text becomes a text node, an attribute never holds code or style, and a link
// leads to http, https or a place in this page.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes that are null, undefined or false are left out; `onclick` and the like take functions. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name.startsWith("on") || name === "style") throw new TypeError(`${name} takes no text`);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Changes the text only where it differs: a screen reader hears no news where there is none. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets, or with null removes, an attribute, only where it differs. */
export function setAttribute(node, name, value) {
  if (value === null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
}

export function byId(id) {
  return document.getElementById(id);
}

/** The address if it is one that a browser may open from here, else "". */
export function webAddress(text) {
  const url = URL.canParse(text) ? new URL(text) : null;
  return url && (url.protocol === "http:" || url.protocol === "https:") ? url.href : "";
}

/** A link to another site, or its plain text when it is no web address. */
export function outLink(address, text, attributes = {}) {
  const href = webAddress(address);
  return href ? el("a", { href, target: "_blank", rel: "noopener noreferrer", ...attributes }, text) : el("span", {}, text);
}

let announced = 0;

/** Says it to those who don't see the page change. */
export function announce(text) {
  clearTimeout(announced);
  const place = byId("announce");
  place.textContent = "";
  announced = setTimeout(() => setText(place, text), 60); // an emptied region first, or the same words again are not read
}
