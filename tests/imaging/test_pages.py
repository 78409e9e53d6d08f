"""Files of several pages or frames: all of them restored, each as it was, in bounded memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import PIL.Image
import pytest

from restormer_cli.cli import console
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs import png as png_codec
from restormer_cli.workers import backends
from tests.support.image_files import chunk, directory, exif, noise, png, tags, wide_gamut
from tests.support.program import Outcome, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

EXACT = ("--precision", "fp32")


def page(shape: tuple[int, ...], dtype: str, title: str, **extra: Any) -> image_io.Image:
    """A page with an author's note of its own, which is its only EXIF tag."""
    text = title.encode() + b"\0"
    block = b"II*\0\x08\0\0\0" + directory("<", 8, [(270, 2, len(text), text)])
    samples = noise(*shape, dtype, seed=len(title))
    if dtype == "float32":
        samples = samples.clip(0, 1)
    colours = 1 if shape[2] < 3 else 3
    alpha = samples[..., colours] if shape[2] > colours else None
    return image_io.Image(samples[..., :colours], alpha, "tiff", exif=block, **extra)


def scans() -> list[image_io.Image]:
    """Pages of different sizes and types, each with metadata of its own."""
    return [
        page((21, 34, 3), "uint8", "colour", icc=wide_gamut()),
        page((40, 17, 1), "uint16", "deep grey", xmp=b"<x:xmpmeta/>", dpi=(300.0, 150.0)),
        page((9, 50, 4), "float32", "float and alpha"),
        page((33, 8, 2), "uint8", "grey and alpha"),
    ]


def write(pages: list[image_io.Image], name: str, **options: Any) -> None:
    kind, _ = image_io.output_format(Path(name), None, "")
    data, _ = image_io.encode(pages, kind, count=len(pages), **options)
    image_io.write_encoded(data, Path(name))


def read(name: str) -> list[image_io.Image]:
    return list(image_io.decode(Path(name).read_bytes(), name=name).images)


def same(one: image_io.Image, other: image_io.Image) -> None:
    """Samples, and all that is said of them."""
    assert one.pixels.dtype == other.pixels.dtype
    assert np.array_equal(one.pixels, other.pixels)
    assert (one.alpha is None) == (other.alpha is None)
    if one.alpha is not None and other.alpha is not None:
        assert np.array_equal(one.alpha, other.alpha)
    assert (one.icc, one.xmp, one.dpi) == (other.icc, other.xmp, other.dpi)
    assert tags(one.exif or b"") == tags(other.exif or b"")
    assert (one.duration, one.plays) == (other.duration, other.plays)


def restored(outcome: Outcome) -> dict[str, Any]:
    assert outcome.status == 0, outcome.stderr
    (event,) = (event for event in outcome.events if event["event"] == "restored")
    return event


# --- pages --------------------------------------------------------------------------------------


def test_every_page_of_a_tiff_keeps_its_size_type_and_metadata(
    restormer: Callable[..., Outcome],
) -> None:
    """Pages that have nothing in common come back as they were, in their order."""
    write(scans(), "in.tif")
    event = restored(restormer("denoise", "in.tif", "-o", "out.tif", "--json", *EXACT))
    assert (event["width"], event["height"], event["pages"]) == (34, 21, 4)
    assert event["pixels"] == sum(p.pixels[..., 0].size for p in scans())
    for before, after in zip(read("in.tif"), read("out.tif"), strict=True):
        same(before, after)
    assert cv2.imcount("out.tif") == 4  # libtiff's word


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "group4"])
def test_pages_that_others_wrote_are_read_as_others_read_them(compression: str) -> None:
    """Pages of Pillow's, in the usual compressions."""
    mode = "1" if compression == "group4" else "RGB"
    pages = [PIL.Image.fromarray(noise(16 * n, 24, 3, seed=n)).convert(mode) for n in (1, 2, 3)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression=compression)
    with PIL.Image.open(buffer) as reference:
        for number, image in enumerate(image_io.decode(buffer.getvalue()).images):
            reference.seek(number)
            wanted = np.asarray(reference.convert("L" if mode == "1" else "RGB"))
            assert np.array_equal(image.pixels.squeeze(), wanted)


