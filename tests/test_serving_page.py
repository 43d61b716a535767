"""The page at /, in a headless Chromium: photos in, answers and errors out, from a phone's width up and by keyboard alone."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.openapi.docs import get_swagger_ui_html
from playwright.sync_api import Page, Route, expect, sync_playwright

from carinspect.audit.inbox import read_remarks
from conftest import OPEN_GATE, encode_photo, free_port
from serving_tools import TOKEN, model_bytes, photo_bytes, running_service, thresholds
from test_marks import spotted

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


def test_photos_of_a_car_come_back_in_their_order_with_one_verdict(page: Page) -> None:
    page.set_input_files("#choose", photos(2, 0, 1))
    expect(page.locator("#state")).to_have_text("3 of 3 photos answered.")
    expect(page.locator("h2")).to_have_count(1)
    expect(page.locator(".verdict h2")).to_contain_text("Dirty")
    expect(page.locator(".verdict")).to_contain_text("Of cars like those it was tested on, at least 80 %")
    cards = page.locator(".photos > li")
    expect(cards.locator(".name")).to_have_text(["car 2.jpg", "car 0.jpg", "car 1.jpg"])
    expect(cards.locator("h3")).to_have_text(["Photo 1", "Photo 2", "Photo 3"])
    for card in cards.all():
        card.locator("summary").click()
        expect(card.locator("meter:visible")).to_have_count(5)
        expect(card).to_contain_text("Weather:")
        expect(card).to_contain_text("cannot tell how uncertain")
        # The promise is made of the car.
        expect(card).not_to_contain_text("at least")
    # Nothing is wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # Another photo of the same car, and then the next car.
    page.set_input_files("#choose", photos(3))
    expect(page.locator("#state")).to_have_text("4 of 4 photos answered.")
    expect(page.locator(".verdict h2")).to_have_count(1)
    page.get_by_role("button", name="Next car").click()
    page.set_input_files("#choose", photos(4))
    expect(page.locator("#state")).to_have_text("5 of 5 photos answered.")
    expect(page.locator("#answers > li").first.locator(".name")).to_have_text(["car 4.jpg"])


def test_the_page_says_what_the_service_says_of_the_car(page: Page, address: str) -> None:
    sent = [("files", (photo["name"], photo["buffer"], photo["mimeType"])) for photo in photos(0, 1, 2)]
    clean = httpx.post(f"{address}/predict/batch?car=true", files=sent).json()["car"]["clean"]
    page.set_input_files("#choose", photos(0, 1, 2))
    expect(page.locator(".verdict .promise")).to_have_text(clean["in_words"])
    expect(page.locator(".verdict")).to_contain_text(f"Clean: photo {clean['worst_photo'] + 1}.")


def test_photos_of_different_cars_are_answered_by_themselves(page: Page) -> None:
    page.uncheck("#one-car")
    page.set_input_files("#choose", photos(2, 0, 1))
    expect(page.locator("#state")).to_have_text("3 of 3 photos answered.")
    expect(page.locator(".verdict h2")).to_contain_text(["Dirty", "Dirty", "Dirty"])
    expect(page.locator(".verdict .promise")).to_contain_text(["at least 95 %"] * 3)
    expect(page.locator(".name")).to_have_text(["car 2.jpg", "car 0.jpg", "car 1.jpg"])
    expect(page.locator("meter:visible")).to_have_count(15)
    expect(page.get_by_role("button", name="Next car")).to_have_count(0)


def test_what_is_no_photo_gets_its_reason_and_can_be_taken_again_or_left_out(page: Page) -> None:
    broken = {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"}
    page.set_input_files("#choose", [broken, *photos(3), broken, *photos(4)])
    expect(page.locator("#state")).to_have_text("2 of 4 photos answered, 2 refused.")
    expect(page.locator("[role=alert]").first).to_contain_text("not a photo in a known format")
    expect(page.locator(".verdict h2")).to_contain_text("No verdict on the car")
    expect(page.locator(".verdict")).to_contain_text("2 of 4 photos have an answer.")
    with page.expect_file_chooser() as chooser:
        page.get_by_label("Take photo 1 again").focus()
        page.keyboard.press("Enter")
    chooser.value.set_files(photos(5))
    expect(page.locator("#state")).to_have_text("3 of 4 photos answered, 1 refused.")
    expect(page.locator(".name")).to_have_text(["car 5.jpg", "car 3.jpg", "notes.jpg", "car 4.jpg"])
    page.get_by_role("button", name="Leave photo 3 out").click()
    expect(page.locator("#state")).to_have_text("3 of 3 photos answered.")
    expect(page.locator(".verdict h2")).to_contain_text("Dirty")
    expect(page.locator("h3")).to_have_text(["Photo 1", "Photo 2", "Photo 3"])


def test_a_photo_that_the_gate_turns_away_asks_for_another_one_and_hides_its_figures(browser: Any, tmp_path: Path) -> None:
    model = tmp_path / "best.onnx"
    closed = OPEN_GATE.model_copy(update={"threshold": -1e9})
    model.write_bytes(model_bytes(rules=thresholds().model_copy(update={"gate": closed})))
    with running_service(model, free_port()) as (address, _):
        page = browser.new_page(viewport={"width": 375, "height": 740})
        page.goto(address)
        page.set_input_files("#choose", photos(0))
        expect(page.locator(".verdict h2")).to_contain_text("Not sure")
        expect(page.locator(".verdict .retake")).to_contain_text("Nothing is decided about this photo: it is")
        expect(page.locator("meter:visible")).to_have_count(0)
        page.set_input_files("#choose", photos(1))
        expect(page.locator(".verdict .retake")).to_contain_text("Nothing is decided about this car: photo 1 is")
        expect(page.locator(".card .retake")).to_have_count(2)
        expect(page.get_by_label("Take photo 2 again")).to_have_count(1)
        expect(page.locator("meter:visible")).to_have_count(0)
        page.close()


@pytest.fixture(scope="module")
def marking_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = tmp_path_factory.mktemp("marking") / "best.onnx"
    model.write_bytes(model_bytes(with_maps=True))
    with running_service(model, free_port()) as (address, _):
        yield address


@pytest.mark.parametrize("width", WIDTHS)
def test_marks_are_drawn_where_they_are_and_can_be_switched_off(browser: Any, marking_address: str, width: str) -> None:
    page = browser.new_page(viewport=dict(zip(("width", "height"), WIDTHS[width], strict=True)))
    page.goto(marking_address)
    # A tall photo, so that the picture has bars at both sides.
    tall = spotted(size=(300, 600), box=(150, 150, 300, 300), colour="red")
    tall.paste("lime", (0, 450, 75, 600))
    page.set_input_files("#choose", [{"name": "car.png", "mimeType": "image/png", "buffer": encode_photo(tall, "PNG")}])
    places = page.get_by_role("list", name="Marked places").get_by_role("button")
    expect(places).to_have_text(["Dirt, bottom left, 6 % of the photo, unproved", "Damage, middle right, 13 % of the photo"])
    expect(page.locator(".card")).to_contain_text("1 place is marked as damage. On photos like those it was tested on, at least 90 %")
    expect(page.locator(".card")).to_contain_text("1 place is marked as dirt. No promise")
    expect(page.get_by_role("img", name="Marks: Dirt, bottom left")).to_have_count(1)
    photo, drawn = page.locator(".picture img").bounding_box(), page.locator("polygon[data-kind=damage]").last.bounding_box()
    assert photo is not None
    assert drawn is not None
    scale = photo["height"] / 600
    left = photo["x"] + (photo["width"] - 300 * scale) / 2
    expected = {"x": left + 150 * scale, "y": photo["y"] + 150 * scale, "width": 150 * scale, "height": 150 * scale}
    # Within the width of a line.
    assert all(abs(drawn[name] - expected[name]) < 4 for name in expected), (drawn, expected)
    # By the keyboard: a place shows itself, and the switch hides its kind.
    places.last.focus()
    expect(page.locator("polygon[data-kind=damage]").first).to_have_class(re.compile(r"\bat\b"))
    page.get_by_role("group", name="Marks").get_by_label("Damage").focus()
    page.keyboard.press("Space")
    expect(page.locator("polygon[data-kind=damage]:visible")).to_have_count(0)
    expect(page.locator("polygon[data-kind=dirt]:visible")).to_have_count(2)
    expect(places).to_have_count(1)
    page.keyboard.press("Space")
    expect(places).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_a_model_without_maps_is_not_asked_for_marks(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_input_files("#choose", photos(0))
    expect(page.locator("#state")).to_have_text("1 of 1 photos answered.")
    assert [url.split("?")[1] for url in asked if "/predict/" in url] == ["car=true&marks=false"]
    expect(page.locator("#legend")).to_be_hidden()
    expect(page.locator(".picture svg")).to_have_count(0)


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


def test_a_person_says_what_is_right_of_a_car(browser: Any, tmp_path: Path) -> None:
    model = tmp_path / "best.onnx"
    model.write_bytes(model_bytes())
    with running_service(model, free_port(), CARINSPECT_FEEDBACK_DIR=str(tmp_path / "inbox")) as (address, _):
        page = browser.new_page(viewport={"width": 375, "height": 740})
        page.goto(address)
        page.set_input_files("#choose", photos(0, 1, 2))
        car = page.get_by_role("group", name="Clean, the car: right or wrong?")
        car.get_by_role("button", name="Right: dirty").focus()
        page.keyboard.press("Enter")
        expect(car).to_contain_text("Kept. Thank you.")
        page.locator("summary").nth(1).click()
        photo = page.get_by_role("group", name="Clean, this photo: right or wrong?")
        photo.get_by_role("button", name="Wrong: it is clean").click()
        expect(photo).to_contain_text("Kept. Thank you.")
        page.close()
    *of_car, of_photo = read_remarks(tmp_path / "inbox")
    assert [(remark.word, remark.verdict, remark.of_several) for remark in of_car] == [("dirty", "dirty", True)] * 3
    assert (of_photo.verdict, of_photo.of_several) == ("clean", False)
    assert of_photo.photo_sha256 == of_car[1].photo_sha256


def test_nobody_is_asked_where_nothing_is_kept(page: Page) -> None:
    page.set_input_files("#choose", photos(0))
    expect(page.locator("#state")).to_have_text("1 of 1 photos answered.")
    expect(page.locator(".remark")).to_have_count(0)


def test_the_keyboard_reaches_everything_and_everything_has_a_name(page: Page) -> None:
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["choose", "take", "one-car", "/docs"]
    with page.expect_file_chooser():
        page.focus("#choose")
        page.keyboard.press("Enter")
    assert page.locator("#take").get_attribute("capture") == "environment"
    for name in ("Choose photos", "Take a photo", "All photos show one car"):
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
    expect(routes).to_have_count(12)
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
