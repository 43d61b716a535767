"""The page at /, in a headless Chromium: photos in, answers and errors out, from a phone's width up and by keyboard alone."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.openapi.docs import get_swagger_ui_html
from playwright.sync_api import Page, Route, expect, sync_playwright

from carinspect.audit.inbox import read_remarks
from conftest import free_port
from serving_tools import TOKEN, model_bytes, photo_bytes, running_service

CHROMIUM = shutil.which("chromium")
FROM_ELSEWHERE = bytes(get_swagger_ui_html(openapi_url="/openapi.json", title="").body).decode()
WIDTHS = {"phone": (375, 740), "desktop": (1280, 900)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = tmp_path_factory.mktemp("model") / "best.onnx"
    model.write_bytes(model_bytes())
    with running_service(model, free_port()) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page at each width. A test fails when it asks another host for anything, or complains in its console."""
    width, height = WIDTHS[request.param]
    page = browser.new_page(viewport={"width": width, "height": height})
    elsewhere, complaints = [], []
    page.on("request", lambda asked: elsewhere.append(asked.url) if not asked.url.startswith((address, "blob:", "data:")) else None)
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    yield page
    keep = os.environ.get("CARINSPECT_SCREENSHOTS")
    if keep:
        page.screenshot(path=Path(keep) / f"{request.node.name}.png", full_page=True)
    page.close()
    assert elsewhere == []
    assert [text for text in complaints if "status of 4" not in text] == []


def photos(*seeds: int) -> list[dict[str, Any]]:
    return [
        {"name": f"car {seed}.jpg", "mimeType": "image/jpeg", "buffer": photo_bytes(seed=seed, width=640, height=480)} for seed in seeds
    ]


def test_photos_come_back_with_their_answers(page: Page) -> None:
    page.set_input_files("#choose", photos(0, 1, 2))
    expect(page.locator("#state")).to_have_text("3 of 3 photos answered.")
    cards = page.locator("#answers > li")
    expect(cards).to_have_count(3)
    for card in cards.all():
        expect(card.locator("h2")).to_contain_text("Dirty")
        expect(card.locator(".promise")).to_contain_text("at least 95 %")
        expect(card.locator("meter")).to_have_count(5)
        expect(card).to_contain_text("Weather:")
        expect(card).to_contain_text("cannot tell how uncertain")
    # Nothing is wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_map_shows_where_it_looks(page: Page) -> None:
    def look_right(route: Any) -> None:
        answer = route.fetch()
        changed = answer.json()
        assert len(changed["explanation"]["grid"]) == 8
        # An untrained model looks nowhere.
        changed["explanation"]["grid"][4][7] = 0.5
        route.fulfill(response=answer, json=changed)

    page.route("**/predict/file?explain=true", look_right)
    page.check("#explain")
    page.set_input_files("#choose", photos(0))
    expect(page.locator("#answers > li")).to_contain_text("Where it looks: most at the middle right")
    canvas, image = page.locator("canvas"), page.locator("#answers img")
    expect(canvas).to_have_attribute("aria-label", "Map of where the model looks: most at the middle right")
    over, under = canvas.bounding_box(), image.bounding_box()
    assert over is not None
    assert under is not None
    assert all(abs(over[name] - under[name]) < 2 for name in ("x", "y", "width", "height"))


def test_a_map_that_shows_nothing_says_so(page: Page) -> None:
    page.check("#explain")
    page.set_input_files("#choose", photos(0))
    expect(page.locator("#answers > li")).to_contain_text("no single place decides")
    expect(page.locator("canvas")).to_have_count(0)


def test_what_is_no_photo_gets_its_reason(page: Page) -> None:
    page.set_input_files("#choose", [{"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"}, *photos(3)])
    expect(page.locator("[role=alert]")).to_contain_text("not a photo in a known format")
    expect(page.locator("li.card.wrong h2")).to_have_text("No answer")
    expect(page.locator("#state")).to_have_text("1 of 2 photos answered, 1 refused.")
    expect(page.locator("#answers > li:not(.wrong) meter")).to_have_count(5)