def test_pages_keep_their_byte_order(restormer: Callable[..., Outcome]) -> None:
    """The file is in the order in which its first page's tags were."""
    pages = scans()
    for image in pages:
        image.exif = exif(order=">")
    write(pages, "in.tif")
    assert Path("in.tif").read_bytes()[:4] == b"MM\0*"
    restormer("denoise", "in.tif", "-o", "out.tif", *EXACT)
    assert Path("out.tif").read_bytes()[:4] == b"MM\0*"
    for before, after in zip(read("in.tif"), read("out.tif"), strict=True):
        same(before, after)


def test_smaller_copies_and_masks_are_no_pages(restormer: Callable[..., Outcome]) -> None:
    """They would show the picture as it was before; that they are left out is said."""
    write(scans()[:1] * 3, "in.tif")
    data = bytearray(Path("in.tif").read_bytes())
    at = -1
    for kind in (2, 1, 4):  # the subfile types of a page, a smaller copy and a mask
        at = data.index(b"\xfe\0\x04\0\x01\0\0\0", at + 1)
        data[at + 8] = kind
    Path("in.tif").write_bytes(data)
    event = restored(restormer("denoise", "in.tif", "-o", "out.tif", "--json", *EXACT))
    assert event["pages"] == len(read("out.tif")) == 1
    assert "2 smaller copies or masks of it are left out" in event["notes"]


@pytest.mark.parametrize("target", ["out.png", "out.jpg", "out.webp"])
def test_a_format_without_pages_gets_the_first_and_a_warning(
    target: str, restormer: Callable[..., Outcome]
) -> None:
    """The warning names how many were left."""
    write(scans(), "in.tif")
    event = restored(restormer("denoise", "in.tif", "-o", target, "--json", *EXACT))
    assert event["pages"] == 1
    kind = read(target)[0].format
    assert event["warnings"][0] == f"4 pages, and {kind} holds one: 3 are left out"
    assert read(target)[0].pixels.shape == (21, 34, 3)


def test_in_place_all_pages_are_replaced(restormer: Callable[..., Outcome]) -> None:
    """And what cannot hold them is refused: a GIF's frames would be lost in a BMP of that name."""
    write(scans(), "a.tif")
    before = read("a.tif")
    assert restormer("denoise", "a.tif", "--in-place", *EXACT).status == 0
    for one, other in zip(before, read("a.tif"), strict=True):
        same(one, other)
    Path("b.bmp").write_bytes(animation("GIF"))
    outcome = restormer("denoise", "b.bmp", "--in-place")
    assert outcome.status == 1
    assert "3 frames, and bmp holds one: 2 are left out" in outcome.stderr
    assert Path("b.bmp").read_bytes() == animation("GIF")


