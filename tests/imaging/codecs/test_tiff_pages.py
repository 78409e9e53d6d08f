"""TIFFs of several pages: each is restored and keeps its properties, in bounded memory."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import PIL.Image
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs.blocks.exif import parse
from restormer_cli.imaging.image import Image
from restormer_cli.workers import backends
from tests.support.image_files import exif, noise
from tests.support.program import Outcome, tree
from tests.support.sequences import (
    assert_same_page,
    page,
    read,
    restored,
    scans,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from restormer_cli.batch.events import ImageProgress

pytestmark = pytest.mark.usefixtures("folder", "weights")

EXACT = ("--precision", "fp32")


def test_every_page_of_a_tiff_keeps_its_size_type_and_metadata(
    restormer: Callable[..., Outcome],
) -> None:
    """Pages with different properties are restored in order."""
    write(scans(), "in.tif")
    event = restored(restormer("denoise", "in.tif", "-o", "out.tif", "--json", *EXACT))
    assert (event["width"], event["height"], event["pages"]) == (34, 21, 4)
    assert event["pixels"] == sum(p.pixels[..., 0].size for p in scans())
    for before, after in zip(read("in.tif"), read("out.tif"), strict=True):
        assert_same_page(before, after)
    assert cv2.imcount("out.tif") == 4  # read by libtiff


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "group4"])
def test_pages_written_by_pillow_are_read_as_pillow_reads_them(compression: str) -> None:
    """Pillow's pages in the usual compressions are read as Pillow reads them."""
    mode = "1" if compression == "group4" else "RGB"
    pages = [PIL.Image.fromarray(noise(16 * n, 24, 3, seed=n)).convert(mode) for n in (1, 2, 3)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression=compression)
    with PIL.Image.open(buffer) as reference:
        for number, image in enumerate(image_io.decode(buffer.getvalue()).images):
            reference.seek(number)
            expected = np.asarray(reference.convert("L" if mode == "1" else "RGB"))
            assert np.array_equal(image.pixels.squeeze(), expected)


def test_pages_keep_their_byte_order(restormer: Callable[..., Outcome]) -> None:
    """The file has the byte order of its first page's tags."""
    pages = scans()
    for image in pages:
        image.exif = exif(order=">")
    write(pages, "in.tif")
    assert Path("in.tif").read_bytes()[:4] == b"MM\0*"
    restormer("denoise", "in.tif", "-o", "out.tif", *EXACT)
    assert Path("out.tif").read_bytes()[:4] == b"MM\0*"
    for before, after in zip(read("in.tif"), read("out.tif"), strict=True):
        assert_same_page(before, after)


def test_thumbnails_and_masks_are_not_pages(restormer: Callable[..., Outcome]) -> None:
    """Thumbnails, which show the unrestored picture, and masks are left out with a note."""
    write(scans()[:1] * 3, "in.tif")
    data = bytearray(Path("in.tif").read_bytes())
    at = -1
    for kind in (2, 1, 4):  # the subfile types of a page, a smaller copy and a mask
        at = data.index(b"\xfe\0\x04\0\x01\0\0\0", at + 1)
        data[at + 8] = kind
    Path("in.tif").write_bytes(data)
    event = restored(restormer("denoise", "in.tif", "-o", "out.tif", "--json", *EXACT))
    assert event["pages"] == len(read("out.tif")) == 1
    assert event["notes"][:2] == ["1 mask: left out", "1 thumbnail: left out"]


@pytest.mark.parametrize("target", ["out.png", "out.jpg", "out.webp"])
def test_a_format_without_pages_gets_the_first_and_a_warning(
    target: str, restormer: Callable[..., Outcome]
) -> None:
    """The warning counts the pages that are left out."""
    write(scans(), "in.tif")
    event = restored(restormer("denoise", "in.tif", "-o", target, "--json", *EXACT))
    assert event["pages"] == 1
    kind = read(target)[0].format
    assert event["warnings"][0] == f"4 pages, and {kind} holds one: 3 are left out"
    assert read(target)[0].pixels.shape == (21, 34, 3)


