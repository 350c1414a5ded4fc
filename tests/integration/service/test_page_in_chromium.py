"""The page in a real headless Chromium, over the real API and a real store: what people see, hear and do there."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from page_checks import CHROMIUM, FLAGS, PATIENCE_MS, Visits, problems
from page_room import ApiThread, Room
from playwright.sync_api import Browser, Page, expect, sync_playwright
from redis_room import RedisRoom

from orchestrator.service.home import Home
from orchestrator.service.messages import Cause, State

pytestmark = pytest.mark.slow
SIZES = {"desktop": {"width": 1400, "height": 1000}, "mobile": {"width": 360, "height": 740}}
PICTURES = os.environ.get("MGRD_SCREENSHOTS", "")  # a folder: keep what docs/PAGE.md shows, and look at all of it
SHOWN = {"list-desktop-light", "run-desktop-light", "samples-desktop-light", "run-desktop-dark", "run-mobile-light"}
LOOKS = [("desktop", "light"), ("mobile", "dark"), *([("desktop", "dark"), ("mobile", "light")] if PICTURES else [])]
HOSTILE = '<img src=x onerror="document.title=`taken`"><script>document.title="taken"</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM or subprocess.run([CHROMIUM, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("needs Chromium: apt-get install chromium (`make test` does it where it may)")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisRoom]:
    server = RedisRoom(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def api(redis: RedisRoom, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiThread]:
    """A service without tokens: whoever reaches it is its owner."""
    running = ApiThread(Home(tmp_path_factory.mktemp("service")), redis.url)
    yield running
    running.close()


@pytest.fixture(scope="module")
def room(api: ApiThread) -> Room:
    return Room(api.home.root, api.store)


@pytest.fixture(scope="module")
def run(room: Room) -> str:
    """The id of a run with everything."""
    return room.populate()


@pytest.fixture
def away() -> list[str]:
    """A test that takes the service away names here which messages the browser may log then."""
    return []


@pytest.fixture
def open_page(browser: Browser, away: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens addresses in fresh contexts; afterwards nothing may have gone wrong in them, and nothing may have gone elsewhere."""
    visits = Visits(browser)
    yield visits.open
    visits.close(away)


def row(page: Page, id: str) -> Any:
    return page.locator("#rows tr").filter(has=page.locator(f'a[href="#/{id}"]'))


def number_of(page: Page, slider: str) -> int:
    return int(page.get_by_role("slider", name=slider).get_attribute("aria-valuemax") or -1)


def test_queue_and_runs_are_listed_and_narrowed(run: str, api: ApiThread, open_page: Callable[..., Page]) -> None:
    page = open_page(api.url)
    shown = row(page, run)
    expect(shown).to_contain_text("running")
    expect(shown).to_contain_text("reinforce_2 · 41 / 60")
    expect(shown.get_by_role("link", name=f"MLflow run of {run}")).to_have_attribute("href", re.compile("^http://127"))
    assert 0.6 < float(shown.get_by_role("progressbar").get_attribute("value") or 0) < 0.8
    page.get_by_role("button", name="queued").click()
    expect(page.locator("#rows tr")).to_have_count(5)
    page.get_by_label("Search").fill("lr_sweep-c0ffe1")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.get_by_label("User").select_option("grace")
    expect(page.locator("#empty")).to_contain_text("No experiment fits")
    page.get_by_label("Search").fill("")
    page.get_by_role("button", name="queued").click()
    expect(page.locator("#rows tr")).to_have_count(6)
    page.get_by_role("button", name="Reward").click()
    rewards = [float(text) for text in page.locator("#rows .c-reward").all_inner_texts() if text != "–"]
    assert rewards == sorted(rewards, reverse=True)
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Reward")


def test_news_come_without_a_reload(room: Room, api: ApiThread, open_page: Callable[..., Page]) -> None:
    room.submit("live-000001")
    page = open_page(api.url)
    expect(row(page, "live-000001")).to_contain_text("queued")
    page.evaluate("window.kept = 1")
    room.start("live-000001")
    expect(row(page, "live-000001")).to_contain_text("running")
    room.submit("live-000002")
    expect(row(page, "live-000002")).to_contain_text("queued")
    for number in (1, 2, 3):
        room.update("live-000001", number)
    expect(row(page, "live-000001")).to_contain_text("3 / 60")
    page.goto(f"{api.url}#/live-000001")
    expect(page.get_by_role("slider", name="Reward")).to_have_attribute("aria-valuemax", "3")
    room.update("live-000001", 4)
    expect(page.get_by_role("slider", name="Reward")).to_have_attribute("aria-valuemax", "4")
    room.store.finish("live-000001", 1, State.SUCCEEDED)
    expect(page.locator("#announce")).to_have_text("live-000001 is now succeeded")
    assert page.evaluate("window.kept") == 1