def test_a_photo_can_be_dropped_or_pasted(page: Page) -> None:
    for kind, field in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([kind, field, bytes]) => {
                const carried = new DataTransfer();
                carried.items.add(new File([new Uint8Array(bytes)], "car.jpg", { type: "image/jpeg" }));
                const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new Kind(kind, { [field]: carried, bubbles: true, cancelable: true }));
            }""",
            [kind, field, list(photo_bytes(seed=5))],
        )
    expect(page.locator("#state")).to_have_text("2 of 2 photos answered.")


def test_a_person_says_what_is_right_where_the_service_asks(browser: Any, tmp_path: Path) -> None:
    model = tmp_path / "best.onnx"
    model.write_bytes(model_bytes())
    with running_service(model, free_port(), CARINSPECT_FEEDBACK_DIR=str(tmp_path / "inbox")) as (address, _):
        page = browser.new_page(viewport={"width": 375, "height": 740})
        page.goto(address)
        page.set_input_files("#choose", photos(0))
        group = page.get_by_role("group", name="Clean: right or wrong?")
        group.get_by_role("button", name="Wrong: it is clean").focus()
        page.keyboard.press("Enter")
        expect(group).to_contain_text("Kept. Thank you.")
        expect(group.get_by_role("button", pressed=True)).to_have_text("Wrong: it is clean")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.close()
    (remark,) = read_remarks(tmp_path / "inbox")
    assert (remark.question, remark.word, remark.verdict) == ("clean", "dirty", "clean")


def test_nobody_is_asked_where_nothing_is_kept(page: Page) -> None:
    page.set_input_files("#choose", photos(0))
    expect(page.locator("#state")).to_have_text("1 of 1 photos answered.")
    expect(page.locator("fieldset")).to_have_count(0)


def test_the_keyboard_reaches_everything_and_everything_has_a_name(page: Page) -> None:
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["choose", "take", "explain", "/docs"]
    with page.expect_file_chooser():
        page.focus("#choose")
        page.keyboard.press("Enter")
    assert page.locator("#take").get_attribute("capture") == "environment"
    for name in ("Choose photos", "Take a photo", "Show where it looks"):
        expect(page.get_by_label(name)).to_have_count(1)
    expect(page.locator("#state")).to_have_attribute("aria-live", "polite")
    assert page.evaluate("document.documentElement.lang") == "en"


def test_a_service_with_a_token_asks_for_it(browser: Any, tmp_path: Path) -> None:
    model = tmp_path / "best.onnx"
    model.write_bytes(model_bytes())
    with running_service(model, free_port(), CARINSPECT_API_TOKEN=TOKEN) as (address, _):
        page = browser.new_page()
        page.goto(address)
        page.set_input_files("#choose", photos(0))
        expect(page.locator("[role=alert]")).to_contain_text("token")
        page.get_by_label("This service asks for a token").fill(TOKEN)
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#answers meter")).to_have_count(5)
        page.close()


def test_the_interfaces_page_lists_every_route_and_tries_them(page: Page, address: str) -> None:
    page.goto(f"{address}/docs")
    routes = page.locator(".opblock-summary-path")
    expect(routes).to_have_count(11)
    assert {route.get_attribute("data-path") for route in routes.all()} == set(page.request.get(f"{address}/openapi.json").json()["paths"])
    one = page.locator(".opblock").first
    one.locator(".opblock-summary-control").click()
    one.get_by_role("button", name="Try it out").click()
    one.locator("input[type=file]").set_input_files(photos(0))
    one.get_by_role("button", name="Execute").click()
    expect(one.locator(".live-responses-table")).to_contain_text('"p_clean"')
    expect(page.get_by_role("button", name="Authorize")).to_have_count(0)


@pytest.mark.parametrize("held_to_the_policy", [False, True])
def test_a_page_that_loads_from_elsewhere_is_noticed_and_the_policy_holds_it_back(
    browser: Any, address: str, held_to_the_policy: bool
) -> None:
    headers = {"Content-Security-Policy": httpx.get(f"{address}/docs").headers["content-security-policy"]} if held_to_the_policy else {}
    page, asked, refused = browser.new_page(), [], []
    page.on("console", lambda message: refused.append(message.text) if "Content Security Policy" in message.text else None)

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(body=FROM_ELSEWHERE, content_type="text/html", headers=headers)

    page.route("**/*", answer)
    page.goto(f"{address}/docs")
    page.close()
    assert (len(refused) > 0, asked[1:] == []) == (held_to_the_policy, held_to_the_policy), (refused, asked)


def test_the_interfaces_page_takes_the_token(browser: Any, tmp_path: Path) -> None:
    model = tmp_path / "best.onnx"
    model.write_bytes(model_bytes())
    with running_service(model, free_port(), CARINSPECT_API_TOKEN=TOKEN) as (address, _):
        page = browser.new_page()
        page.goto(f"{address}/docs")
        page.get_by_role("button", name="Authorize").first.click()
        page.get_by_label("auth-bearer-value").fill(TOKEN)
        page.get_by_role("button", name="Apply credentials").click()
        page.get_by_role("button", name="Close").click()
        told = page.locator(".opblock").filter(has=page.locator("[data-path='/model']"))
        told.locator(".opblock-summary-control").click()
        told.get_by_role("button", name="Try it out").click()
        told.get_by_role("button", name="Execute").click()
        expect(told.locator(".live-responses-table")).to_contain_text('"image_side_px"')
        page.close()
