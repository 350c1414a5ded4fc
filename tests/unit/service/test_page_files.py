"""The page's files are served as they are, asked for again by ETag, and may load nothing from elsewhere."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from orchestrator.service.api.page import page_router

WEB = resources.files("orchestrator.service.web")
FILES = sorted(file.name for file in WEB.iterdir() if file.name.endswith((".js", ".css", ".html", ".svg")))
SCRIPTS = [name for name in FILES if name.endswith(".js")]
# Whatever turns text into markup or code, and addresses of other hosts but for the names of XML and link texts.
FORBIDDEN = re.compile(
    r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setHTMLUnsafe|localStorage|document\.cookie"
)


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page_router())
    return TestClient(app)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/assets/app.js", "text/javascript"),
        ("/assets/style.css", "text/css"),
        ("/assets/icon.svg", "image/svg+xml"),
    ],
)
def test_file_has_its_type_and_the_headers_that_confine_it(client: TestClient, path: str, kind: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == kind
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_file_that_the_browser_has_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/assets/app.js")
    tag = first.headers["etag"]
    for given in (tag, f'"other", W/{tag}', "*"):
        again = client.get("/assets/app.js", headers={"If-None-Match": given})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert client.get("/assets/app.js", headers={"If-None-Match": '"another"'}).status_code == 200
    assert client.get("/").headers["etag"] != tag


@pytest.mark.parametrize("name", ["nothing.js", "__init__.py", "..%2Fmessages.py", "%2e%2e/messages.py", "APP.JS"])
def test_nothing_but_the_pages_own_files_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/assets/{name}").status_code == 404


def test_head_is_answered_without_a_body(client: TestClient) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 1000


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_makes_no_markup_of_text_and_keeps_nothing_beyond_the_tab(name: str) -> None:
    assert FORBIDDEN.findall((WEB / name).read_text()) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_import_leads_to_a_file_that_the_page_preloads(name: str) -> None:
    imported = set(re.findall(r'from "\./([\w.]+)"', (WEB / name).read_text()))
    preloaded = set(re.findall(r'modulepreload" href="/assets/([\w.]+)"', (WEB / "index.html").read_text()))
    assert imported <= preloaded
    assert preloaded | {"app.js"} == set(SCRIPTS)


def test_page_holds_no_inline_script_or_style() -> None:
    page = (WEB / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []
    assert re.findall(r'(?:src|href)="(?!/assets/|#)', page) == []