def test_feed_goes_on_after_the_api_was_away(
    room: Room, api: ApiThread, away: list[str], open_page: Callable[..., Page]
) -> None:
    away.append("Failed to load resource: net::ERR_CONNECTION")
    away.append("net::ERR_INCOMPLETE_CHUNKED_ENCODING")
    room.submit("away-000001")
    room.start("away-000001")
    room.update("away-000001", 1)
    page = open_page(f"{api.url}#/away-000001")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.get_by_role("slider", name="Accuracy")).to_have_attribute("aria-valuemax", "1")
    api.stop()
    try:
        expect(page.locator("#connection")).to_have_text("reconnecting…")
        expect(page.locator("#problem")).to_contain_text("does not answer")
        room.update("away-000001", 2)
        room.update("away-000001", 3)
    finally:
        api.start()
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.get_by_role("slider", name="Accuracy")).to_have_attribute("aria-valuemax", "3")
    expect(page.locator("#problem")).to_be_hidden()
    room.update("away-000001", 4)
    expect(page.get_by_role("slider", name="Accuracy")).to_have_attribute("aria-valuemax", "4")


def test_sample_can_be_heard_and_read(run: str, api: ApiThread, open_page: Callable[..., Page]) -> None:
    page = open_page(f"{api.url}#/{run}/samples")
    sample = page.get_by_role("article", name="Sample of policy update 40")
    expect(sample).to_contain_text("I hear three tones")
    expect(sample.locator(".answer")).to_contain_text("high, low, middle")
    expect(sample.locator(".reference")).to_contain_text("low, middle, high")
    expect(sample.get_by_role("table", name="Verdict by component")).to_contain_text("think_present")
    expect(page.get_by_role("article", name="Sample of policy update 39")).to_contain_text("invalid: judge: no answer")
    audio = page.locator("audio").first
    expect(audio).to_have_js_property("duration", 1.5)
    audio.evaluate("node => node.play()")
    expect(audio).not_to_have_js_property("currentTime", 0)
    assert (audio.get_attribute("src") or "").startswith("blob:")
    page.get_by_label("Show").select_option("wrong")
    expect(page.locator(".sample")).to_have_count(1)


def test_hostile_text_stays_text(room: Room, api: ApiThread, away: list[str], open_page: Callable[..., Page]) -> None:
    away.append("TrustedHTML")  # the test's own attempt
    id = "hostile-000001"
    room.submit(
        id, name=HOSTILE, user=HOSTILE, tags={HOSTILE: HOSTILE}, overrides=(f"run.name={HOSTILE}",), parent=HOSTILE
    )
    room.start(id)
    room.update(id, 1, mlflow_run=HOSTILE, mlflow_url="javascript:document.title='taken'")
    clip = room.clip("hostile", (440,))
    fields = ("question", "answer", "reasoning", "reply", "stage", "id")
    texts: dict[str, Any] = dict.fromkeys(fields, HOSTILE)
    room.store.keep_samples(id, 1, [room.sample(1, [clip], **texts, choices=(HOSTILE,), components={HOSTILE: 1.0})])
    room.log(id, "driver", HOSTILE + "\n")
    room.store.finish(id, 1, State.FAILED, reason=HOSTILE, cause=Cause.RUN)
    page = open_page(api.url)
    expect(row(page, id).locator("a.name")).to_have_text(HOSTILE)
    for part, place in (("", ".reason"), ("/samples", ".sample h4"), ("/logs", ".log"), ("/config", ".overrides")):
        page.goto(f"{api.url}#/{id}{part}")
        expect(page.locator(place)).to_contain_text(HOSTILE)
        assert page.locator("main img, main script").count() == 0
        assert "taken" not in page.title()
    assert page.locator("a[href^=javascript]").count() == 0
    assert (
        page.evaluate(  # were a text ever made markup, the browser itself would refuse
            "() => { try { document.body.innerHTML = '<b>x</b>'; return 'allowed' } catch (error) { return error.name } }"
        )
        == "TypeError"
    )


