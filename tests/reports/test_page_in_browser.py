"""Report pages in a browser: operation, isolation, layout and accessibility."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from restormer_cli.imaging import Image
from restormer_cli.imaging import io as image_io
from restormer_cli.reports import page as report_page
from tests.support.browser import launch, until, watch
from tests.support.program import Outcome, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("folder", "weights")

HOSTILE = "<img src=x onerror=document.title='hit'>.png"
WHITE, BLACK = 255, 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium with a temporary profile."""
    with launch() as chromium:
        yield chromium


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page from disk; fail on errors, dialogs and requests to other addresses."""
    problems: list[str] = []
    contexts = []

    def visit(page: str, width: int = 1000, height: int = 700, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        address = Path(page).absolute().as_uri()
        watch(tab, problems, address, "data:", address.removesuffix(".html") + "_files/")
        tab.goto(address)
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert problems == []


def open_first(tab: Any) -> None:
    tab.locator(".card").first.click()
    until(tab, "document.getElementById('after').naturalWidth > 0")


def brightness(tab: Any, x: float, y: float = 0.3) -> int:
    """Return the brightness on screen of a point, given as fractions of the stage's sides."""
    box = tab.locator("#stage").bounding_box()
    tab.screenshot(path="screen.png")
    screen = image_io.read_image(Path("screen.png")).pixels
    row, column = round(box["y"] + y * box["height"]), round(box["x"] + x * box["width"])
    return int(screen[row, column].mean())


@pytest.fixture
def pair(restormer: Callable[..., Outcome]) -> str:
    """A page that compares a black image with a white and a grey one."""
    for name, value in (("black.png", BLACK), ("white.png", WHITE), ("grey.png", 128)):
        image_io.write_image(Image(np.full((300, 400, 3), value, np.uint8)), Path(name))
    command = ("compare", "black.png", "white.png", "grey.png", "-o", "page.html")
    assert restormer(*command).status == 0
    return "page.html"


def test_the_slider_follows_the_mouse(pair: str, visit: Callable[..., Any]) -> None:
    """The image before is at the left of the slider, the image after at the right."""
    tab = visit(pair)
    open_first(tab)
    slider = tab.get_by_role("slider", name="Before and after")
    assert slider.get_attribute("aria-valuenow") == "50"
    assert (brightness(tab, 0.4), brightness(tab, 0.6)) == (BLACK, WHITE)
    stage, handle = tab.locator("#stage").bounding_box(), slider.bounding_box()
    tab.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(stage["x"] + 0.3 * stage["width"], stage["y"] + 50, steps=4)
    tab.mouse.up()
    assert int(slider.get_attribute("aria-valuenow")) < 40
    assert (brightness(tab, 0.25), brightness(tab, 0.4)) == (BLACK, WHITE)


def test_arrow_keys_move_the_slider_and_between_images(
    pair: str, visit: Callable[..., Any]
) -> None:
    """Left, right, Home and End move the slider; up and down change and announce the image."""
    tab = visit(pair)
    open_first(tab)
    slider = tab.get_by_role("slider")
    for key, value in (("ArrowLeft", 48), ("ArrowRight", 50), ("End", 100), ("ArrowRight", 100)):
        tab.keyboard.press(key)
        assert slider.get_attribute("aria-valuenow") == str(value)
    assert slider.get_attribute("aria-valuetext") == "100 % before, 0 % after"
    assert brightness(tab, 0.7) == BLACK
    tab.keyboard.press("Home")
    assert brightness(tab, 0.3) == WHITE
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#name").text_content() == "grey.png"
    assert tab.locator("#live").text_content() == "grey.png, image 2 of 2"
    tab.wait_for_timeout(100)
    assert 126 <= brightness(tab, 0.3) <= 130
    tab.keyboard.press("ArrowDown")  # stays at the last image
    tab.keyboard.press("ArrowUp")
    assert tab.locator("#name").text_content() == "white.png"


def positions(tab: Any) -> list[list[float]]:
    """Return left, top, width and height of both pictures in their panes."""
    return list(
        tab.evaluate(
            """() => ["before", "after"].map((side) => {
              const picture = document.getElementById(side).getBoundingClientRect();
              const pane = document.getElementById(`pane-${side}`).getBoundingClientRect();
              return [picture.x - pane.x, picture.y - pane.y, picture.width, picture.height]
                .map(Math.round);
            })"""
        )
    )


def test_both_pictures_zoom_and_pan_together(pair: str, visit: Callable[..., Any]) -> None:
    """Keys, wheel, buttons and mouse move both pictures equally, in every view."""
    tab = visit(pair)
    open_first(tab)
    history = [positions(tab)[0]]

    def assert_moved() -> None:
        before, after = positions(tab)
        assert before == after
        assert before != history[-1]
        history.append(before)

    tab.keyboard.press("2")
    assert_moved()
    tab.keyboard.press("+")
    assert_moved()
    assert tab.locator("#live").text_content() == "Zoom 150 %"
    box = tab.locator("#pane-after").bounding_box()
    tab.mouse.move(box["x"] + 20, box["y"] + 200)
    tab.mouse.wheel(0, -400)
    tab.wait_for_timeout(50)
    assert_moved()
    tab.mouse.down()
    tab.mouse.move(box["x"] + 60, box["y"] + 230)
    tab.mouse.up()
    assert_moved()
    tab.keyboard.press("Shift+ArrowRight")
    assert_moved()
    tab.get_by_role("button", name="Zoom out").click()
    assert_moved()
    tab.keyboard.press("0")
    assert_moved()
    assert history[-1] == history[1]
    tab.keyboard.press("1")
    assert_moved()
    assert history[-1] == history[0]