def test_in_place_all_pages_are_replaced(restormer: Callable[..., Outcome]) -> None:
    """All pages are replaced in place, with their own sizes and depths."""
    write(scans(), "a.tif")
    before = read("a.tif")
    assert restormer("denoise", "a.tif", "--in-place", *EXACT).status == 0
    for expected, actual in zip(before, read("a.tif"), strict=True):
        assert_same_page(actual, expected)


def test_in_place_other_contents_are_not_lost(restormer: Callable[..., Outcome]) -> None:
    """In-place restoration refuses to lose other contents; elsewhere their loss is noted."""
    first, second = (PIL.Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save("a.jpg", "MPO", save_all=True, append_images=[second])
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a GCamera:MotionPhoto="1"/></x:xmpmeta>'
    first.save("b.jpg", xmp=xmp)
    with Path("b.jpg").open("ab") as file:
        file.write(b"\0\0\0\x18ftypmp42")
    first.save("c.tif", tiffinfo={37724: b"Adobe Photoshop Document Data Block\0"})
    for name, lost in (("a.jpg", "1 more picture"), ("b.jpg", "a video"), ("c.tif", "layers")):
        before = Path(name).read_bytes()
        outcome = restormer("denoise", name, "--in-place")
        assert outcome.status == 1
        assert "in place something would be lost: " in outcome.stderr
        assert lost in outcome.stderr
        assert Path(name).read_bytes() == before
        outcome = restormer("denoise", name, *EXACT)
        assert outcome.status == 0
        assert f"note: {name}: " in outcome.stderr
        assert lost in outcome.stderr


def test_a_damaged_page_fails_the_file_and_is_named(
    restormer: Callable[..., Outcome],
) -> None:
    """A damaged page fails its file; the other files are restored."""
    Path("f").mkdir()
    write(scans(), "f/a.tif")
    data = bytearray(Path("f/a.tif").read_bytes())
    at = image_io.decode(bytes(data)).count and data.rindex(b"\x78\x01")  # the last page's strip
    data[at : at + 9] = bytes(9)
    Path("f/b.tif").write_bytes(data)
    outcome = restormer("denoise", "f", "-o", "out", *EXACT)
    assert outcome.status == 1
    assert "error: f/b.tif: page 4: damaged or truncated" in outcome.stderr
    assert tree() == ["f/a.tif", "f/b.tif", "out/a.tif"]


def test_a_loop_of_pages_is_damage(restormer: Callable[..., Outcome]) -> None:
    """A link from the last page to the first is damage."""
    write(scans(), "a.tif")
    data = bytearray(Path("a.tif").read_bytes())
    first = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[first : first + 2], "little")
    link = first + 2 + 12 * count
    data[link : link + 4] = data[4:8]
    Path("a.tif").write_bytes(data)
    outcome = restormer("denoise", "a.tif")
    assert outcome.status == 1
    assert "the links between its pages form a loop" in outcome.stderr


def test_the_pixel_limit_of_each_page_is_checked_first(
    restormer: Callable[..., Outcome],
) -> None:
    """One page over the limit fails the file before any is restored."""
    write(scans(), "a.tif")
    small = ("denoise", "a.tif", "-o", "out.tif", *EXACT)
    assert restormer(*small, "--max-pixels", 34 * 21).status == 0
    Path("out.tif").unlink()
    outcome = restormer(*small, "--max-pixels", 33 * 21)
    assert "page 1" not in outcome.stderr
    assert "34 x 21 pixels, over the limit of 693" in outcome.stderr
    write([page((9, 9, 3), "uint8", "a"), page((90, 90, 3), "uint8", "b")], "a.tif")
    outcome = restormer(*small, "--max-pixels", 500, "--json")
    assert [event["event"] for event in outcome.events][-2:] == ["failed", "summary"]
    assert outcome.events[-2]["error"] == "page 2: 90 x 90 pixels, over the limit of 500"
    assert not Path("out.tif").exists()


