"""Sheets and pages that compare images: what is on them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms

from restormer_cli.imaging import difference
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Box
from tests.support.program import Outcome, picture, pixels, tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from restormer_cli.imaging.image import Array

pytestmark = pytest.mark.usefixtures("folder", "weights")


def save(name: str, samples: Array, **about: object) -> None:
    """Write an image of these samples."""
    image = image_io.Image(samples, **about)  # type: ignore[arg-type] # of whatever there is
    image_io.write_image(image, Path(name), quality=100)


def shows(sheet: str, image: Array, times: int = 1) -> bool:
    """Whether the very pixels of an image are somewhere on a sheet, enlarged so many times."""
    enlarged = image.repeat(times, 0).repeat(times, 1)
    height, width = enlarged.shape[:2]
    paper = pixels(sheet)
    rows, columns = paper.shape[0] - height + 1, paper.shape[1] - width + 1
    if rows < 1 or columns < 1:
        return False
    likely = np.ones((rows, columns), bool)
    for y in (0, height - 1):  # where its four corners are
        for x in (0, width - 1):
            likely &= (paper[y : y + rows, x : x + columns] == enlarged[y, x]).all(axis=2)
    return any(
        np.array_equal(paper[y : y + height, x : x + width], enlarged)
        for y, x in np.argwhere(likely)
    )


def equal(sheet: str) -> int:
    """How many pixels of a sheet say that there is no difference."""
    colour = difference.false_colour(np.zeros((1, 1)), 1)
    return int((pixels(sheet) == colour).all(axis=2).sum())


def test_a_sheet_shows_the_images_and_their_difference(
    restormer: Callable[..., Outcome],
) -> None:
    """Small ones enlarged, pixel by pixel; where they are equal the map is black."""
    before = picture("a.png", (48, 64, 3))
    after = before.copy()
    after[24:] = 255 - after[24:]
    save("b.png", after)
    outcome = restormer("compare", "a.png", "b.png", "-o", "sheet.png")
    assert outcome.status == 0
    assert "sheet.png: " in outcome.stderr
    times = 9  # 600 pixels a column
    assert shows("sheet.png", before, times)
    assert shows("sheet.png", after, times)
    assert equal("sheet.png") == 24 * 64 * times**2


def test_equal_images_have_no_difference(restormer: Callable[..., Outcome]) -> None:
    """Not even of 8 and 16 bits, in grey and in colour."""
    grey = picture("grey.png", (48, 64, 1))
    save("deep.png", np.repeat(grey, 3, axis=2).astype(np.uint16) * 257)
    assert restormer("compare", "grey.png", "deep.png", "-o", "sheet.png").status == 0
    assert equal("sheet.png") == 48 * 64 * 9**2


def test_a_large_change_is_found_and_enlarged(restormer: Callable[..., Outcome]) -> None:
    """The part where the images differ most is on the sheet as it is, four times enlarged."""
    before = picture("a.png", (400, 600, 3))
    after = before.copy()
    after[200:300, 300:450] = 255 - after[200:300, 300:450]
    save("b.png", after)
    assert restormer("compare", "a.png", "b.png", "-o", "sheet.png").status == 0
    assert shows("sheet.png", before[200:300, 300:450], 4)
    assert shows("sheet.png", after[200:300, 300:450], 4)


def test_a_part_can_be_named(restormer: Callable[..., Outcome]) -> None:
    """--crop, several times, of several images."""
    before, after = (picture(f"{seed}.png", (400, 600, 3), seed=seed) for seed in range(2))
    parts = "--crop", "10,20,100,50", "--crop", "500,350,100,50"
    assert restormer("compare", "0.png", "1.png", "1.png", "-o", "sheet.png", *parts).status == 0
    for image in (before, after):
        assert shows("sheet.png", image[20:70, 10:110], 6)
        assert shows("sheet.png", image[350:, 500:], 6)


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("1,2,3", 2, "--crop is '1,2,3'"),
        ("a,b,c,d", 2, "--crop is 'a,b,c,d'"),
        ("-1,0,10,10", 2, "--crop is '-1,0,10,10'"),
        ("60,0,10,10", 1, "a.png: 64 x 48 pixels have no part 60,0,10,10"),
        ("0,0,0,10", 1, "have no part"),
    ],
)
def test_a_part_that_is_none_is_refused(
    part: str, status: int, said: str, restormer: Callable[..., Outcome]
) -> None:
    """Ill-formed it is wrong usage; outside the image, an error. Nothing is written."""
    picture("a.png", (48, 64, 3))
    outcome = restormer("compare", "a.png", "a.png", "-o", "sheet.png", "--crop", part)
    assert outcome.status == status
    assert said in outcome.stderr
    assert tree() == ["a.png"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.png", "uint8"),
        ("a.png", "uint16"),
        ("a.jpg", "uint8"),
        ("a.tif", "float32"),
        ("a.webp", "uint8"),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 1), (700, 40, 3)])
def test_any_image_can_be_compared(
    name: str, dtype: str, shape: tuple[int, ...], restormer: Callable[..., Outcome]
) -> None:
    """Of any format, depth and shape, grey or in colour, with alpha where there is such."""
    image = image_io.Image(picture(name, shape, dtype), icc=b"no profile at all" * 10)
    image.alpha = None if name == "a.jpg" else image.pixels[..., 0]
    image_io.write_image(image, Path(name))
    assert restormer("compare", name, name, "-o", "sheet.png").status == 0
    assert 900 < pixels("sheet.png").shape[1] <= 1960


def test_alpha_shows_a_chequerboard(restormer: Callable[..., Outcome]) -> None:
    """Where an image is transparent; where it is opaque its pixels are as they are."""
    colours = picture("a.png", (48, 64, 3))
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, 32:] = 0
    save("a.png", colours, alpha=alpha)
    assert restormer("compare", "a.png", "a.png", "-o", "sheet.png").status == 0
    assert shows("sheet.png", colours[:, :32], 9)
    assert not shows("sheet.png", colours[:, 32:], 9)
    squares = np.full((8, 16, 3), 204, np.uint8)
    squares[:, 8:] = 242
    assert shows("sheet.png", squares, 9)


def test_colours_go_through_the_profile(restormer: Callable[..., Outcome]) -> None:
    """That of sRGB leaves them as they are, and one that does not fit; a linear one brightens."""
    lab, srgb = (
        ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
        for space in ("LAB", "sRGB")
    )
    colours = np.full((48, 64, 3), 100, np.uint8)
    curve = srgb.index(b"para")  # ICC.1:2022, 10.18: function type 0 is a power, here 1.0
    linear = srgb[: curve + 8] + bytes([0, 0, 0, 0, 0, 1, 0, 0]) + srgb[curve + 16 :]
    shown = {}
    for name, profile in (("lab", lab), ("srgb", srgb), ("linear", linear)):
        save("b.png", colours, icc=profile)
        assert restormer("compare", "b.png", "b.png", "-o", "sheet.png").status == 0
        sheet = pixels("sheet.png")
        shown[name] = int(sheet[sheet.shape[0] // 2, 100, 0])
    assert shown["lab"] == shown["srgb"] == 100
    assert shown["linear"] > 130


def test_another_size_is_scaled(restormer: Callable[..., Outcome]) -> None:
    """To that of the first image; another shape is an error that names both."""
    flat = np.full((48, 64, 3), 100, np.uint8)
    save("a.png", flat)
    save("b.png", np.full((96, 128, 3), 100, np.uint8))
    save("c.png", np.full((96, 96, 3), 100, np.uint8))
    assert restormer("compare", "a.png", "b.png", "-o", "sheet.png").status == 0
    assert equal("sheet.png") == 48 * 64 * 9**2
    outcome = restormer("compare", "a.png", "c.png", "-o", "other.png")
    assert outcome.status == 1
    assert "c.png: 96 x 96 pixels, and 64 x 48 before" in outcome.stderr
    assert not Path("other.png").exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("a.png", "is to be compared, and would be replaced"),
        ("sheet.txt", "no comparison can be called so"),
        ("sheet", "no comparison can be called so"),
        ("other.html", "no report of restormer's"),
    ],
)
def test_no_file_of_yours_is_replaced(
    output: str, said: str, restormer: Callable[..., Outcome]
) -> None:
    """Neither an image that is compared nor somebody's page."""
    picture("a.png")
    Path("other.html").write_text("mine")
    outcome = restormer("compare", "a.png", "a.png", "-o", output)
    assert outcome.status == 2
    assert said in outcome.stderr
    assert tree() == ["a.png", "other.html"]
    assert Path("other.html").read_text() == "mine"


