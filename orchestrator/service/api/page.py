"""The page people watch the service on: `/` and its files under `/assets/`.

Neighbours: `service.web` holds the files, the app includes `page_router()`. Invariants: nothing outside that folder is ever served;
the page may load from its own server only, run no inline script and write no HTML from a string (the browser enforces all three); the
files hold no data, so they need no token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src blob:",  # recordings: fetched with the token, then played from memory
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept by the browser, asked for again by ETag: after an upgrade nobody sees old code with new data.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page. etag: quoted, of its content."""

    body: bytes
    kind: str
    etag: str

    def answer(self, request: Request) -> Response:
        headers = HEADERS | {"ETag": self.etag}
        if _names(request.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.kind, headers=headers)


def page_router() -> APIRouter:
    """Serves the page from memory: its files are read once, here."""
    assets = _assets()
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    def page(request: Request) -> Response:
        return assets["index.html"].answer(request)

    @router.api_route("/assets/{name}", methods=["GET", "HEAD"])
    def asset(name: str, request: Request) -> Response:
        if name not in assets:
            raise HTTPException(404, f"the page has no file named {name!r}")
        return assets[name].answer(request)

    return router


def _assets() -> dict[str, Asset]:
    found = {}
    for file in resources.files("orchestrator.service.web").iterdir():
        kind = KINDS.get(file.name[file.name.rfind(".") :])
        if kind:
            body = file.read_bytes()
            found[file.name] = Asset(body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


def _names(if_none_match: str, etag: str) -> bool:
    given = {entry.strip().removeprefix("W/") for entry in if_none_match.split(",")}
    return etag in given or "*" in given