def test_touch_zooms_and_slides(pair: str, visit: Callable[..., Any]) -> None:
    """Moving two fingers apart enlarges both pictures; one finger moves the slider."""
    tab = visit(pair, 390, 800, has_touch=True)
    open_first(tab)
    session = tab.context.new_cdp_session(tab)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    width = positions(tab)[0][2]
    touch("touchStart", (180, 400), (220, 400))
    touch("touchMove", (100, 400), (300, 400))
    touch("touchEnd")
    before, after = positions(tab)
    assert before == after
    assert before[2] > 2 * width
    tab.keyboard.press("0")
    touch("touchStart", (195, 300))
    touch("touchMove", (80, 300))
    touch("touchEnd")
    assert int(tab.get_by_role("slider").get_attribute("aria-valuenow")) < 30


def test_the_difference_view_shows_changes(pair: str, visit: Callable[..., Any]) -> None:
    """It is white where black became white, and the focus moves from slider to stage and back."""
    tab = visit(pair)
    open_first(tab)
    tab.keyboard.press("3")
    assert brightness(tab, 0.5) == WHITE
    pressed = tab.get_by_role("button", name="Difference").get_attribute("aria-pressed")
    assert pressed == "true"
    tab.wait_for_timeout(50)
    assert tab.evaluate("document.activeElement.id") == "stage"
    tab.keyboard.press("1")
    assert tab.evaluate("document.activeElement.id") == "slider"


@pytest.fixture(scope="module")
def cache() -> dict[str, bytes]:
    """Files shared by the tests of this module."""
    return {}


