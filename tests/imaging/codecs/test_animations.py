"""Animations: every frame is restored, with its duration and transparency."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs import png as png_codec
from restormer_cli.imaging.image import Image
from tests.support.image_files import chunk, exif, noise, png, tags, wide_gamut
from tests.support.program import Outcome
from tests.support.sequences import (
    DURATIONS,
    animation,
    assert_same_page,
    read,
    restored,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

EXACT = ("--precision", "fp32")


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("target", ["out.png", "out.webp"])
@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_every_frame_is_kept_with_its_duration_and_transparency(
    kind: str, target: str, alpha: bool, restormer: Callable[..., Outcome]
) -> None:
    """Each animated format is restored to each writable one, as Pillow shows them."""
    Path(f"in.{kind.lower()}").write_bytes(animation(kind, alpha=alpha))
    command = ("denoise", f"in.{kind.lower()}", "-o", target, "--quality", 100, "--json", *EXACT)
    assert restored(restormer(*command))["pages"] == 3
    lowest = []
    with PIL.Image.open(target) as shown, PIL.Image.open(f"in.{kind.lower()}") as original:
        assert shown.n_frames == 3
        assert shown.info["loop"] == (3 if kind == "GIF" else 2)  # a GIF counts repetitions
        for number in range(3):
            shown.seek(number)
            original.seek(number)
            after, before = (np.asarray(i.convert("RGBA")) for i in (shown, original))
            assert np.array_equal(after[..., 3], before[..., 3])
            visible = before[..., 3] > 0
            assert np.array_equal(after[visible], before[visible])
            assert shown.info["duration"] == original.info["duration"]
            lowest.append(after[..., 3].min())
    assert (min(lowest) == 0) == alpha


@pytest.mark.parametrize(("loop", "plays"), [(None, 1), (0, 0), (1, 2)])
def test_the_loop_count_of_a_gif_becomes_plays(loop: int | None, plays: int) -> None:
    """A GIF's loop count is converted to plays; without one it plays once."""
    assert next(image_io.decode(animation("GIF", loop=loop)).images).plays == plays


def test_a_gif_becomes_an_animated_png(
    restormer: Callable[..., Outcome],
) -> None:
    """A GIF is restored to an animated PNG, since a palette would undo the restoration."""
    Path("f").mkdir()
    Path("f/a.gif").write_bytes(animation("GIF"))
    assert restored(restormer("denoise", "f", "--json", *EXACT))["output"] == "f-restored/a.png"
    assert [p.duration for p in read("f-restored/a.png")] == DURATIONS
    outcome = restormer("denoise", "f/a.gif", "-o", "b.gif")
    assert outcome.status == 2
    assert "does not write .gif files" in outcome.stderr


def test_a_still_format_gets_the_first_frame_and_a_warning(
    restormer: Callable[..., Outcome],
) -> None:
    """Only the first frame is written to a JPEG or TIFF."""
    Path("a.gif").write_bytes(animation("GIF"))
    for target in ("a.jpg", "a.tif"):
        event = restored(restormer("denoise", "a.gif", "-o", target, "--json", *EXACT))
        assert event["warnings"][0].endswith("holds one: 2 are left out")
        assert len(read(target)) == 1


def test_an_animated_avif_keeps_its_frames(restormer: Callable[..., Outcome]) -> None:
    """Frames and durations of an AVIF are kept, within the loss of its quality."""
    Path("a.avif").write_bytes(animation("AVIF"))
    before = read("a.avif")
    event = restored(restormer("denoise", "a.avif", "-o", "b.avif", "--json", *EXACT))
    assert event["pages"] == 3
    for expected, actual in zip(before, read("b.avif"), strict=True):
        assert np.abs(expected.pixels.astype(int) - actual.pixels).mean() < 2
        assert actual.duration == expected.duration


@pytest.mark.parametrize(("dispose", "blend"), [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)])
def test_frames_of_a_png_are_composed_as_by_pillow(dispose: int, blend: int) -> None:
    """Partial frames are composed as Pillow does, for each disposal and blending."""
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
    # Not for the first frame, which has no previous one: Pillow would go back to it.
    ways = [0, dispose, dispose]
    pictures[0].save(
        buffer, "PNG", save_all=True, append_images=pictures[1:], disposal=ways, blend=blend
    )
    sequence = image_io.decode(buffer.getvalue())
    with PIL.Image.open(buffer) as reference:
        assert sequence.count == reference.n_frames
        for number, image in enumerate(sequence.images):
            reference.seek(number)
            expected = np.asarray(reference.convert("RGBA"))
            visible = expected[..., 3] > 0
            assert np.array_equal(image.alpha, expected[..., 3])
            assert np.array_equal(image.pixels[visible], expected[visible][:, :3])