def test_in_place_what_a_file_holds_besides_is_not_lost(restormer: Callable[..., Outcome]) -> None:
    """A second picture, a motion photo's film, Photoshop's layers: refused; elsewhere, a note."""
    first, second = (PIL.Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save("a.jpg", "MPO", save_all=True, append_images=[second])
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a GCamera:MotionPhoto="1"/></x:xmpmeta>'
    first.save("b.jpg", xmp=xmp)
    with Path("b.jpg").open("ab") as file:
        file.write(b"\0\0\0\x18ftypmp42")
    first.save("c.tif", tiffinfo={37724: b"Adobe Photoshop Document Data Block\0"})
    for name, held in (("a.jpg", "1 more pictures"), ("b.jpg", "a film"), ("c.tif", "layers")):
        before = Path(name).read_bytes()
        outcome = restormer("denoise", name, "--in-place")
        assert outcome.status == 1
        assert "it holds " in outcome.stderr
        assert held in outcome.stderr
        assert Path(name).read_bytes() == before
        outcome = restormer("denoise", name, *EXACT)
        assert outcome.status == 0
        assert f"note: {name}: " in outcome.stderr
        assert f"{held}" in outcome.stderr


def test_a_page_that_is_damaged_fails_the_file_and_is_named(
    restormer: Callable[..., Outcome],
) -> None:
    """No output with fewer pages than the input is written; the other files go on."""
    Path("f").mkdir()
    write(scans(), "f/a.tif")
    data = bytearray(Path("f/a.tif").read_bytes())
    at = image_io.decode(bytes(data)).count and data.rindex(b"\x78\x9c")  # the last page's strip
    data[at : at + 9] = bytes(9)
    Path("f/b.tif").write_bytes(data)
    outcome = restormer("denoise", "f", "-o", "out", *EXACT)
    assert outcome.status == 1
    assert "error: f/b.tif: page 4: damaged or truncated" in outcome.stderr
    assert tree() == ["f/a.tif", "f/b.tif", "out/a.tif"]


def test_pages_that_go_in_a_circle_are_damage(restormer: Callable[..., Outcome]) -> None:
    """The last one's link leads to the first."""
    write(scans(), "a.tif")
    data = bytearray(Path("a.tif").read_bytes())
    first = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[first : first + 2], "little")
    link = first + 2 + 12 * count
    data[link : link + 4] = data[4:8]
    Path("a.tif").write_bytes(data)
    outcome = restormer("denoise", "a.tif")
    assert outcome.status == 1
    assert "its pages go in a circle" in outcome.stderr


def test_the_limit_on_pixels_is_for_each_page_and_comes_first(
    restormer: Callable[..., Outcome],
) -> None:
    """A page of too many fails the file before any is computed; many small ones are fine."""
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


def test_a_dry_run_tells_the_pages(restormer: Callable[..., Outcome]) -> None:
    """How many there are, and the memory that the largest takes."""
    write(scans(), "a.tif")
    outcome = restormer("denoise", "a.tif", "--dry-run", "--json")
    planned = outcome.events[0]
    assert (planned["width"], planned["height"], planned["pages"]) == (34, 21, 4)
    assert "34 x 21, 4 pages, whole" in outcome.stderr
    assert restormer("denoise", "a.tif").stderr.count("4 pages, ") == 1


def test_notes_are_said_once_or_of_their_page(restormer: Callable[..., Outcome]) -> None:
    """What is true of all pages is said without a number."""
    write([page((20, 30, 3), "uint8", title) for title in "abc"], "a.tif")
    event = restored(restormer("denoise", "a.tif", "-o", "b.tif", "--json", *EXACT))
    assert event["warnings"] == [
        "practically no change: there was nothing to remove, or nothing of this kind"
    ]
    pages = [page((20, 30, 3), "uint8", title, icc=b"bad") for title in "abcd"]
    pages[2].icc = None
    write(pages, "a.tif")
    event = restored(restormer("denoise", "a.tif", "-o", "b.tif", "--json", *EXACT))
    assert event["notes"] == ["pages 1-2, 4: the ICC profile is damaged: kept as it is"]