@pytest.fixture
def report(
    cache: dict[str, bytes], tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> str:
    """A report of a failure and five images, one named like markup and one large."""
    if not cache:
        for seed, name in enumerate(("a.png", "b.png", "c.png", HOSTILE)):
            picture(f"f/{name}", (64, 96, 3), seed=seed)
        picture("f/large.jpg", (80, report_page.SIDE + 400, 3))
        Path("f/<b>broken<b>.png").write_text("hello")
        command = ("denoise", "f", "-o", "out", "--report", "report.html", "--weights", tiny())
        assert restormer(*command).status == 1
        cache["report.html"] = Path("report.html").read_bytes()
    Path("report.html").write_bytes(cache["report.html"])
    return "report.html"


def test_a_name_that_looks_like_markup_is_text(report: str, visit: Callable[..., Any]) -> None:
    """Such a name is shown literally everywhere and runs nothing."""
    tab = visit(report)
    tab.get_by_role("button", name=HOSTILE).click()
    assert tab.locator("#name").text_content() == f"f/{HOSTILE}"
    tab.wait_for_timeout(200)
    assert tab.title() == "Noise removed"
    assert tab.locator("img[src=x], main b, main li img:not([src])").count() == 0
    assert tab.locator("#failures strong").text_content() == "f/<b>broken<b>.png"


def test_the_policy_blocks_injected_markup(report: str, browser: Any) -> None:
    """Markup injected into the page can neither run scripts nor make requests."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        tab = browser.new_page()
        tab.goto(Path(report).absolute().as_uri())
        tab.evaluate(
            """(address) => {
              document.body.insertAdjacentHTML("beforeend",
                `<img src="${address}" onerror="document.title = 'hit'">`);
              document.body.append(Object.assign(document.createElement("script"),
                { textContent: "document.title = 'hit'" }));
              fetch(address).catch(() => 0);
            }""",
            address,
        )
        with pytest.raises(TimeoutError):
            server.accept()
        assert tab.title() == "Noise removed"
        tab.close()


def test_previews_beside_the_page_are_shown(
    visit: Callable[..., Any],
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page loads them from disk, and nothing else."""
    monkeypatch.setattr(report_page, "EMBEDDED", 0)
    picture("a.png", (64, 96, 3))
    assert restormer("denoise", "a.png", "--report", "report.html").status == 0
    tab = visit("report.html")
    open_first(tab)
    until(tab, "document.querySelector('.card img').naturalWidth === 360")
    assert tab.locator("#before").evaluate("(picture) => picture.naturalWidth") == 96


def test_a_large_image_shows_its_detail(report: str, visit: Callable[..., Any]) -> None:
    """The key D switches between the whole image and the unscaled detail."""
    tab = visit(report)
    tab.get_by_role("button", name="large.jpg").click()
    for pressed, width in (("false", report_page.SIDE), ("true", report_page.DETAIL)):
        width_of = "document.getElementById(s).naturalWidth"
        until(tab, f"['before', 'after'].every((s) => {width_of} === {width})")
        assert tab.locator("#detail").get_attribute("aria-pressed") == pressed
        tab.keyboard.press("d")


def test_the_gallery_is_filtered_sorted_and_navigated(
    report: str, visit: Callable[..., Any]
) -> None:
    """Arrow keys move between the cards, and closing the viewer returns to its card."""
    tab = visit(report)
    search = tab.get_by_role("searchbox", name="Filter")
    search.fill("LARGE")
    assert tab.locator(".card bdi").all_text_contents() == ["large.jpg"]
    assert tab.get_by_role("status").first.text_content() == "1 of 5"
    search.fill("")
    tab.get_by_label("Order").select_option("change")
    changes = tab.evaluate("matching.map((image) => image.change)")
    assert changes == sorted(changes, reverse=True)
    tab.get_by_label("Order").select_option("name")
    tab.locator(".card").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    name = tab.locator("#name").text_content()
    assert tab.evaluate("document.activeElement.id") == "slider"
    tab.keyboard.press("Escape")
    assert not tab.locator("#viewer").is_visible()
    assert f"f/{tab.evaluate('document.activeElement.textContent')}".startswith(name)


def test_cards_are_created_on_demand(
    restormer: Callable[..., Outcome], visit: Callable[..., Any]
) -> None:
    """Scrolling down creates the cards of a long gallery in steps of sixty."""
    page = report_page.Report(Path("many.html"), "Many", [])
    for number in range(500):
        page.image(str(number), name=f"{number}.png", facts=["none"])
    page.write("", [])
    tab = visit("many.html")
    first = tab.locator(".card").count()
    assert 60 <= first < 300
    tab.mouse.wheel(0, 100_000)
    until(tab, f"document.querySelectorAll('.card').length > {first}")
    tab.locator(".card").first.focus()
    tab.keyboard.press("End")
    assert tab.locator(".card").count() == 500
    assert tab.evaluate("document.activeElement.textContent").startswith("499.png")


@pytest.mark.parametrize("width", [320, 390, 1000])
def test_the_page_fits_narrow_screens(width: int, report: str, visit: Callable[..., Any]) -> None:
    """Neither the page nor the viewer with its help exceeds the screen."""
    tab = visit(report, width, 640)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    open_first(tab)
    tab.locator(".keys summary").click()
    for part in tab.locator("#viewer :is(button, summary, .keys > div):visible").all():
        box = part.bounding_box()
        assert min(box["x"], box["y"]) >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= 640
    assert tab.locator("#stage").bounding_box()["height"] > 150


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme(
    scheme: str, report: str, visit: Callable[..., Any]
) -> None:
    """In both schemes text has a contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    tab = visit(report, color_scheme=scheme)

    def luminance(element: str, colour: str) -> float:
        value = tab.locator(element).first.evaluate(f"(e) => getComputedStyle(e).{colour}")
        channels = [int(part) / 255 for part in value[value.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    def contrast(text: str, ground: str) -> float:
        luminances = sorted([luminance(text, "color"), luminance(ground, "backgroundColor")])
        return (luminances[1] + 0.05) / (luminances[0] + 0.05)

    assert (luminance("body", "backgroundColor") < 0.1) == (scheme == "dark")
    for text, ground in (
        *(
            ("h1", "body"),
            ("#about", "body"),
            ("#figures dt", "body"),
            ("#figures .bad dd", "body"),
        ),
        *((".card bdi", ".card"), (".card small", ".card"), ("#settings dt", "body")),
        *(("#failures span", "#failures li"), ("#failures .hint", "#failures li")),
    ):
        assert contrast(text, ground) >= 4.5, text


def test_controls_have_accessible_names(report: str, visit: Callable[..., Any]) -> None:
    """Every control of the page and the viewer has a role and a name."""
    tab = visit(report)
    assert tab.get_by_role("heading", level=1).text_content() == "Noise removed"
    assert tab.get_by_role("region", name="Failed").count() == 1
    assert tab.get_by_role("region", name="Images").get_by_role("button").count() == 5
    tab.get_by_role("button", name="a.png").click()
    viewer = tab.get_by_role("dialog", name="f/a.png")
    assert viewer.get_by_role("img", name="Before: f/a.png").count() == 1
    for name in ("Close", "Previous image", "Next image", "Slider", "Side by side", "Zoom in"):
        assert viewer.get_by_role("button", name=name, exact=True).count() == 1
    for button in viewer.get_by_role("button").all():
        name = button.get_attribute("aria-label") or button.text_content()
        assert any(letter.isalpha() for letter in name)
    # The focus does not leave the viewer.
    for _ in range(30):
        tab.keyboard.press("Tab")
        inside = tab.evaluate("document.activeElement.closest('#viewer, body').id || 'body'")
        assert inside in ("viewer", "body")
        assert tab.evaluate("!document.querySelector('main').contains(document.activeElement)")