def test_a_disposed_frame_restores_the_previous_one() -> None:
    """Disposal to the previous frame restores it, unlike in Pillow."""
    base, part = noise(6, 8, 4, seed=1), noise(2, 3, 4, seed=2)
    base[..., 3], part[..., 3] = 255, [[0, 255, 255], [255, 0, 0]]
    original = [(base, (8, 6, 0, 0), 0), (part, (3, 2, 4, 1), 2), (part, (3, 2, 0, 3), 0)]
    body, number = chunk(b"acTL", struct.pack(">II", 3, 0)), 0
    for samples, place, dispose in original:
        body += chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, *place, 1, 10, dispose, 1))
        pixels = png(samples, 6, 8)
        pixels = pixels[pixels.index(b"IDAT") + 4 : pixels.index(b"IEND") - 8]
        body += chunk(b"fdAT", struct.pack(">I", number + 1) + pixels)
        number += 2
    head = png(base, 6, 8)[:33]
    pictures = list(image_io.decode(head + body + chunk(b"IEND", b"")).images)
    for (_, (_, _, left, top), _), image in zip(original[1:], pictures[1:], strict=True):
        expected = base.copy()
        place = expected[top : top + 2, left : left + 3]
        place[part[..., 3] > 0] = part[part[..., 3] > 0]
        assert np.array_equal(image.samples(), expected)


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_a_deep_animation_is_not_cut_to_8_bits(
    samples: int, restormer: Callable[..., Outcome]
) -> None:
    """16-bit frames and fine durations are kept."""
    colours = 1 if samples < 3 else 3
    original = []
    for seed in range(3):
        deep = noise(12, 15, samples, "uint16", seed)
        alpha = deep[..., -1] if samples in (2, 4) else None
        duration = Fraction(1001, 24000 + seed)
        original.append(Image(deep[..., :colours], alpha, duration=duration, plays=4))
    write(original, "in.png")
    assert restormer("denoise", "in.png", "-o", "out.png", *EXACT).status == 0
    for expected, actual in zip(original, read("out.png"), strict=True):
        assert_same_page(actual, expected)


def test_the_metadata_of_an_animation_are_kept(restormer: Callable[..., Outcome]) -> None:
    """ICC, EXIF and XMP of an animation are kept."""
    rng = np.random.default_rng(0)
    original = [Image(rng.integers(0, 256, (9, 9, 3), "uint8")) for _ in range(3)]
    for image in original:
        image.icc, image.exif, image.xmp = wide_gamut(), exif(), b"<x:xmpmeta/>"
        image.duration = Fraction(1, 10)
    write(original, "in.png")
    for target in ("out.png", "out.webp"):
        restormer("denoise", "in.png", "-o", target, "--quality", 100, *EXACT)
        (first, *others) = read(target)
        assert len(others) == 2
        assert_same_page(first, original[0]) if target == "out.png" else None
        assert (first.icc, first.xmp) == (original[0].icc, original[0].xmp)
        assert tags(first.exif or b"") == tags(original[0].exif or b"")


@pytest.mark.parametrize(
    "seconds", [Fraction(0), Fraction(1, 3), Fraction(90000), Fraction("9.9999")]
)
def test_durations_are_the_nearest_fractions_of_16_bit_numbers(seconds: Fraction) -> None:
    """Durations are the nearest fractions of 16-bit numbers, up to eighteen hours."""
    pictures = [Image(noise(4, 4, 3, seed=n), duration=seconds) for n in range(2)]
    data = png_codec.encode(pictures, 2, 95)
    kept = next(image_io.decode(data).images).duration
    assert kept is not None
    assert abs(kept - min(seconds, 65535)) <= Fraction(1, 1000)


def test_a_still_picture_beside_the_frames_is_left_out_with_a_note() -> None:
    """The picture for viewers without animation is left out with a note."""
    write([Image(noise(6, 7, 3, seed=n)) for n in range(2)], "a.png")
    data = Path("a.png").read_bytes()
    control = data.index(b"fcTL") - 4
    still = chunk(b"IDAT", b"")
    sequence = image_io.decode(data[:control] + still + data[control:])
    assert sequence.count == 2
    assert next(sequence.images).losses == [
        "a still picture for viewers without animation: left out"
    ]


def test_a_missing_frame_is_damage(restormer: Callable[..., Outcome]) -> None:
    """A gap in the sequence numbers is damage."""
    write([Image(noise(6, 7, 3, seed=n)) for n in range(3)], "a.png")
    data = Path("a.png").read_bytes()
    first, second = (i - 4 for i in (data.index(b"fcTL", 100 + data.index(b"IDAT")),) * 2)
    second = data.index(b"fcTL", first + 8) - 4
    Path("a.png").write_bytes(data[:first] + data[second:])
    outcome = restormer("denoise", "a.png")
    assert outcome.status == 1
    assert "damaged or truncated (part of a frame is missing)" in outcome.stderr


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_the_size_is_known_before_any_frame_is_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch, restormer: Callable[..., Outcome]
) -> None:
    """An image too large by its header is refused before any frame is decoded."""
    Path("a.img").write_bytes(animation(kind, loop=0))

    def decoded(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(PIL.Image.Image, "load", decoded)
    monkeypatch.setattr(png_codec, "decode_still", decoded)
    outcome = restormer("denoise", "a.img", "--max-pixels", 400)
    assert outcome.status == 1
    assert "24 x 18 pixels, over the limit of 400" in outcome.stderr


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, 60000, "a frame lies outside the picture"),
        (None, None, "its end is missing"),
    ],
)
def test_a_gif_that_contradicts_its_header_is_damage(
    place: int | None, value: int | None, message: str, restormer: Callable[..., Outcome]
) -> None:
    """A frame outside the picture or a missing end is damage."""
    data = bytearray(animation("GIF"))
    if place is None or value is None:
        data = data[: len(data) * 2 // 3]
    else:
        second = data.index(b"\x2c", data.index(b"\x21\xf9", 200) + 8)  # an image descriptor
        data[second + place : second + place + 2] = value.to_bytes(2, "little")
    Path("a.gif").write_bytes(data)
    outcome = restormer("denoise", "a.gif")
    assert outcome.status == 1
    assert message in outcome.stderr
    assert "damaged" in outcome.stderr