def test_progress_tells_the_page(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pages together are one image of the bar's."""
    seen: list[console.ImageProgress] = []
    run = backends.run_batch

    def spied(*arguments: Any, **options: Any) -> Any:
        return run(*arguments, **{**options, "progress": seen.append})

    monkeypatch.setattr(backends, "run_batch", spied)
    write(scans(), "a.tif")
    assert restormer("denoise", "a.tif", *EXACT).status == 0
    last = {part.page: str(part) for part in seen}
    assert list(last) == [1, 2, 3, 4]
    assert last[3].startswith("page 3/4, ")
    shares = [part.share for part in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_memory_is_that_of_a_few_pages() -> None:
    """Reading and writing many pages one by one takes no more than a few of them decoded."""
    pages, side = 30, 256
    flat = np.zeros((side, side, 3), "uint8")  # small in its file, so that pages are what counts
    data, _ = image_io.encode((image_io.Image(flat) for _ in range(pages)), "tiff", count=pages)
    tracemalloc.start()
    again, _ = image_io.encode(image_io.decode(data).images, "tiff", count=pages)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image_io.decode(again).count == pages
    assert peak < 12 * flat.nbytes


# --- frames -------------------------------------------------------------------------------------

SHOWN = [Fraction(7, 100), Fraction(3, 10), Fraction(1, 2)]


def frames(alpha: bool = False) -> list[PIL.Image.Image]:
    """Frames of a few flat colours, so that a palette holds them."""
    pictures = []
    for number in range(3):
        picture = PIL.Image.new("RGBA", (24, 18), (200, 30 * number, 90, 255))
        picture.paste((0, 0, 255, 0 if alpha else 255), (number * 6, 3, number * 6 + 5, 12))
        pictures.append(picture if alpha else picture.convert("RGB"))
    return pictures


def animation(kind: str, *, alpha: bool = False, loop: int | None = 2) -> bytes:
    first, *others = frames(alpha)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if loop is not None:
        options["loop"] = loop
    first.save(
        buffer,
        kind,
        save_all=True,
        append_images=others,
        duration=[int(1000 * t) for t in SHOWN],
        **options,
    )
    return buffer.getvalue()


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("target", ["out.png", "out.webp"])
@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_every_frame_is_kept_with_its_duration_and_transparency(
    kind: str, target: str, alpha: bool, restormer: Callable[..., Outcome]
) -> None:
    """From each animated format to each that can be written, as another program shows them."""
    Path(f"in.{kind.lower()}").write_bytes(animation(kind, alpha=alpha))
    command = ("denoise", f"in.{kind.lower()}", "-o", target, "--quality", 100, "--json", *EXACT)
    assert restored(restormer(*command))["pages"] == 3
    lowest = []
    with PIL.Image.open(target) as shown, PIL.Image.open(f"in.{kind.lower()}") as given:
        assert shown.n_frames == 3
        assert shown.info["loop"] == (3 if kind == "GIF" else 2)  # a GIF counts what follows
        for number in range(3):
            shown.seek(number)
            given.seek(number)
            after, before = (np.asarray(i.convert("RGBA")) for i in (shown, given))
            assert np.array_equal(after[..., 3], before[..., 3])
            visible = before[..., 3] > 0
            assert np.array_equal(after[visible], before[visible])
            assert shown.info["duration"] == given.info["duration"]
            lowest.append(after[..., 3].min())
    assert (min(lowest) == 0) == alpha


@pytest.mark.parametrize(("loop", "plays"), [(None, 1), (0, 0), (1, 2)])
def test_a_gif_says_how_often_it_is_repeated(loop: int | None, plays: int) -> None:
    """And without that it runs once."""
    assert next(image_io.decode(animation("GIF", loop=loop)).images).plays == plays


def test_a_gif_becomes_an_animated_png_and_is_not_forced_into_a_palette(
    restormer: Callable[..., Outcome],
) -> None:
    """A palette would undo the restoration; nothing is lost in the PNG."""
    Path("f").mkdir()
    Path("f/a.gif").write_bytes(animation("GIF"))
    assert restored(restormer("denoise", "f", "--json", *EXACT))["output"] == "f-restored/a.png"
    assert [p.duration for p in read("f-restored/a.png")] == SHOWN
    outcome = restormer("denoise", "f/a.gif", "-o", "b.gif")
    assert outcome.status == 2
    assert "does not write .gif files" in outcome.stderr


def test_a_still_format_gets_the_first_frame_and_a_warning(
    restormer: Callable[..., Outcome],
) -> None:
    """TIFF, too: its pages have no durations."""
    Path("a.gif").write_bytes(animation("GIF"))
    for target in ("a.jpg", "a.tif"):
        event = restored(restormer("denoise", "a.gif", "-o", target, "--json", *EXACT))
        assert event["warnings"][0].endswith("holds one: 2 are left out")
        assert len(read(target)) == 1


def test_an_animated_avif_keeps_its_frames(restormer: Callable[..., Outcome]) -> None:
    """Within what its quality changes."""
    Path("a.avif").write_bytes(animation("AVIF"))
    before = read("a.avif")
    event = restored(restormer("denoise", "a.avif", "-o", "b.avif", "--json", *EXACT))
    assert event["pages"] == 3
    for one, other in zip(before, read("b.avif"), strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 2
        assert one.duration == other.duration


@pytest.mark.parametrize(("dispose", "blend"), [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)])
def test_frames_of_a_png_are_composed_as_others_compose_them(dispose: int, blend: int) -> None:
    """Parts of the picture, put onto what is left of the frame before, in every way."""
    rng = np.random.default_rng(0)
    opaque = noise(20, 30, 4, seed=1) | np.array([0, 0, 0, 255], "uint8")
    pictures = [PIL.Image.fromarray(opaque)]
    for seed in (2, 3):
        canvas = np.asarray(pictures[-1]).copy()
        part = rng.integers(0, 256, (8, 9, 4), "uint8")
        part[..., 3] = np.where(part[..., 3] > 99, 255, 0)
        canvas[seed : seed + 8, seed : seed + 9] = part
        pictures.append(PIL.Image.fromarray(canvas))
    buffer = io.BytesIO()
    # Of the first there is no frame before: Pillow goes back to it all the same.
    ways = [0, dispose, dispose]
    pictures[0].save(
        buffer, "PNG", save_all=True, append_images=pictures[1:], disposal=ways, blend=blend
    )
    found = image_io.decode(buffer.getvalue())
    with PIL.Image.open(buffer) as reference:
        assert found.count == reference.n_frames
        for number, image in enumerate(found.images):
            reference.seek(number)
            wanted = np.asarray(reference.convert("RGBA"))
            visible = wanted[..., 3] > 0
            assert np.array_equal(image.alpha, wanted[..., 3])
            assert np.array_equal(image.pixels[visible], wanted[visible][:, :3])


def test_a_frame_that_is_taken_back_leaves_what_was_before() -> None:
    """Drawn over the first, half of it transparent; then undone. Pillow undoes nothing here."""
    base, part = noise(6, 8, 4, seed=1), noise(2, 3, 4, seed=2)
    base[..., 3], part[..., 3] = 255, [[0, 255, 255], [255, 0, 0]]
    given = [(base, (8, 6, 0, 0), 0), (part, (3, 2, 4, 1), 2), (part, (3, 2, 0, 3), 0)]
    body, number = chunk(b"acTL", struct.pack(">II", 3, 0)), 0
    for samples, place, dispose in given:
        body += chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, *place, 1, 10, dispose, 1))
        pixels = png(samples, 6, 8)
        pixels = pixels[pixels.index(b"IDAT") + 4 : pixels.index(b"IEND") - 8]
        body += chunk(b"fdAT", struct.pack(">I", number + 1) + pixels)
        number += 2
    head = png(base, 6, 8)[:33]
    pictures = list(image_io.decode(head + body + chunk(b"IEND", b"")).images)
    for (_, (_, _, left, top), _), image in zip(given[1:], pictures[1:], strict=True):
        wanted = base.copy()
        place = wanted[top : top + 2, left : left + 3]
        place[part[..., 3] > 0] = part[part[..., 3] > 0]
        assert np.array_equal(image.samples(), wanted)


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_a_deep_animation_is_not_cut_to_8_bits(
    samples: int, restormer: Callable[..., Outcome]
) -> None:
    """Grey or colour, with alpha or without; nor are its durations to hundredths of a second."""
    colours = 1 if samples < 3 else 3
    given = []
    for seed in range(3):
        deep = noise(12, 15, samples, "uint16", seed)
        alpha = deep[..., -1] if samples in (2, 4) else None
        duration = Fraction(1001, 24000 + seed)
        given.append(image_io.Image(deep[..., :colours], alpha, duration=duration, plays=4))
    write(given, "in.png")
    assert restormer("denoise", "in.png", "-o", "out.png", *EXACT).status == 0
    for one, other in zip(given, read("out.png"), strict=True):
        same(one, other)