def test_one_image_gets_a_sheet_by_name(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """--compare FILE: the image as it was and as it was written, even in place."""
    before = picture("a.png", (48, 64, 3))
    command = ("denoise", "a.png", "--in-place", "--compare", "sheet.png", "--weights", tiny())
    assert restormer(*command).status == 0
    assert shows("sheet.png", before, 9)
    assert shows("sheet.png", pixels("a.png"), 9)
    assert not np.array_equal(before, pixels("a.png"))


def test_of_several_pages_the_first_is_shown(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """As it was and as it is written."""
    pages = [picture(f"{seed}.png", (48, 64, 3), seed=seed) for seed in range(3)]
    first, *others = map(PIL.Image.fromarray, pages)
    first.save("a.tif", save_all=True, append_images=others)
    command = ("denoise", "a.tif", "-o", "b.tif", "--compare", "sheet.png", "--weights", tiny())
    assert restormer(*command).status == 0
    assert shows("sheet.png", pages[0], 9)
    assert shows("sheet.png", pixels("b.tif"), 9)
    assert not shows("sheet.png", pages[1], 9)


def test_several_images_get_a_folder_of_sheets(restormer: Callable[..., Outcome]) -> None:
    """They lie as the outputs do, each called like its output."""
    for name in ("f/a.jpg", "f/a.png", "f/sub/a.png"):
        picture(name)
    command = ("denoise", "f", "-r", "-o", "out", "--compare", "f/sheets")
    for _ in range(2):  # the second time, sheets are no inputs
        assert restormer(*command).status == 0
        assert [name for name in tree() if "sheets" in name] == [
            "f/sheets/a.jpg.png",
            "f/sheets/a.png.png",
            "f/sheets/sub/a.png.png",
        ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--compare", "sheet.png"), "sheet.png is one file, and there are several images"),
        (("--compare", "sheet.html"), "--compare makes pictures"),
        (("--crop", "0,0,8,8"), "--crop is for a comparison, and there is none"),
        (("--compare", "s", "--crop", "8"), "--crop is '8'"),
    ],
)
def test_what_makes_no_comparison_is_refused(
    options: tuple[str, ...], said: str, restormer: Callable[..., Outcome]
) -> None:
    """Before anything is written."""
    picture("f/a.png")
    picture("f/b.png")
    outcome = restormer("denoise", "f", *options)
    assert outcome.status == 2
    assert said in outcome.stderr
    assert tree() == ["f/a.png", "f/b.png"]


def test_a_sheet_that_cannot_be_is_a_failure(restormer: Callable[..., Outcome]) -> None:
    """The image is written all the same, and the status tells."""
    picture("a.png")
    Path("blocked").write_text("")
    outcome = restormer("denoise", "a.png", "--compare", "blocked/sheets/")
    assert outcome.status == 1
    assert "error: a.png: restored, but blocked/sheets: cannot be created" in outcome.stderr
    assert Path("a.restored.png").exists()


def test_a_dry_run_makes_no_sheet(restormer: Callable[..., Outcome]) -> None:
    """Nor a report."""
    picture("a.png")
    looks = ("--compare", "sheet.png", "--report", "report.html")
    assert restormer("denoise", "a.png", "--dry-run", *looks).status == 0
    assert tree() == ["a.png"]


def test_comparing_changes_no_result(restormer: Callable[..., Outcome]) -> None:
    """What was restored and looked at is not restored again, just to be looked at no longer."""
    picture("f/a.png")
    command = ("denoise", "f", "--skip-existing", "--json")
    assert restormer(*command, "--compare", "sheets", "--report", "r.html").status == 0
    assert [event["event"] for event in restormer(*command).events] == ["skipped", "summary"]


def test_places_are_apart_and_in_order() -> None:
    """The largest change first; nothing where there is none, or no room."""
    before = np.zeros((90, 120, 3), np.uint8)
    after = before.copy()
    after[0:20, 0:30] = 50
    after[60:80, 90:120] = 100
    assert difference.most_changed(before, after, 30, 20, 3)[:2] == [
        Box(90, 60, 30, 20),
        Box(0, 0, 30, 20),
    ]
    assert len(difference.most_changed(before, after, 30, 20, 3)) == 2
    assert difference.most_changed(before, before, 30, 20, 3) == []
    assert difference.most_changed(before, after, 200, 20, 3) == []


@pytest.mark.parametrize("side", [1, 4, 7])
def test_cells_are_means(side: int) -> None:
    """Of all absolute differences in them, the last of a row or column being smaller."""
    rng = np.random.default_rng(0)
    before, after = (rng.random((20, 31, 3), dtype=np.float32) for _ in range(2))
    cells = difference.block_differences(before, after, side)
    assert cells.shape == (-(-20 // side), -(-31 // side))
    change = np.abs(after - before)
    assert cells[0, 0] == pytest.approx(change[:side, :side].mean(), rel=1e-5)
    last = change[(cells.shape[0] - 1) * side :, (cells.shape[1] - 1) * side :]
    assert cells[-1, -1] == pytest.approx(last.mean(), rel=1e-5)
