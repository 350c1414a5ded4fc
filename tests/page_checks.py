"""What makes a page usable by everybody, checked in the browser: names, roles, contrast, width, order of headings."""

from __future__ import annotations

import shutil
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--renderer-process-limit=1",
]  # fmt: skip
PATIENCE_MS = 30_000  # of an expectation, on a machine with other work

NAMED = {
    "button", "link", "textbox", "searchbox", "combobox", "checkbox", "slider", "progressbar", "ProgressIndicator", "table", "dialog",
    "image", "Audio", "navigation", "search",
}  # fmt: skip

# Text nodes whose contrast with what is behind them is below WCAG AA: [text, ratio]. Colours are painted, so that any notation counts.
FAINT = """() => {
  const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    pixel.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pixel.fillStyle = colour; pixel.fillRect(0, 0, 1, 1); }
    return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (node) => {
    const found = [];
    for (let at = node; at; at = at.parentElement) found.unshift(getComputedStyle(at).backgroundColor);
    return [matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#fff", ...found];
  };
  const check = (node, style, text) => {
    const under = behind(node);
    const [a, b] = [light(paint(under)), light(paint([...under, style.color]))].sort();
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const ratio = (b + 0.05) / (a + 0.05);
    return ratio < least ? [[text.slice(0, 40), Number(ratio.toFixed(2))]] : [];
  };
  const out = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    const text = texts.currentNode.textContent.trim();
    if (!text || !node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest(":disabled, option, svg, audio, noscript, .unseen, .skip")) continue;
    out.push(...check(node, getComputedStyle(node), text));
  }
  for (const field of document.querySelectorAll("[placeholder]")) {
    if (field.checkVisibility()) out.push(...check(field, getComputedStyle(field, "::placeholder"), field.placeholder));
  }
  return out;
}"""

# Levels of the visible headings, ids that are there twice, buttons smaller than 24 px, how far the page is wider than the window.
FORM = """() => {
  const seen = (node) => node.checkVisibility();
  const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5")].filter(seen).map((node) => Number(node.localName[1]));
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  const small = [...document.querySelectorAll("button, select, input, .parts a")].filter(seen).filter((node) => {
    const { width, height } = node.closest("label.check")?.getBoundingClientRect() ?? node.getBoundingClientRect();
    return width < 24 || height < 21.9;
  });
  return {
    skipped: levels.filter((level, at) => at && level > levels[at - 1] + 1),
    twice: ids.filter((id, at) => ids.indexOf(id) !== at),
    small: small.map((node) => node.outerHTML.slice(0, 80)),
    wider: Math.max(0, document.documentElement.scrollWidth - innerWidth),
    language: document.documentElement.lang,
  };
}"""


class Visits:
    """Pages in fresh contexts of one browser, and everything that went wrong in them or was asked of other hosts."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.contexts: list[BrowserContext] = []
        self.wrong: list[str] = []
        self.asked: list[tuple[str, str]] = []

    def open(self, url: str, **options: Any) -> Page:
        context = self.browser.new_context(
            **{"viewport": {"width": 1400, "height": 900}, "reduced_motion": "reduce", **options}
        )
        context.set_default_timeout(PATIENCE_MS)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append((request.url, url)))
        page.goto(url)
        return page

    def close(self, expected: list[str]) -> None:
        """Fails for any message of the console without one of the `expected` words, and for any request to another host."""
        for context in self.contexts:
            context.close()
        assert [line for line in self.wrong if not any(word in line for word in expected)] == []
        asked = [(url, home) for url, home in self.asked if urlsplit(url).scheme != "blob"]
        assert [
            url for url, home in asked if home != "about:blank" and urlsplit(url).netloc != urlsplit(home).netloc
        ] == []
        assert [url for url, _ in asked if "mgrd_" in urlsplit(url).query] == []  # no token in an address


def problems(page: Page) -> list[Any]:
    """Everything that is wrong with the page as it stands; [] when nothing is."""
    form = page.evaluate(FORM)
    session = page.context.new_cdp_session(page)
    tree = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node["ignored"] and node["role"]["value"] in NAMED and not node.get("name", {}).get("value", "").strip()
    ]
    found: list[Any] = [f"no name: {role}" for role in nameless]
    found += [f"faint: {text!r} {ratio}" for text, ratio in page.evaluate(FAINT)]
    found += [f"heading skips to level {level}" for level in form["skipped"]]
    found += [f"id twice: {id}" for id in form["twice"]]
    found += [f"small: {node}" for node in form["small"]]
    found += [f"{form['wider']} px wider than the window"] if form["wider"] else []
    return found + ([] if form["language"] == "en" else ["no language"])