def test_the_metadata_of_an_animation_are_kept(restormer: Callable[..., Outcome]) -> None:
    """ICC, EXIF and XMP are the whole animation's."""
    rng = np.random.default_rng(0)
    given = [image_io.Image(rng.integers(0, 256, (9, 9, 3), "uint8")) for _ in range(3)]
    for image in given:
        image.icc, image.exif, image.xmp = wide_gamut(), exif(), b"<x:xmpmeta/>"
        image.duration = Fraction(1, 10)
    write(given, "in.png")
    for target in ("out.png", "out.webp"):
        restormer("denoise", "in.png", "-o", target, "--quality", 100, *EXACT)
        (first, *others) = read(target)
        assert len(others) == 2
        same(first, given[0]) if target == "out.png" else None
        assert (first.icc, first.xmp) == (given[0].icc, given[0].xmp)
        assert tags(first.exif or b"") == tags(given[0].exif or b"")


@pytest.mark.parametrize(
    "seconds", [Fraction(0), Fraction(1, 3), Fraction(90000), Fraction("9.9999")]
)
def test_durations_are_kept_as_nearly_as_two_numbers_of_16_bits_can(seconds: Fraction) -> None:
    """Up to eighteen hours."""
    pictures = [image_io.Image(noise(4, 4, 3, seed=n), duration=seconds) for n in range(2)]
    data = png_codec.encode_all(pictures, 2, 95)
    kept = next(image_io.decode(data).images).duration
    assert kept is not None
    assert abs(kept - min(seconds, 65535)) <= Fraction(1, 1000)


