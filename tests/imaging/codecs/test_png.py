"""PNG: every layout and depth, and the chunks."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from restormer_cli.errors import ImageError
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from tests.support.image_files import (
    assert_same_image,
    chunk,
    encoded,
    noise,
    png,
    rewritten,
    wide_gamut,
)

SIZES = [(13, 17), (1, 1), (1, 4000), (40, 33)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("colour_type", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_is_read_at_its_own_depth(size, depth, colour_type, samples):
    """Each PNG layout is read exactly, at its own depth and number of channels."""
    expected = noise(*size, samples, f"uint{depth}")
    image = image_io.read_image(png(expected, colour_type, depth))
    colours = 1 if samples < 3 else 3
    np.testing.assert_array_equal(image.pixels, expected[..., :colours])
    assert image.pixels.dtype == expected.dtype
    assert (image.alpha is None) == (samples in (1, 3))
    if image.alpha is not None:
        np.testing.assert_array_equal(image.alpha, expected[..., -1])


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_pillow_reads_our_png(samples, depth):
    """Pillow reads the samples from our PNG, at 8 bits where it supports no more."""
    expected = noise(9, 11, samples, f"uint{depth}")
    colours = 1 if samples < 3 else 3
    image = Image(expected[..., :colours], expected[..., -1] if samples in (2, 4) else None)
    data, _ = image_io.encode([image], "png")
    with PIL.Image.open(io.BytesIO(data)) as picture:
        grey = "I;16" if depth == 16 and samples == 1 else "L"
        seen = np.asarray(picture.convert({1: grey, 2: "LA", 3: "RGB", 4: "RGBA"}[samples]))
    seen = seen.reshape(9, 11, -1)
    if depth == 16 and samples > 1:
        expected = (expected >> 8).astype("uint8")
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize(
    ("mode", "transparency", "colours", "alpha"),
    [("1", None, 1, False), ("P", None, 3, False), ("P", bytes([0, 128, 255]), 3, True)],
)
def test_bilevel_and_palette_pngs_become_plain_samples(
    tmp_path, mode, transparency, colours, alpha
):
    """1 bit becomes 8-bit grey, a palette RGB, and its transparency alpha."""
    picture = PIL.Image.fromarray(noise(9, 11, 3)).convert(mode)
    options = {} if transparency is None else {"transparency": transparency}
    data = encoded(picture, "PNG", **options)
    with PIL.Image.open(io.BytesIO(data)) as reference:
        expected = np.asarray(reference.convert({1: "L", 3: "RGBA"}[colours])).reshape(9, 11, -1)
    image = image_io.read_image(data)
    np.testing.assert_array_equal(image.pixels, expected[..., :colours])
    assert (image.alpha is not None) == alpha
    if alpha:
        np.testing.assert_array_equal(image.alpha, expected[..., 3])
    assert_same_image(image, rewritten(image, tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("colour_type", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)]
)
def test_a_transparent_colour_becomes_alpha(colour_type, depth):
    """A tRNS chunk makes exactly the samples of its colour transparent, at any depth."""
    samples = noise(6, 5, 3 if colour_type else 1, "uint16") >> (16 - depth)
    key = samples[2, 3]
    image = image_io.read_image(
        png(samples, colour_type, depth, chunk(b"tRNS", key.astype(">u2").tobytes()))
    )
    top = np.iinfo(image.pixels.dtype).max
    np.testing.assert_array_equal(image.alpha, (samples != key).any(axis=2) * top)
    np.testing.assert_array_equal(image.pixels, samples * (top // (2**depth - 1)))


def test_png_chunks_are_kept(tmp_path):
    """Gamma, chromaticities, density, text and time are kept; chunks about the old data are not."""
    kept = [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", bytes(32)),
        (b"sBIT", bytes([5, 6, 5])),
        (b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
        (b"tEXt", b"Author\0Jane"),
        (b"tIME", bytes([7, 232, 2, 29, 12, 0, 0])),
    ]
    chunks = [chunk(*pair) for pair in [*kept, (b"iDOT", bytes(28))]]
    image = image_io.read_image(png(noise(5, 4, 3), 2, 8, *chunks))
    assert image.extras == tuple(kept)
    assert image.dpi == pytest.approx((300, 300), rel=1e-4)
    assert_same_image(image, rewritten(image, tmp_path / "a.png"))


def test_checksums_of_png_chunks_are_checked():
    """A wrong checksum is an error for the pixels and a note for a text."""
    whole = png(noise(3, 4, 3), 2, 8, chunk(b"tEXt", b"Author\0Jane"))
    image = image_io.read_image(whole.replace(b"Jane", b"Jade"))
    assert image.losses == ["a damaged chunk, b'tEXt', is left out"]
    assert image.extras == ()
    at = whole.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", whole, at)
    broken = whole[: at + 8 + length] + b"\0\0\0\0" + whole[at + 12 + length :]
    with pytest.raises(ImageError, match="its coded data is corrupt"):
        image_io.read_image(broken)


@pytest.mark.parametrize(("missing", "kept"), [(0, True), (2, True), (60, False)])
def test_a_profile_without_its_end_is_left_out(missing, kept):
    """A profile that is cut off is noted, unless only its checksum is incomplete."""
    icc = wide_gamut()
    packed = zlib.compress(icc)
    body = b"name\0\0" + packed[: len(packed) - missing]
    image = image_io.read_image(png(noise(4, 5, 3), 2, 8, chunk(b"iCCP", body)))
    assert image.icc == (icc if kept else None)
    assert image.losses == ([] if kept else ["the ICC profile is damaged: it is left out"])


@pytest.mark.parametrize("animated", [False, True])
def test_checksums_are_computed_once_for_the_file(animated, monkeypatch):
    """Reading sums each chunk of the file once, and once more only what OpenCV decodes."""
    samples = noise(6, 5, 3)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in samples))
    control = struct.pack(">IIIIIHHBB", 0, 5, 6, 0, 0, 1, 10, 0, 0)
    second = struct.pack(">I", 1) + control[4:]
    animation = [
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"fcTL", control),
    ]
    data = png(samples, 2, 8, chunk(b"tEXt", b"Author\0Jane"), *animation * animated)
    if animated:
        frame = chunk(b"fcTL", second) + chunk(b"fdAT", struct.pack(">I", 2) + pixels)
        data = data[:-12] + frame + data[-12:]
    summed = []

    def crc32(body, start=0):
        if start:  # the kind comes first
            summed.append(bytes(body))
        return zlib_crc32(body, start)

    zlib_crc32 = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", crc32)
    images = image_io.decode(data)
    assert len(list(images.images)) == 1 + animated
    assert summed.count(b"Author\0Jane") == 1
    assert summed.count(pixels) == 2 + animated  # the second frame's, after its number