def test_a_dry_run_reports_the_pages(restormer: Callable[..., Outcome]) -> None:
    """A dry run reports the number of pages."""
    write(scans(), "a.tif")
    outcome = restormer("denoise", "a.tif", "--dry-run", "--json")
    planned = outcome.events[0]
    assert (planned["width"], planned["height"], planned["pages"]) == (34, 21, 4)
    assert "34 x 21, 4 pages, whole" in outcome.stderr
    assert restormer("denoise", "a.tif").stderr.count("4 pages, ") == 1


def test_notes_of_all_pages_are_merged(restormer: Callable[..., Outcome]) -> None:
    """A note that applies to all pages is given without page numbers."""
    write([page((20, 30, 3), "uint8", title) for title in "abc"], "a.tif")
    event = restored(restormer("denoise", "a.tif", "-o", "b.tif", "--json", *EXACT))
    assert event["warnings"] == [
        "practically no change: there was nothing to remove, or nothing of this kind"
    ]
    pages = [page((20, 30, 3), "uint8", title, icc=b"bad") for title in "abcd"]
    pages[2].icc = None
    write(pages, "a.tif")
    event = restored(restormer("denoise", "a.tif", "-o", "b.tif", "--json", *EXACT))
    assert event["notes"] == ["pages 1-2, 4: the ICC profile is damaged: kept unchanged"]


def test_progress_names_the_page(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages of a file share one progress bar."""
    seen: list[ImageProgress] = []
    run = backends.run_batch

    def spy(*arguments: Any, **options: Any) -> Any:
        return run(*arguments, **{**options, "progress": seen.append})

    monkeypatch.setattr(backends, "run_batch", spy)
    write(scans(), "a.tif")
    assert restormer("denoise", "a.tif", *EXACT).status == 0
    last = {step.page: str(step) for step in seen}
    assert list(last) == [1, 2, 3, 4]
    assert last[3].startswith("page 3/4, ")
    shares = [step.share for step in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_only_a_few_pages_are_in_memory() -> None:
    """Reading and writing pages one by one decodes a few of them at a time."""
    pages, side = 30, 256
    flat = np.zeros((side, side, 3), "uint8")  # small when compressed
    data, _ = image_io.encode((Image(flat) for _ in range(pages)), "tiff", count=pages)
    tracemalloc.start()
    again, _ = image_io.encode(image_io.decode(data).images, "tiff", count=pages)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image_io.decode(again).count == pages
    assert peak < 12 * flat.nbytes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_patterns_are_compressed_by_their_repetitions(dtype):
    """A pattern without runs of equal samples takes less than a twentieth of its size."""
    tile = np.random.default_rng(0).integers(0, 200, (16, 16, 3)).astype(dtype)
    pixels = np.tile(tile, (16, 16, 1))
    data, _ = image_io.encode([Image(pixels)], "tiff")
    assert len(data) < pixels.nbytes / 20
    assert np.array_equal(next(image_io.decode(data).images).pixels, pixels)


def test_pages_before_the_end_of_a_cut_tiff_are_restored_on_request(
    restormer: Callable[..., Outcome],
) -> None:
    """Pages whose directories are missing are a damage, which --allow-damaged warns of."""
    write(scans(), "in.tif")
    whole = Path("in.tif").read_bytes()
    last = None
    for _ in range(3):
        last = parse(whole, last).following
    Path("cut.tif").write_bytes(whole[:last])
    lost = "damaged: the directory after page 3 cannot be read, so later pages are lost"
    refused = restormer("denoise", "cut.tif")
    assert refused.status == 1
    assert f"page 1: {lost}" in refused.stderr
    assert tree() == ["cut.tif", "in.tif"]
    event = restored(restormer("denoise", "cut.tif", "--allow-damaged", "--json", *EXACT))
    assert lost in "".join(event["warnings"])
    before, after = read("in.tif"), read("cut.restored.tif")
    for one, other in zip(before[:3], after, strict=True):
        assert_same_page(one, other)