def test_a_still_picture_beside_the_frames_is_left_out_and_said() -> None:
    """It is what viewers show that know no animation."""
    write([image_io.Image(noise(6, 7, 3, seed=n)) for n in range(2)], "a.png")
    data = Path("a.png").read_bytes()
    control = data.index(b"fcTL") - 4
    still = chunk(b"IDAT", b"")
    found = image_io.decode(data[:control] + still + data[control:])
    assert found.count == 2
    assert next(found.images).notes == [
        "the still picture for viewers without animation is left out"
    ]


def test_a_frame_that_is_missing_is_damage(restormer: Callable[..., Outcome]) -> None:
    """Their parts are numbered: none is left out without a word."""
    write([image_io.Image(noise(6, 7, 3, seed=n)) for n in range(3)], "a.png")
    data = Path("a.png").read_bytes()
    first, second = (i - 4 for i in (data.index(b"fcTL", 100 + data.index(b"IDAT")),) * 2)
    second = data.index(b"fcTL", first + 8) - 4
    Path("a.png").write_bytes(data[:first] + data[second:])
    outcome = restormer("denoise", "a.png")
    assert outcome.status == 1
    assert "damaged or truncated (a part of a frame is missing)" in outcome.stderr


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_the_size_is_known_before_any_frame_is_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch, restormer: Callable[..., Outcome]
) -> None:
    """What is too large by its header is refused without a decoder's help."""
    Path("a.img").write_bytes(animation(kind, loop=0))

    def decoded(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(PIL.Image.Image, "load", decoded)
    monkeypatch.setattr(png_codec, "decode", decoded)
    outcome = restormer("denoise", "a.img", "--max-pixels", 400)
    assert outcome.status == 1
    assert "24 x 18 pixels, over the limit of 400" in outcome.stderr


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [(1, 60000, "a frame lies outside the picture"), (None, None, "its end is missing")],
)
def test_a_gif_that_is_larger_or_shorter_than_it_says_is_damage(
    place: int | None, value: int | None, said: str, restormer: Callable[..., Outcome]
) -> None:
    """Its frames would grow the picture to gigabytes, or some would be lost without a word."""
    data = bytearray(animation("GIF"))
    if place is None or value is None:
        data = data[: len(data) * 2 // 3]
    else:
        second = data.index(b"\x2c", data.index(b"\x21\xf9", 200) + 8)  # an image descriptor
        data[second + place : second + place + 2] = value.to_bytes(2, "little")
    Path("a.gif").write_bytes(data)
    outcome = restormer("denoise", "a.gif")
    assert outcome.status == 1
    assert f"error: a.gif: damaged or truncated ({said})" in outcome.stderr
