"""Capabilities of the formats: losses are noted, and everything else is kept."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.formats import readable_suffixes
from restormer_cli.imaging.image import Image
from tests.support.image_files import (
    XMP,
    assert_same_image,
    chunk,
    encoded,
    exif,
    noise,
    png,
    rewritten,
    tags,
    wide_gamut,
)

SIZES = [(13, 17), (1, 1), (1, 4000), (40, 33)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("png", "uint8"),
        ("png", "uint16"),
        ("tiff", "uint8"),
        ("tiff", "uint16"),
        ("tiff", "float32"),
    ],
)
def test_lossless_formats_keep_every_sample(tmp_path, kind, dtype, colours, alpha, size):
    """PNG and TIFF keep all samples, channels, depth and metadata."""
    samples = noise(*size, colours + 1, dtype)
    image = Image(
        samples[..., :colours],
        samples[..., colours] if alpha else None,
        kind,
        wide_gamut(),
        exif(),
        XMP % 1,
    )
    back = rewritten(image, tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(back.pixels, image.pixels)
    assert back.pixels.dtype == image.pixels.dtype
    if alpha:
        np.testing.assert_array_equal(back.alpha, image.alpha)
    assert (back.icc, back.xmp, tags(back.exif)) == (image.icc, image.xmp, tags(image.exif))
    assert_same_image(back, rewritten(back, tmp_path / f"b.{kind}"))
    assert back.format == kind


@pytest.mark.parametrize(
    ("kind", "dtype", "colours", "alpha", "expected"),
    [
        ("jpeg", "uint16", 3, True, ["jpeg has no alpha", "jpeg holds no uint16"]),
        ("png", "float32", 3, False, ["values outside 0..1", "png holds no float32"]),
        ("webp", "uint8", 1, False, ["webp has no grey"]),
        ("bmp", "uint8", 1, True, ["bmp has no grey with alpha"]),
        ("tiff", "float32", 1, True, []),
    ],
)
def test_each_loss_is_noted(tmp_path, kind, dtype, colours, alpha, expected):
    """Samples that a format does not support are converted, with a note on each loss."""
    samples = noise(8, 9, colours + 1, dtype)
    image = Image(samples[..., :colours], samples[..., -1] if alpha else None)
    notes = image_io.write_image(image, tmp_path / f"a.{kind}")
    assert len(notes) == len(expected)
    assert all(note.startswith(start) for note, start in zip(notes, expected, strict=True))
    assert image_io.read_image(tmp_path / f"a.{kind}").format == kind


def test_16_bits_round_to_the_nearest_8(tmp_path):
    """Conversion to 8 bits rounds and does not truncate."""
    samples = np.arange(65536, dtype="uint16").reshape(256, 256, 1).repeat(3, axis=2)
    image_io.write_image(Image(samples), tmp_path / "a.webp", quality=100)
    rounded = np.rint(samples / 257)
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "a.webp").pixels, rounded)


def test_premultiplied_colour_is_divided_for_formats_without_it(tmp_path):
    """Associated alpha is kept in a TIFF; for a PNG, colour is divided by it, with a note."""
    pixels, alpha = np.full((1, 2, 3), 20000, "uint16"), np.array([[40000, 0]], "uint16")
    image = Image(pixels, alpha, "tiff", premultiplied=True)
    assert rewritten(image, tmp_path / "a.tif").premultiplied
    assert len(image_io.write_image(image, tmp_path / "a.png")) == 1
    divided = image_io.read_image(tmp_path / "a.png")
    assert abs(int(divided.pixels[0, 0, 0]) - 65535 // 2) <= 1
    np.testing.assert_array_equal(divided.alpha, alpha)


def test_losing_an_unusual_gamma_is_noted(tmp_path):
    """Losing a PNG's gamma is noted, unless it is that of sRGB."""
    linear = image_io.read_image(
        png(noise(5, 4, 3), 2, 8, chunk(b"gAMA", struct.pack(">I", 100000)))
    )
    assert image_io.write_image(linear, tmp_path / "a.png") == []
    (note,) = image_io.write_image(linear, tmp_path / "a.jpg")
    assert "gamma or primaries" in note
    usual = image_io.read_image(png(noise(5, 4, 3), 2, 8, chunk(b"gAMA", struct.pack(">I", 45455))))
    assert image_io.write_image(usual, tmp_path / "a.jpg") == []


def test_a_colour_space_without_profile_is_kept_or_its_loss_noted(tmp_path):
    """PNG keeps a colour space without a profile; its loss in a JPEG is noted."""
    image = image_io.read_image(png(noise(5, 4, 3), 2, 8, chunk(b"cICP", bytes([9, 16, 0, 1]))))
    assert image.cicp == (9, 16, 0, 1)
    assert image_io.write_image(image, tmp_path / "a.png") == []
    assert image_io.read_image(tmp_path / "a.png").cicp == image.cicp
    (note,) = image_io.write_image(image, tmp_path / "a.jpg")
    assert "cannot hold the colour space (CICP 9/16): colours will look wrong" in note
    profiled = replace(image, icc=wide_gamut())
    assert image_io.write_image(profiled, tmp_path / "a.jpg") == []
    assert image_io.write_image(replace(image, cicp=(1, 13, 0, 1)), tmp_path / "a.jpg") == []


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_unrestored_thumbnail_is_removed(tmp_path, kind, order):
    """The link to the EXIF thumbnail is removed, and all other tags are kept."""
    block = exif(1, order, thumbnail=True)
    image = rewritten(Image(noise(5, 4, 3), format=kind, exif=block), tmp_path / "a")
    parsed = PIL.Image.Exif()
    parsed.load(b"Exif\0\0" + block)
    assert parsed.get_ifd(PIL.ExifTags.IFD.IFD1)
    parsed.load(b"Exif\0\0" + image.exif)
    assert not parsed.get_ifd(PIL.ExifTags.IFD.IFD1)
    assert tags(image.exif) == tags(block)


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "bmp"])
def test_resolution_is_kept_in_other_formats(tmp_path, kind):
    """The resolution is kept when the format changes."""
    data = encoded(PIL.Image.fromarray(noise(5, 4, 3)), "TIFF", dpi=(300, 600))
    image = replace(image_io.read_image(data), exif=None)
    back = rewritten(image, tmp_path / f"a.{kind}")
    assert back.dpi == pytest.approx((300, 600), rel=1e-4)


def test_every_written_suffix_is_readable():
    """Suffixes are in lower case with their dot, and include all written formats."""
    suffixes = readable_suffixes()
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif"} <= suffixes
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes)