def test_experiment_is_cancelled_with_the_keyboard_alone(
    room: Room, api: ApiThread, open_page: Callable[..., Page]
) -> None:
    room.submit("keys-000001")
    page = open_page(api.url)
    expect(row(page, "keys-000001")).to_be_visible()

    def tab_to(wanted: str) -> None:
        seen = []
        for _ in range(80):
            page.keyboard.press("Tab")
            seen.append(
                page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")
            )
            if seen[-1] == wanted:
                return
        raise AssertionError(f"no Tab leads to {wanted!r}, but to {seen}")

    page.get_by_label("Search").focus()
    page.keyboard.type("keys-000001")
    expect(page.locator("#rows tr")).to_have_count(1)
    tab_to("keys")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="keys")).to_be_focused()
    tab_to("Cancel keys-000001")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert room.store.get("keys-000001").state is State.QUEUED
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".detail-head .badge")).to_have_text("cancelled")
    assert room.store.get("keys-000001").state is State.CANCELLED
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement !== document.body")


def test_pause_is_asked_for_and_resume_takes_changed_keys(
    room: Room, api: ApiThread, away: list[str], open_page: Callable[..., Page]
) -> None:
    away.append("status of 422")  # the refused key, which the browser logs
    room.submit("turns-000001")
    room.start("turns-000001")
    page = open_page(f"{api.url}#/turns-000001")
    page.get_by_role("button", name="Pause turns-000001").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.locator("#detail .notice")).to_contain_text("Pause was asked for")
    room.store.finish("turns-000001", 1, State.PAUSED, reason="paused by its user")
    page.get_by_role("button", name="Resume turns-000001").click()
    page.get_by_label("Changed keys").fill("actor.actor_optim.lrr=1e-6")
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.locator("#ask-problem")).to_contain_text("lrr")
    page.get_by_label("Changed keys").fill("actor.actor_optim.lr=2e-6")
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.locator(".detail-head .badge")).to_have_text("queued")
    assert "actor.actor_optim.lr=2e-6" in room.store.get("turns-000001").overrides


def test_failure_says_why_and_what_to_do(
    run: str, api: ApiThread, away: list[str], open_page: Callable[..., Page]
) -> None:
    away.append("status of 404")  # the experiment that is none
    page = open_page(f"{api.url}#/grounding-9be210")
    notice = page.locator("#detail .notice")
    expect(notice).to_contain_text("disagree by 0.031 nats")
    expect(notice).to_contain_text("resume, with changed keys if need be")
    page.goto(f"{api.url}#/long_context-77d1e0")
    expect(notice).to_contain_text("left the cluster")
    expect(notice).to_contain_text("mgrd doctor")
    page.goto(f"{api.url}#/nothing-000000")
    expect(page.locator("#detail")).to_contain_text("there is no experiment")


def test_curves_read_out_values_and_stand_as_a_table_too(
    run: str, api: ApiThread, open_page: Callable[..., Page]
) -> None:
    page = open_page(f"{api.url}#/{run}")
    slider = page.get_by_role("slider", name="Accuracy")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(r"policy update 41: \d+\.\d %"))
    slider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("policy update 2: "))
    expect(page.locator(".curve").nth(0).locator(".now")).to_contain_text("at update 2")
    page.get_by_role("slider", name="Reward").hover(position={"x": 200, "y": 60})
    expect(page.locator(".curve").nth(3).locator(".now")).to_contain_text("at update")
    page.get_by_text("The same as a table").click()
    assert page.locator(".as-table tbody tr").count() == 41
    expect(page.locator(".stages [aria-current=step]")).to_contain_text("reinforce_2")


def test_log_is_followed_and_configuration_searched(
    run: str, room: Room, api: ApiThread, open_page: Callable[..., Page]
) -> None:
    page = open_page(f"{api.url}#/{run}/logs")
    log = page.get_by_label("Log", exact=True)
    expect(log).to_contain_text("policy update 39: reward 0.799")  # without the codes that colour a terminal
    assert len(log.inner_text().strip().split("\n")) == 200
    room.log(run, "driver", "the newest line\n")
    expect(log).to_contain_text("the newest line")
    page.get_by_label("Component").select_option("rollout/0")
    expect(log).to_have_text("engine up: 2 sequences a second\n")
    page.get_by_role("navigation", name="Parts").get_by_role("link", name="Configuration").click()
    expect(page.locator(".config tr.mine")).to_have_count(1)
    page.locator(".part").get_by_label("Search").fill("actor_optim.lr")
    expect(page.locator(".config tbody tr:visible").first).to_contain_text("actor.actor_optim.lr")
    assert page.locator(".config tbody tr:visible").count() < 5


