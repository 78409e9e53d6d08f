"""The page of the server in a browser: restoring, comparing, downloading, layout, isolation."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest

from tests.support import image_files
from tests.support.browser import launch as launch_browser
from tests.support.browser import until, watch
from tests.support.serving import png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.serving import Served

HOSTILE = "<img src=x onerror=document.title='hit'>.png"
EXPECTED = (
    "console: Failed to load resource: the server responded with a status of ",
    "console: Executing inline script violates",
    "console: Refused to execute inline script",
)
"""Messages of Chromium about answers that are no success, and about its security policy."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium with a temporary profile."""
    with launch_browser() as chromium:
        yield chromium


@pytest.fixture
def visit(browser: Any, server: Served) -> Iterator[Callable[..., Any]]:
    """Open the page; fail on errors, and requests to other addresses than the server's."""
    problems: list[str] = []
    contexts = []

    def visit(width: int = 1000, height: int = 700, address: str = "", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        address = address or f"{server.url}/"
        watch(tab, problems, address.partition("#")[0], "blob:")
        tab.goto(address)
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert [problem for problem in problems if not problem.startswith(EXPECTED)] == []


def add(tab: Any, **files: bytes) -> None:
    """Choose files whose names have "_" instead of "." here."""
    chosen = [
        {"name": name.replace("_", "."), "mimeType": "", "buffer": body}
        for name, body in files.items()
    ]
    tab.set_input_files("#files", chosen)


def wait(tab: Any) -> None:
    """Wait until no photo waits or is being restored."""
    until(tab, "photos.every(({ state }) => ['done', 'failed'].includes(state))")


def tiff(height: int = 40, width: int = 60) -> bytes:
    return image_files.encoded(PIL.Image.fromarray(image_files.noise(height, width, 3)), "TIFF")


def downloaded(tab: Any, name: str) -> bytes:
    with tab.expect_download() as download:
        tab.get_by_role("button", name=name).click()
    return Path(download.value.path()).read_bytes()


def test_photos_are_restored_compared_and_downloaded(
    visit: Callable[..., Any], server: Served
) -> None:
    """The results are those of the API, also of a format that browsers cannot show."""
    tab = visit()
    tab.get_by_label("Rain").check()
    add(tab, a_png=png(), b_tif=tiff())
    wait(tab)
    assert tab.locator("#count").text_content() == "2 of 2 restored"
    assert tab.locator("#status").text_content() == "b.tif: restored"
    expected = {
        "a.restored.png": server.restore(png(), task="derain").body,
        "b.restored.tif": server.restore(tiff(), task="derain").body,
    }
    assert downloaded(tab, "Download: a.png") == expected["a.restored.png"]
    archive = zipfile.ZipFile(io.BytesIO(downloaded(tab, "Download all")))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == expected
    tab.locator(".card").nth(1).click()
    until(tab, "document.getElementById('before').naturalWidth === 60")
    assert tab.get_by_role("dialog", name="b.tif").is_visible()
    slider = tab.get_by_role("slider", name="Before and after")
    tab.keyboard.press("End")
    assert slider.get_attribute("aria-valuenow") == "100"
    tab.keyboard.press("ArrowUp")
    assert tab.locator("#position").text_content() == "1 of 2"
    until(tab, "document.getElementById('after').naturalWidth === 34")
    tab.keyboard.press("Escape")
    until(tab, "document.activeElement.textContent.startsWith('a.png')")


def test_detail_can_be_kept_where_noise_is_removed(
    visit: Callable[..., Any], server: Served
) -> None:
    """The slider sets `keep_detail`; other tasks have neither."""
    tab = visit()
    slider = tab.get_by_label("Keep detail")
    slider.fill("50")
    assert tab.locator("#keep-detail-value").text_content() == "50 %"
    add(tab, a_png=png(64, 64))
    wait(tab)
    expected = server.restore(png(64, 64), keep_detail=0.5).body
    assert downloaded(tab, "Download: a.png") == expected
    tab.get_by_label("Rain").check()
    assert not slider.is_visible()
    add(tab, b_png=png())
    wait(tab)
    assert tab.locator("#count").text_content() == "2 of 2 restored"


def test_equal_names_stay_apart_in_the_archive(visit: Callable[..., Any]) -> None:
    """Two photos of one name are two files of the archive."""
    tab = visit()
    for seed in range(2):
        add(tab, a_png=png(seed=seed))
    wait(tab)
    archive = zipfile.ZipFile(io.BytesIO(downloaded(tab, "Download all")))
    assert archive.namelist() == ["a.restored.png", "a.restored-2.png"]
    assert archive.read("a.restored.png") != archive.read("a.restored-2.png")


def test_dropped_files_are_restored(visit: Callable[..., Any]) -> None:
    """Files dropped anywhere on the page are added, also under a name that looks like markup."""
    tab = visit()
    tab.evaluate(
        """([name, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name));
          document.body.dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [HOSTILE, list(png())],
    )
    wait(tab)
    assert tab.locator(".card bdi").text_content() == HOSTILE
    assert tab.title() == "restormer"
    assert tab.locator("img[src=x]").count() == 0


def test_a_failure_is_explained_and_can_be_repeated(visit: Callable[..., Any]) -> None:
    """The card has cause and remedy, and the other photos go on."""
    tab = visit()
    add(tab, broken_jpg=b"hello", a_png=png())
    wait(tab)
    card = tab.locator(".card").first
    assert "not an image, or in an unsupported format" in card.text_content()
    assert "Use PNG, JPEG" in card.text_content()
    assert card.get_attribute("aria-disabled") == "true"
    assert tab.locator("#count").text_content() == "1 of 2 restored"
    tab.get_by_role("button", name="Try again: broken.jpg").click()
    wait(tab)
    tab.get_by_role("button", name="Remove: broken.jpg").click()
    assert tab.locator(".card").count() == 1
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove: a.png"


def test_a_full_queue_is_waited_for(visit: Callable[..., Any], server: Served) -> None:
    """The photo is restored once the places of others are free."""
    tab = visit()
    others = [server.start_upload(1000) for _ in range(3)]
    server.wait_for(taken=3)
    add(tab, a_png=png())
    wait(tab)
    for other in others:
        other.close()
    assert tab.locator("#count").text_content() == "1 of 1 restored"


def test_removing_a_photo_frees_its_place(visit: Callable[..., Any], server: Served) -> None:
    """So does closing the page: the server keeps nothing."""
    tab = visit()
    body = image_files.encoded(PIL.Image.new("RGB", (1000, 1000)), "PNG")
    for leave in (lambda: tab.get_by_role("button", name="Remove all").click(), tab.close):
        add(tab, large_png=body)
        until(tab, "photos[0].text.startsWith('Restoring')")
        assert tab.get_by_role("progressbar", name="large.png").count() == 1
        leave()
        server.wait_for(taken=0)


def test_the_token_is_asked_for(visit: Callable[..., Any], launch: Callable[..., Served]) -> None:
    """It is taken from the address, which then no longer shows it, or from a field."""
    secured = launch("--token", "correct-horse-battery")
    tab = visit(address=f"{secured.url}/#correct-horse-battery")
    assert tab.evaluate("location.href") == f"{secured.url}/"
    add(tab, a_png=png())
    wait(tab)
    assert tab.locator("#count").text_content() == "1 of 1 restored"
    tab = visit(address=f"{secured.url}/")
    add(tab, a_png=png())
    for token, refused in (("wrong", True), ("correct-horse-battery", False)):
        tab.get_by_label("Token").fill(token)
        tab.keyboard.press("Enter")
        wait(tab)
        assert ("Enter it above." in tab.locator(".card").text_content()) == refused
    assert tab.locator("#count").text_content() == "1 of 1 restored"


def test_the_policy_blocks_injected_markup(visit: Callable[..., Any], server: Served) -> None:
    """The header has the strict policy, and no other site may frame the page."""
    policy = server.get("/").headers["content-security-policy"]
    assert "default-src 'none'; img-src blob:; connect-src 'self'; style-src 'sha256-" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    tab = visit()
    tab.evaluate(
        """() => {
          window.blocked = [];
          document.addEventListener("securitypolicyviolation",
            (event) => blocked.push(event.effectiveDirective));
          document.body.append(Object.assign(document.createElement("script"),
            { textContent: "document.title = 'hit'" }));
        }"""
    )
    until(tab, "blocked.includes('script-src-elem')")
    assert tab.title() == "restormer"


@pytest.mark.parametrize("width", [320, 390, 1000])
def test_the_page_fits_narrow_screens(width: int, visit: Callable[..., Any]) -> None:
    """Nothing exceeds the width of the screen, whatever a photo is called."""
    tab = visit(width, 640)
    add(tab, a_png=png(), **{f"{'long' * 30}_png": png(), "broken_jpg": b"hello"})
    wait(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for part in tab.locator("button:visible, select:visible, #drop, #tasks label").all():
        box = part.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["height"] >= 24  # WCAG 2.2, 2.5.8
    rows = [tab.locator(f"#{name}-all").bounding_box()["y"] for name in ("download", "remove")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scheme: str, visit: Callable[..., Any]) -> None:
    """In both colour schemes text has a contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    tab = visit(color_scheme=scheme)
    add(tab, broken_jpg=b"hello")
    wait(tab)

    def luminance(element: str, colour: str) -> float:
        value = tab.locator(element).first.evaluate(f"(e) => getComputedStyle(e).{colour}")
        channels = [int(part) / 255 for part in value[value.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    assert (luminance("body", "backgroundColor") < 0.1) == (scheme == "dark")
    for text, ground in (
        *(("#about", "body"), ("legend", "body"), ("#tasks label", "#tasks label")),
        *(("#drop strong", "#drop"), (".card .failed", ".card"), (".actions button",) * 2),
    ):
        both = sorted([luminance(text, "color"), luminance(ground, "backgroundColor")])
        assert (both[1] + 0.05) / (both[0] + 0.05) >= 4.5, text


def test_the_keyboard_suffices(visit: Callable[..., Any]) -> None:
    """Tab reaches the tasks, the settings and the files in order; all have names."""
    tab = visit()
    reached = []
    for _ in range(5):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.name"))
    assert reached == ["task", "strength", "keep-detail", "format", "files"]
    tab.get_by_role("radio", name="Noise").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("settings().task") == "derain"
    tab.get_by_role("slider", name="Strength").focus()
    tab.keyboard.press("ArrowLeft")
    assert tab.evaluate("settings().strength") == 0.95
    assert tab.get_by_role("group", name="Remove").count() == 1
    assert tab.get_by_label("Choose photos").count() == 1
    assert tab.get_by_role("combobox", name="Format").count() == 1
