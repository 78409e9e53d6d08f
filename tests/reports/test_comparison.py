"""Comparison sheets: their content, the images they accept, and the errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms

from restormer_cli.imaging import Image
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.analysis import difference
from tests.support.program import Outcome, picture, pixels, tree
from tests.support.report_page import page_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from restormer_cli.imaging.image import Array

pytestmark = pytest.mark.usefixtures("folder", "weights")


def save(name: str, samples: Array, **about: object) -> None:
    """Write an image with these samples."""
    image = Image(samples, **about)  # type: ignore[arg-type] # any field of Image
    image_io.write_image(image, Path(name), quality=100)


def shows(sheet: str, image: Array, times: int = 1) -> bool:
    """Return True if the sheet contains exactly this image, enlarged by a factor."""
    enlarged = image.repeat(times, 0).repeat(times, 1)
    height, width = enlarged.shape[:2]
    paper = pixels(sheet)
    rows, columns = paper.shape[0] - height + 1, paper.shape[1] - width + 1
    if rows < 1 or columns < 1:
        return False
    candidates = np.ones((rows, columns), bool)
    for y in (0, height - 1):  # positions at which all four corners match
        for x in (0, width - 1):
            candidates &= (paper[y : y + rows, x : x + columns] == enlarged[y, x]).all(axis=2)
    return any(
        np.array_equal(paper[y : y + height, x : x + width], enlarged)
        for y, x in np.argwhere(candidates)
    )


def count_unchanged(sheet: str) -> int:
    """Return the number of pixels in the colour for "no difference"."""
    colour = difference.false_colour(np.zeros((1, 1)), 1)
    return int((pixels(sheet) == colour).all(axis=2).sum())


def test_a_sheet_shows_the_images_and_their_difference(
    restormer: Callable[..., Outcome],
) -> None:
    """A sheet shows small images enlarged, and a difference map that is black where they agree."""
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
    assert count_unchanged("sheet.png") == 24 * 64 * times**2


def test_equal_images_have_no_difference(restormer: Callable[..., Outcome]) -> None:
    """The same values in 8-bit grey and 16-bit colour do not differ."""
    grey = picture("grey.png", (48, 64, 1))
    save("deep.png", np.repeat(grey, 3, axis=2).astype(np.uint16) * 257)
    assert restormer("compare", "grey.png", "deep.png", "-o", "sheet.png").status == 0
    assert count_unchanged("sheet.png") == 48 * 64 * 9**2


def test_a_large_change_is_found_and_enlarged(restormer: Callable[..., Outcome]) -> None:
    """The sheet shows the crop that changed most, enlarged four times."""
    before = picture("a.png", (400, 600, 3))
    after = before.copy()
    after[200:300, 300:450] = 255 - after[200:300, 300:450]
    save("b.png", after)
    assert restormer("compare", "a.png", "b.png", "-o", "sheet.png").status == 0
    assert shows("sheet.png", before[200:300, 300:450], 4)
    assert shows("sheet.png", after[200:300, 300:450], 4)


def test_crops_can_be_given(restormer: Callable[..., Outcome]) -> None:
    """Each --crop is enlarged in every image."""
    before, after = (picture(f"{seed}.png", (400, 600, 3), seed=seed) for seed in range(2))
    crops = "--crop", "10,20,100,50", "--crop", "500,350,100,50"
    assert restormer("compare", "0.png", "1.png", "1.png", "-o", "sheet.png", *crops).status == 0
    for image in (before, after):
        assert shows("sheet.png", image[20:70, 10:110], 6)
        assert shows("sheet.png", image[350:, 500:], 6)


@pytest.mark.parametrize(
    ("crop", "status", "message"),
    [
        ("1,2,3", 2, "--crop '1,2,3': not x,y,width,height"),
        ("a,b,c,d", 2, "--crop 'a,b,c,d': not x,y,width,height"),
        ("-1,0,10,10", 2, "--crop '-1,0,10,10': not x,y,width,height"),
        ("60,0,10,10", 1, "a.png: 64 x 48 pixels do not contain the crop 60,0,10,10"),
        ("0,0,0,10", 2, "--crop '0,0,0,10': no pixels"),
        ("0,0,10,0", 2, "--crop '0,0,10,0': no pixels"),
    ],
)
def test_an_invalid_crop_is_an_error(
    crop: str, status: int, message: str, restormer: Callable[..., Outcome]
) -> None:
    """A malformed crop is a usage error, one outside the image an image error."""
    picture("a.png", (48, 64, 3))
    outcome = restormer("compare", "a.png", "a.png", "-o", "sheet.png", "--crop", crop)
    assert outcome.status == status
    assert message in outcome.stderr
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
    """Any format, depth, shape, number of channels and alpha gives a sheet of the usual width."""
    image = Image(picture(name, shape, dtype), icc=b"no profile at all" * 10)
    image.alpha = None if name == "a.jpg" else image.pixels[..., 0]
    image_io.write_image(image, Path(name))
    assert restormer("compare", name, name, "-o", "sheet.png").status == 0
    assert 900 < pixels("sheet.png").shape[1] <= 1960


def test_transparent_pixels_show_a_checkerboard(restormer: Callable[..., Outcome]) -> None:
    """Opaque pixels are unchanged, and transparent ones show a checkerboard."""
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


def test_colours_are_converted_to_srgb(restormer: Callable[..., Outcome]) -> None:
    """A linear profile brightens; sRGB and a profile of another colour space change nothing."""
    lab, srgb = (
        ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
        for space in ("LAB", "sRGB")
    )
    colours = np.full((48, 64, 3), 100, np.uint8)
    curve = srgb.index(b"para")  # ICC.1:2022, 10.18: function type 0 is a power, here 1.0
    linear = srgb[: curve + 8] + bytes([0, 0, 0, 0, 0, 1, 0, 0]) + srgb[curve + 16 :]
    levels = {}
    for name, profile in (("lab", lab), ("srgb", srgb), ("linear", linear)):
        save("b.png", colours, icc=profile)
        assert restormer("compare", "b.png", "b.png", "-o", "sheet.png").status == 0
        sheet = pixels("sheet.png")
        levels[name] = int(sheet[sheet.shape[0] // 2, 100, 0])
    assert levels["lab"] == levels["srgb"] == 100
    assert levels["linear"] > 130


def test_an_image_of_another_size_is_scaled(restormer: Callable[..., Outcome]) -> None:
    """It is scaled to the first image; another aspect ratio is an error."""
    flat = np.full((48, 64, 3), 100, np.uint8)
    save("a.png", flat)
    save("b.png", np.full((96, 128, 3), 100, np.uint8))
    save("c.png", np.full((96, 96, 3), 100, np.uint8))
    assert restormer("compare", "a.png", "b.png", "-o", "sheet.png").status == 0
    assert count_unchanged("sheet.png") == 48 * 64 * 9**2
    outcome = restormer("compare", "a.png", "c.png", "-o", "other.png")
    assert outcome.status == 1
    assert "c.png: 96 x 96 pixels, but a.png has 64 x 48" in outcome.stderr
    assert not Path("other.png").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("a.png", "a.png: would overwrite a compared image"),
        ("sheet.txt", "unsupported format for a comparison"),
        ("sheet", "unsupported format for a comparison"),
        ("other.html", "other.html: exists and is not a restormer report"),
    ],
)
def test_other_files_are_not_overwritten(
    output: str, message: str, restormer: Callable[..., Outcome]
) -> None:
    """The output can be neither a compared image nor an unrelated page."""
    picture("a.png")
    Path("other.html").write_text("unrelated")
    outcome = restormer("compare", "a.png", "a.png", "-o", output)
    assert outcome.status == 2
    assert message in outcome.stderr
    assert tree() == ["a.png", "other.html"]
    assert Path("other.html").read_text() == "unrelated"


def test_a_page_compares_grey_with_rgb(restormer: Callable[..., Outcome]) -> None:
    """The change is the same in both orders."""
    save("grey.png", np.full((24, 32, 1), 100, np.uint8))
    save("rgb.png", np.full((24, 32, 3), 110, np.uint8))
    for names in (("grey.png", "rgb.png"), ("rgb.png", "grey.png")):
        assert restormer("compare", *names, "-o", "page.html").status == 0
        (image,) = page_data("page.html")["images"]
        assert "mean change 10 of 255" in image["facts"]


def test_compare_writes_a_sheet_for_one_image(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """--compare FILE shows the image before and after, even if it is restored in place."""
    before = picture("a.png", (48, 64, 3))
    command = ("denoise", "a.png", "--in-place", "--compare", "sheet.png", "--weights", tiny())
    assert restormer(*command).status == 0
    assert shows("sheet.png", before, 9)
    assert shows("sheet.png", pixels("a.png"), 9)
    assert not np.array_equal(before, pixels("a.png"))


def test_the_sheet_shows_the_first_page(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """If a file has several pages, the sheet shows the first one before and after."""
    pages = [picture(f"{seed}.png", (48, 64, 3), seed=seed) for seed in range(3)]
    first, *others = map(PIL.Image.fromarray, pages)
    first.save("a.tif", save_all=True, append_images=others)
    command = ("denoise", "a.tif", "-o", "b.tif", "--compare", "sheet.png", "--weights", tiny())
    assert restormer(*command).status == 0
    assert shows("sheet.png", pages[0], 9)
    assert shows("sheet.png", pixels("b.tif"), 9)
    assert not shows("sheet.png", pages[1], 9)


def test_compare_writes_a_folder_of_sheets_for_several_images(
    restormer: Callable[..., Outcome],
) -> None:
    """Sheets are arranged and named like the outputs."""
    for name in ("f/a.jpg", "f/a.png", "f/sub/a.png"):
        picture(name)
    command = ("denoise", "f", "-r", "-o", "out", "--compare", "f/sheets")
    for _ in range(2):  # the sheets do not become inputs of the second run
        assert restormer(*command).status == 0
        assert [name for name in tree() if "sheets" in name] == [
            "f/sheets/a.jpg.png",
            "f/sheets/a.png.png",
            "f/sheets/sub/a.png.png",
        ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--compare", "sheet.png"), "sheet.png: one file, but there are several images"),
        (("--compare", "sheet.html"), "sheet.html: --compare writes pictures"),
        (("--crop", "0,0,8,8"), "--crop: has no effect without --compare"),
        (("--compare", "s", "--crop", "8"), "--crop '8': not x,y,width,height"),
        (("--compare", "f/a.png/sheets"), "f/a.png is not a folder"),
    ],
)
def test_contradictory_options_are_an_error(
    options: tuple[str, ...], message: str, restormer: Callable[..., Outcome]
) -> None:
    """The error comes before anything is written."""
    picture("f/a.png")
    picture("f/b.png")
    outcome = restormer("denoise", "f", *options)
    assert outcome.status == 2
    assert message in outcome.stderr
    assert tree() == ["f/a.png", "f/b.png"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_sheet_replaces_an_earlier_one_but_no_other_picture(
    suffix: str, restormer: Callable[..., Outcome]
) -> None:
    """A photograph of that name is kept, and the error comes before anything is restored."""
    picture("a.png")
    picture("b.png")
    picture(f"keep{suffix}")
    kept = Path(f"keep{suffix}").read_bytes()
    lines = ("denoise", "a.png", "--compare"), ("compare", "a.png", "b.png", "-o")
    for line in lines:
        outcome = restormer(*line, f"keep{suffix}")
        assert outcome.status == 2
        assert f"keep{suffix}: exists and is not a comparison sheet" in outcome.stderr
        for _ in range(2):
            assert not Path("a.restored.png").exists()
            assert restormer(*line, f"sheet{suffix}").status == 0
            Path("a.restored.png").unlink(missing_ok=True)
    assert Path(f"keep{suffix}").read_bytes() == kept


def test_skipped_images_get_the_sheets_that_are_missing(restormer: Callable[..., Outcome]) -> None:
    """They are those of the run that restored the images; sheets that exist are kept."""
    for name in ("f/a.png", "f/b.png"):
        picture(name)
    command = ("denoise", "f", "-o", "out", "--skip-existing", "--compare", "sheets")
    assert restormer(*command).status == 0
    before = pixels("sheets/a.png.png")
    Path("sheets/a.png.png").unlink()
    written = Path("sheets/b.png.png").stat().st_mtime_ns
    outcome = restormer(*command)
    assert outcome.status == 0
    assert outcome.stderr.count("skipped, ") == 2
    assert np.array_equal(pixels("sheets/a.png.png"), before)
    assert Path("sheets/b.png.png").stat().st_mtime_ns == written


@pytest.mark.parametrize("option", ["--mask", "--right"])
def test_a_sheet_does_not_replace_a_mask_or_a_right_view(
    option: str, restormer: Callable[..., Outcome]
) -> None:
    """They are inputs, which are kept."""
    picture("a.png")
    before = picture("m.png")
    outcome = restormer("defocus", "a.png", option, "m.png", "--compare", "m.png")
    assert outcome.status == 2
    assert "m.png: also an input, a mask or an output" in outcome.stderr
    assert np.array_equal(pixels("m.png"), before)


def test_a_sheet_that_cannot_be_written_is_a_failure(restormer: Callable[..., Outcome]) -> None:
    """The image is still written, and the exit status is 1."""
    picture("a.png")
    Path("sheets/a.restored.png.png").mkdir(parents=True)
    outcome = restormer("denoise", "a.png", "--compare", "sheets/")
    assert outcome.status == 1
    assert "error: a.png: restored, but sheets/a.restored.png.png: " in outcome.stderr
    assert Path("a.restored.png").exists()


def test_a_dry_run_writes_no_sheet(restormer: Callable[..., Outcome]) -> None:
    """A dry run writes neither a sheet nor a report."""
    picture("a.png")
    pages = ("--compare", "sheet.png", "--report", "report.html")
    assert restormer("denoise", "a.png", "--dry-run", *pages).status == 0
    assert tree() == ["a.png"]


def test_comparing_does_not_change_the_settings(restormer: Callable[..., Outcome]) -> None:
    """--skip-existing recognises outputs of a run with --compare and --report."""
    picture("f/a.png")
    command = ("denoise", "f", "--skip-existing", "--json")
    assert restormer(*command, "--compare", "sheets", "--report", "r.html").status == 0
    assert [event["event"] for event in restormer(*command).events] == ["skipped", "summary"]