def test_thousands_of_experiments_stay_smooth(room: Room, api: ApiThread, open_page: Callable[..., Page]) -> None:
    """6,000 answers of the API's form: at most one page of rows is in the document."""
    room.submit("many-000000")
    form = httpx.get(f"{api.url}/v1/experiments/many-000000").json()
    answers = [form | {"id": f"many-{n:06d}", "submitted_at": form["submitted_at"] - n} for n in range(6000)]

    def serve(route: Any) -> None:
        query = dict(pair.split("=") for pair in urlsplit(route.request.url).query.split("&"))
        at = int(query["before"].removeprefix("many-")) + 1 if "before" in query else 0
        route.fulfill(json={"experiments": answers[at : at + int(query["limit"])]})

    page = open_page("about:blank")
    page.route("**/v1/experiments?*", serve)
    page.goto(api.url)
    expect(page.locator("#range")).to_have_text("1–50 of 6,000")
    assert page.locator("#rows tr").count() == 50
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#range")).to_have_text("51–100 of 6,000")
    page.get_by_label("Search").fill("many-005999")
    expect(page.locator("#rows tr")).to_have_count(1)


def test_token_is_asked_for_once_and_stays_in_the_tab(
    redis: RedisRoom, tmp_path: Path, away: list[str], open_page: Callable[..., Page]
) -> None:
    away.append("status of 401")
    closed = ApiThread(Home(tmp_path), redis.url, "closed:")
    try:
        room = Room(tmp_path, closed.store)
        room.submit("theirs-000001", user="grace")
        attempt = room.start("theirs-000001").attempt
        room.store.keep_samples("theirs-000001", attempt, [room.sample(1, [room.clip("token", (440,))])])
        reader = closed.tokens.create("reads", "ada", "read")[1]
        owner = closed.tokens.create("submits", "grace", "submit")[1]
        page = open_page(f"{closed.url}#/theirs-000001/samples")
        page.get_by_label("Bearer token").fill("mgrd_wrong_token")
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#token-problem")).to_contain_text("Not accepted")
        page.get_by_label("Bearer token").fill(reader)
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#who")).to_have_text("ada (read)")
        expect(page.locator("audio").first).to_have_js_property("duration", 1.5)
        assert page.get_by_role("group", name="Change this experiment").count() == 0
        page.reload()
        expect(page.locator("#who")).to_have_text("ada (read)")
        assert page.evaluate("[localStorage.length, document.cookie, document.getElementById('token').value]") == [
            0,
            "",
            "",
        ]
        page.get_by_role("button", name="Forget token").click()
        page.get_by_label("Bearer token").fill(owner)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Cancel theirs-000001")).to_be_visible()
        page.context.close()
    finally:
        closed.close()


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_page_is_usable_by_everybody(
    size: str, scheme: str, run: str, api: ApiThread, open_page: Callable[..., Page]
) -> None:
    """Names, contrast, headings, width, of every part."""
    page = open_page(api.url, viewport=SIZES[size], color_scheme=scheme)
    places = {
        "list": ("", "#rows tr"),
        "run": (f"#/{run}", ".curve path"),
        "samples": (f"#/{run}/samples", ".sample audio[src]"),
        "logs": (f"#/{run}/logs", ".log"),
        "config": (f"#/{run}/config", ".config .mine"),
        "failed": ("#/grounding-9be210", ".curve path"),
    }
    found = {}
    for place, (hash, sign) in places.items():
        page.goto(f"{api.url}{hash}")
        page.locator(sign).first.wait_for()
        found[place] = problems(page)
        if PICTURES and f"{place}-{size}-{scheme}" in SHOWN:
            page.wait_for_timeout(500)
            page.screenshot(path=Path(PICTURES) / f"page-{place}-{size}-{scheme}.png")
    page.goto(f"{api.url}#/{run}")
    page.get_by_role("button", name=f"Cancel {run}").click()
    found["dialog"] = problems(page)
    assert {place: wrong for place, wrong in found.items() if wrong} == {}
