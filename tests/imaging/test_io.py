"""Files to arrays and back: what goes in comes out, and what is broken is said."""

from __future__ import annotations

import importlib.util
import io
import os
import stat
import struct
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restormer_cli.errors import ImageError
from restormer_cli.imaging import io as image_io
from tests.support.camera import dng, mosaic
from tests.support.image_files import (
    XMP,
    chunk,
    directory,
    encoded,
    exif,
    noise,
    png,
    tags,
    wide_gamut,
)

SIZES = [(13, 17), (1, 1), (1, 4000), (40, 33)]


def again(image, path, **options):
    """Write and read; nothing may be lost, so there is nothing to say."""
    assert image_io.write_image(image, path, **options) == []
    return image_io.read_image(path)


def same(one, other):
    """Both images hold the same samples of the same type and the same metadata."""
    assert one.pixels.dtype == other.pixels.dtype
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert (one.alpha is None) == (other.alpha is None)
    if one.alpha is not None:
        assert one.alpha.dtype == other.alpha.dtype
        np.testing.assert_array_equal(one.alpha, other.alpha)
    assert (one.icc, one.exif, one.xmp) == (other.icc, other.exif, other.xmp)
    assert one.extras == other.extras


# Sample values


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_integer_value_survives_floats(dtype):
    """to_float and from_float are exact inverses over the whole range."""
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    floats = image_io.to_float(values)
    assert (floats.dtype, floats.min(), floats.max()) == (np.float32, 0, 1)
    back = image_io.from_float(floats, dtype)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1), st.sampled_from(["uint8", "uint16"]))
@settings(max_examples=50, deadline=None)
def test_floats_are_clamped_and_rounded_to_even(values, dtype):
    """from_float gives the nearest step of the clamped value."""
    array = np.array(values, np.float32)
    top = np.iinfo(dtype).max
    expected = np.rint(np.clip(array, 0, 1) * np.float32(top))
    np.testing.assert_array_equal(image_io.from_float(array, dtype), expected)


def test_halves_round_to_even():
    """A value midway between two steps goes to the even one."""
    steps = image_io.from_float(np.array([0.5, 1.5, 2.5]) / 255, "uint8")
    assert steps.tolist() == [0, 2, 2]


def test_float_images_keep_values_outside_the_range():
    """float32 passes through both conversions untouched."""
    array = np.array([[-2.0, 0.5, 7.0]], np.float32)
    assert image_io.to_float(array) is array
    np.testing.assert_array_equal(image_io.from_float(array, np.float32), array)


# Lossless formats, pixel for pixel


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("colour_type", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_is_read_at_its_own_depth(size, depth, colour_type, samples):
    """Each PNG layout is read exactly, without a cut to 8 bits or a detour over RGB."""
    expected = noise(*size, samples, f"uint{depth}")
    image = image_io.read_image(png(expected, colour_type, depth))
    colours = 1 if samples < 3 else 3
    np.testing.assert_array_equal(image.pixels, expected[..., :colours])
    assert image.pixels.dtype == expected.dtype
    assert (image.alpha is None) == (samples in (1, 3))
    if image.alpha is not None:
        np.testing.assert_array_equal(image.alpha, expected[..., -1])


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
    """Writing and reading PNG and TIFF changes no sample, number of channels or depth."""
    samples = noise(*size, colours + 1, dtype)
    image = image_io.Image(
        samples[..., :colours],
        samples[..., colours] if alpha else None,
        kind,
        wide_gamut(),
        exif(),
        XMP % 1,
    )
    back = again(image, tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(back.pixels, image.pixels)
    assert back.pixels.dtype == image.pixels.dtype
    if alpha:
        np.testing.assert_array_equal(back.alpha, image.alpha)
    assert (back.icc, back.xmp, tags(back.exif)) == (image.icc, image.xmp, tags(image.exif))
    same(back, again(back, tmp_path / f"b.{kind}"))
    assert back.format == kind


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_another_decoder_reads_our_png_alike(samples, depth):
    """Pillow finds in our PNG the samples that went in, as far as it has bits for them."""
    expected = noise(9, 11, samples, f"uint{depth}")
    colours = 1 if samples < 3 else 3
    image = image_io.Image(
        expected[..., :colours], expected[..., -1] if samples in (2, 4) else None
    )
    buffer = io.BytesIO()
    image_io.write_image(image, buffer)
    with PIL.Image.open(buffer) as picture:
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
    """1-bit becomes grey 8, a palette becomes RGB, and its transparency becomes alpha."""
    picture = PIL.Image.fromarray(noise(9, 11, 3)).convert(mode)
    options = {} if transparency is None else {"transparency": transparency}
    data = encoded(picture, "PNG", **options)
    with PIL.Image.open(io.BytesIO(data)) as reference:
        wanted = np.asarray(reference.convert({1: "L", 3: "RGBA"}[colours])).reshape(9, 11, -1)
    image = image_io.read_image(data)
    np.testing.assert_array_equal(image.pixels, wanted[..., :colours])
    assert (image.alpha is not None) == alpha
    if alpha:
        np.testing.assert_array_equal(image.alpha, wanted[..., 3])
    same(image, again(image, tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("colour_type", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)]
)
def test_a_transparent_colour_becomes_alpha(colour_type, depth):
    """PNG's tRNS makes exactly the samples of its colour transparent, at any depth."""
    samples = noise(6, 5, 3 if colour_type else 1, "uint16") >> (16 - depth)
    key = samples[2, 3]
    image = image_io.read_image(
        png(samples, colour_type, depth, chunk(b"tRNS", key.astype(">u2").tobytes()))
    )
    top = np.iinfo(image.pixels.dtype).max
    np.testing.assert_array_equal(image.alpha, (samples != key).any(axis=2) * top)
    np.testing.assert_array_equal(image.pixels, samples * (top // (2**depth - 1)))


@pytest.mark.parametrize("orders", [("<", ">"), (">", "<")])
def test_tiff_keeps_its_byte_order_out_of_the_pixels(tmp_path, orders):
    """Big- and little-endian TIFFs of the same samples read alike."""
    samples = noise(7, 9, 3, "uint16")
    both = [
        again(
            image_io.Image(samples, format="tiff", exif=exif(order=order)),
            tmp_path / "a.tif",
        )
        for order in orders
    ]
    assert (tmp_path / "a.tif").read_bytes()[:2] == (b"II" if orders[1] == "<" else b"MM")
    for image in both:
        np.testing.assert_array_equal(image.pixels, samples)


@pytest.mark.parametrize("compression", ["LZW", "ADOBE_DEFLATE", "PACKBITS", "NONE"])
@pytest.mark.parametrize(
    ("dtype", "predictor"),
    [
        ("uint8", "NONE"),
        ("uint8", "HORIZONTAL"),
        ("uint16", "NONE"),
        ("uint16", "HORIZONTAL"),
        ("float32", "NONE"),
        ("float32", "HORIZONTAL"),
        ("float32", "FLOATINGPOINT"),
    ],
)
def test_tiffs_of_libtiff_are_read_exactly(dtype, compression, predictor):
    """What OpenCV's libtiff wrote, with any compression and predictor, is read sample by sample."""
    samples = noise(21, 18, 3, dtype)
    options = [
        cv2.IMWRITE_TIFF_COMPRESSION,
        getattr(cv2, f"IMWRITE_TIFF_COMPRESSION_{compression}"),
    ]
    options += [cv2.IMWRITE_TIFF_PREDICTOR, getattr(cv2, f"IMWRITE_TIFF_PREDICTOR_{predictor}")]
    options += [cv2.IMWRITE_TIFF_ROWSPERSTRIP, 4]
    data = cv2.imencode(".tif", samples[..., ::-1].copy(), options)[1].tobytes()
    np.testing.assert_array_equal(image_io.read_image(data).pixels, samples)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("colours", [1, 3])
def test_libtiff_reads_our_tiff_alike(dtype, colours):
    """OpenCV finds in our TIFF, predictor undone, the samples that went in."""
    samples = noise(300, 211, colours, dtype)
    buffer = io.BytesIO()
    image_io.write_image(image_io.Image(samples, format="tiff"), buffer)
    seen = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(seen.reshape(300, 211, colours)[..., ::-1], samples)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_compressed_tiffs_are_read_as_pillow_decodes_them(mode):
    """A TIFF whose compression is not bytewise goes through Pillow."""
    picture = PIL.Image.fromarray(noise(32, 48, 3)).convert(mode)
    data = encoded(picture, "TIFF", compression="jpeg" if mode != "CMYK" else "raw")
    with PIL.Image.open(io.BytesIO(data)) as reference:
        wanted = np.asarray(reference.convert("L" if mode == "L" else "RGB")).reshape(32, 48, -1)
    np.testing.assert_array_equal(image_io.read_image(data).pixels, wanted)


@pytest.mark.parametrize("layout", ["tiles", "planes", "white is zero", "associated", "float64"])
def test_unusual_tiffs_are_read_exactly(layout):
    """Tiles, planes, inverted grey and wide floats give the samples that they stand for."""
    samples = noise(20, 24, 2 if layout == "associated" else 1, "uint16")
    if layout == "planes":
        samples = noise(20, 24, 3, "uint16")
    stored = samples
    entries = {256: 24, 257: 20, 258: 16, 259: 1, 262: 1, 277: samples.shape[2], 284: 1}
    if layout == "tiles":
        padded = np.zeros((32, 32, 1), "uint16")
        padded[:20, :24] = samples
        pieces = [padded[y : y + 16, x : x + 16] for y in (0, 16) for x in (0, 16)]
        entries |= {322: 16, 323: 16}
    elif layout == "planes":
        pieces = [samples[..., plane] for plane in range(3)]
        entries |= {262: 2, 284: 2}
    elif layout == "white is zero":
        pieces = [65535 - samples]
        entries[262] = 0
    elif layout == "float64":
        stored = noise(20, 24, 1, "float64")
        pieces = [stored]
        entries |= {258: 64, 339: 3}
    else:
        pieces = [samples]
        entries[338] = 1
    blocks = [piece.astype(piece.dtype.newbyteorder(">")).tobytes() for piece in pieces]
    starts = [8 + sum(map(len, blocks[:n])) for n in range(len(blocks))]
    where, sizes = (324, 325) if layout == "tiles" else (273, 279)
    rows = [(tag, 4, 1, struct.pack(">I", value)) for tag, value in entries.items()]
    for tag, values in ((where, starts), (sizes, map(len, blocks))):
        rows.append((tag, 4, len(blocks), struct.pack(f">{len(blocks)}I", *values)))
    body = b"".join(blocks)
    at = 8 + len(body)
    data = b"MM" + struct.pack(">HI", 42, at) + body + directory(">", at, sorted(rows))
    image = image_io.read_image(data)
    if layout == "float64":
        np.testing.assert_array_equal(image.pixels, stored.astype("float32"))
        assert image.notes == ["float64 samples are read as float32"]
        return
    np.testing.assert_array_equal(image.pixels, samples[..., : 3 if layout == "planes" else 1])
    if layout == "associated":
        np.testing.assert_array_equal(image.alpha, samples[..., 1])
        assert image.premultiplied


def test_premultiplied_colour_is_divided_for_formats_without_it(tmp_path):
    """Associated alpha stays so in a TIFF; in a PNG colour is divided by it, with a note."""
    pixels, alpha = np.full((1, 2, 3), 20000, "uint16"), np.array([[40000, 0]], "uint16")
    image = image_io.Image(pixels, alpha, "tiff", premultiplied=True)
    assert again(image, tmp_path / "a.tif").premultiplied
    assert len(image_io.write_image(image, tmp_path / "a.png")) == 1
    divided = image_io.read_image(tmp_path / "a.png")
    assert abs(int(divided.pixels[0, 0, 0]) - 65535 // 2) <= 1
    np.testing.assert_array_equal(divided.alpha, alpha)


def test_photoshop_layers_and_storage_tags_do_not_reach_a_written_tiff(tmp_path):
    """Tags that describe the old pixels go; a private one that describes the picture stays."""
    block = b"II" + struct.pack("<HI", 42, 8)
    private, layers = (50000, 7, 6, b"secret"), (37724, 7, 6, b"layers")
    block += directory("<", 8, [(273, 4, 1, b"\1"), layers, private])
    image = again(image_io.Image(noise(3, 4, 3), format="tiff", exif=block), tmp_path / "a.tif")
    assert b"secret" in image.exif
    assert b"layers" not in (tmp_path / "a.tif").read_bytes()


def test_a_png_with_a_gamma_of_its_own_says_so_when_it_becomes_another_format(tmp_path):
    """A linear PNG would be dark as a JPEG; the gamma and primaries of sRGB are everybody's."""
    linear = image_io.read_image(
        png(noise(5, 4, 3), 2, 8, chunk(b"gAMA", struct.pack(">I", 100000)))
    )
    assert image_io.write_image(linear, tmp_path / "a.png") == []
    (note,) = image_io.write_image(linear, tmp_path / "a.jpg")
    assert "gamma or primaries" in note
    usual = image_io.read_image(png(noise(5, 4, 3), 2, 8, chunk(b"gAMA", struct.pack(">I", 45455))))
    assert image_io.write_image(usual, tmp_path / "a.jpg") == []


@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_webp_stays_lossless(tmp_path, alpha):
    """A lossless WebP is written losslessly, colour under full transparency included."""
    samples = noise(13, 17, 4 if alpha else 3)
    options = {"lossless": True, "exact": True, "icc_profile": wide_gamut(), "exif": exif()}
    data = encoded(PIL.Image.fromarray(samples), "WEBP", xmp=XMP % 1, **options)
    image = image_io.read_image(data)
    np.testing.assert_array_equal(image.pixels, samples[..., :3])
    assert (image.icc, image.exif, image.xmp) == (wide_gamut(), exif(), XMP % 1)
    same(image, again(image, tmp_path / "a.webp"))


@pytest.mark.parametrize(("quality", "exact"), [(100, True), (95, False)])
def test_quality_100_is_lossless_webp(tmp_path, quality, exact):
    """Another format becomes lossy WebP, or lossless WebP at quality 100."""
    image = image_io.Image(noise(30, 40, 3))
    back = again(image, tmp_path / "a.webp", quality=quality)
    assert np.array_equal(back.pixels, image.pixels) == exact
    assert back.lossless == exact


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_bmp_keeps_every_sample(tmp_path, samples):
    """BMP keeps grey, RGB and RGBA, and the resolution."""
    pixels = noise(13, 17, samples)
    alpha = pixels[..., 3] if samples == 4 else None
    image = image_io.Image(pixels[..., : min(samples, 3)], alpha, "bmp", dpi=(300, 150))
    back = again(image, tmp_path / "a.bmp")
    same(image, back)
    assert back.dpi == pytest.approx(image.dpi, rel=1e-4)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_read_as_pillow_decodes_it_and_keeps_its_metadata(tmp_path, mode):
    """A JPEG's pixels are Pillow's, and ICC, EXIF, XMP, comment and density survive."""
    picture = PIL.Image.fromarray(noise(30, 40, 3)).convert(mode)
    icc = wide_gamut(b"GRAY" if mode == "L" else b"RGB ") * 40  # several segments
    options = {"icc_profile": icc, "exif": b"Exif\0\0" + exif(), "xmp": XMP % 1}
    data = encoded(picture, "JPEG", comment=b"gr\xfc\xdf", dpi=(72, 300), **options)
    image = image_io.read_image(data)
    with PIL.Image.open(io.BytesIO(data)) as reference:
        np.testing.assert_array_equal(image.pixels.squeeze(), np.asarray(reference))
    assert (image.icc, image.exif, image.xmp) == (icc, exif(), XMP % 1)
    back = again(image, tmp_path / "a.jpg")
    assert (back.icc, back.exif, back.xmp) == (image.icc, image.exif, image.xmp)
    assert set(back.extras) == set(image.extras)
    with PIL.Image.open(tmp_path / "a.jpg") as written:
        assert (written.info["comment"], written.info["dpi"]) == (b"gr\xfc\xdf", (72, 300))
        assert mode == "L" or written.layer[0][1:3] == written.layer[1][1:3] == (1, 1)


def test_exif_over_64_kb_survives_a_jpeg(tmp_path):
    """A long EXIF block is split over segments and read whole."""
    block = exif(maker_note=bytes(range(256)) * 600)
    back = again(image_io.Image(noise(8, 8, 3), format="jpeg", exif=block), tmp_path / "a.jpg")
    assert back.exif == block


@pytest.mark.parametrize("profile", [True, False])
def test_cmyk_jpegs_become_rgb(profile):
    """CMYK is converted and said so; its profile, which fits RGB no more, is dropped."""
    picture = PIL.Image.fromarray(noise(16, 16, 3)).convert("CMYK")
    data = encoded(picture, "JPEG", **({"icc_profile": wide_gamut(b"CMYK")} if profile else {}))
    image = image_io.read_image(data)
    assert image.pixels.shape == (16, 16, 3)
    assert image.icc is None
    assert image.notes[0] == "CMYK is converted to RGB"


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("top", [65535, 1023])
def test_deep_pnm_is_not_cut_to_8_bits(colours, top):
    """A PGM or PPM of more than 255 levels is read as 16 bits, scaled to their full range."""
    samples = noise(6, 7, colours, "uint16") & top
    head = b"P%d # dcraw\n7 6\n%d\n" % (5 if colours == 1 else 6, top)
    image = image_io.read_image(head + samples.astype(">u2").tobytes())
    np.testing.assert_array_equal(image.pixels, np.rint(samples * (65535 / top)))
    assert image.pixels.dtype == np.uint16


@pytest.mark.parametrize(
    ("bpc", "notes"), [(1, []), (2, ["sgi of more than 8 bits is read as 8 bits"])]
)
def test_bits_that_pillow_cuts_are_said(bpc, notes):
    """Where the decoder knows 8 bits only, a deeper file gives a note."""
    data = encoded(PIL.Image.fromarray(noise(6, 7, 3)), "SGI", bpc=bpc)
    assert image_io.read_image(data).notes == notes


# Metadata


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_applied_once(tmp_path, kind, orientation, order):
    """The picture comes upright, the tags say so, and every other tag is as it was."""
    samples = noise(6, 9, 3 if kind == "jpeg" else 4)
    alpha = None if kind == "jpeg" else samples[..., 3]
    block = exif(orientation, order)
    xmp = XMP % orientation
    lying = image_io.Image(samples[..., :3], alpha, kind, exif=block, xmp=xmp, lossless=True)
    assert image_io.write_image(lying, tmp_path / "a") == []
    image = image_io.read_image(tmp_path / "a")
    with PIL.Image.open(tmp_path / "a") as stored:
        stored = (
            stored.copy() if kind == "tiff" else stored.convert("RGB" if alpha is None else "RGBA")
        )
        if kind != "tiff":  # which Pillow has turned already
            turned = PIL.Image.Exif()
            turned[274] = orientation
            stored.info["exif"] = turned.tobytes()
            stored.getexif()[274] = orientation
            stored = PIL.ImageOps.exif_transpose(stored)
        upright = np.asarray(stored)
    np.testing.assert_array_equal(image.pixels, upright[..., :3])
    if alpha is not None:
        np.testing.assert_array_equal(image.alpha, upright[..., 3])
    if kind == "tiff":
        assert tags(image.exif) == tags(block)
    else:
        assert image.exif == exif(1, order)
    assert image.xmp == XMP % 1
    back = again(image, tmp_path / "b")
    if kind != "jpeg":
        same(image, back)
    assert back.exif == image.exif


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_no_thumbnail_shows_the_picture_as_it_was(tmp_path, kind, order):
    """Nothing leads to it any more, and all the rest of the EXIF is as it was."""
    block = exif(1, order, thumbnail=True)
    image = again(image_io.Image(noise(5, 4, 3), format=kind, exif=block), tmp_path / "a")
    parsed = PIL.Image.Exif()
    parsed.load(b"Exif\0\0" + block)
    assert parsed.get_ifd(PIL.ExifTags.IFD.IFD1)
    parsed.load(b"Exif\0\0" + image.exif)
    assert not parsed.get_ifd(PIL.ExifTags.IFD.IFD1)
    assert tags(image.exif) == tags(block)


def test_png_chunks_survive(tmp_path):
    """Gamma, chromaticities, density, text and time survive; chunks tied to old data go."""
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
    same(image, again(image, tmp_path / "a.png"))


def test_wide_gamut_and_hdr_are_kept_or_their_loss_is_said(tmp_path):
    """Without a profile, by numbers: PNG holds them, and in JPEG the colours would look wrong."""
    image = image_io.read_image(png(noise(5, 4, 3), 2, 8, chunk(b"cICP", bytes([9, 16, 0, 1]))))
    assert image.cicp == (9, 16, 0, 1)
    assert image_io.write_image(image, tmp_path / "a.png") == []
    assert image_io.read_image(tmp_path / "a.png").cicp == image.cicp
    (note,) = image_io.write_image(image, tmp_path / "a.jpg")
    assert "does not say what the colours are (CICP 9/16): they will look wrong" in note
    profiled = replace(image, icc=wide_gamut())
    assert image_io.write_image(profiled, tmp_path / "a.jpg") == []
    assert image_io.write_image(replace(image, cicp=(1, 13, 0, 1)), tmp_path / "a.jpg") == []


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "bmp"])
def test_resolution_crosses_formats(tmp_path, kind):
    """A scan's dots per inch are kept when its format changes."""
    data = encoded(PIL.Image.fromarray(noise(5, 4, 3)), "TIFF", dpi=(300, 600))
    image = replace(image_io.read_image(data), exif=None)
    back = again(image, tmp_path / f"a.{kind}")
    assert back.dpi == pytest.approx((300, 600), rel=1e-4)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_damaged_metadata_does_not_stop_the_image(tmp_path, kind):
    """Broken EXIF and ICC are said, and the pixels are read and written."""
    image = image_io.Image(noise(5, 4, 3), format=kind, icc=b"no profile" * 20, exif=b"II*\0junk")
    notes = image_io.write_image(image, tmp_path / "a")
    assert len(notes) == (kind == "tiff")
    back = image_io.read_image(tmp_path / "a")
    assert "the ICC profile is damaged: kept as it is" in back.notes
    assert any("EXIF is damaged" in note for note in back.notes) == (kind != "tiff")
    assert back.pixels.shape == (5, 4, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_read(kind):
    """Animations and pages give their first picture, stereo pairs with a note."""
    first, second = (PIL.Image.fromarray(noise(16, 16, 3, seed=seed)) for seed in (1, 2))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    image = image_io.read_image(data)
    with PIL.Image.open(io.BytesIO(data)) as reference:
        np.testing.assert_array_equal(image.pixels, np.asarray(reference.convert("RGB")))
    assert ("1 more pictures" in " ".join(image.notes)) == (kind == "MPO")
    assert image.format == {"MPO": "jpeg"}.get(kind, kind.lower())


# What a format cannot hold


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
def test_what_is_lost_is_said(tmp_path, kind, dtype, colours, alpha, expected):
    """A format that cannot hold the samples gets the nearest, and each loss has its note."""
    samples = noise(8, 9, colours + 1, dtype)
    image = image_io.Image(samples[..., :colours], samples[..., -1] if alpha else None)
    notes = image_io.write_image(image, tmp_path / "a", format=kind)
    assert len(notes) == len(expected)
    assert all(note.startswith(start) for note, start in zip(notes, expected, strict=True))
    assert image_io.read_image(tmp_path / "a").format == kind


def test_16_bits_round_to_the_nearest_8(tmp_path):
    """A deeper image is rounded, not cut, to the 8 bits of a lossless WebP."""
    samples = np.arange(65536, dtype="uint16").reshape(256, 256, 1).repeat(3, axis=2)
    image_io.write_image(image_io.Image(samples), tmp_path / "a.webp", quality=100)
    rounded = np.rint(samples / 257)
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "a.webp").pixels, rounded)


@pytest.mark.parametrize(
    ("name", "expected"), [("a.JPG", "jpeg"), ("a.tiff", "tiff"), ("a", "webp"), ("a.dib", "bmp")]
)
def test_the_suffix_names_the_format(tmp_path, name, expected):
    """The target's suffix decides in either case, and without one the image's own format."""
    image_io.write_image(image_io.Image(noise(4, 4, 3), format="webp"), tmp_path / name)
    assert image_io.read_image(tmp_path / name).format == expected


def test_a_format_without_encoder_is_written_as_png():
    """A GIF that goes to a stream becomes a PNG, with a note."""
    image = image_io.read_image(encoded(PIL.Image.fromarray(noise(4, 4, 1)[..., 0]), "GIF"))
    buffer = io.BytesIO()
    assert image_io.write_image(image, buffer) == ["gif cannot be written: PNG instead"]
    assert image_io.read_image(buffer.getvalue()).format == "png"


def test_a_folder_run_picks_up_every_written_suffix():
    """Every suffix is lower case with its dot, and our formats are all among them."""
    suffixes = image_io.readable_suffixes()
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif"} <= suffixes
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes)


# Files

NAMES = ["Fotografía café 写真.png", "[1].png", "a b*?.png", "-x.png", "x" * 251 + ".png"]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_will_do(tmp_path, name):
    """Names outside ASCII, with brackets, or as long as can be are written and read."""
    image = image_io.Image(noise(3, 4, 3))
    same(image, again(image, tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_outputs_have_the_users_permissions(tmp_path, umask):
    """A new file follows the umask; a replaced one keeps its mode."""
    before = os.umask(umask)
    try:
        image_io.write_image(image_io.Image(noise(3, 4, 3)), tmp_path / "a.png")
        assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o666 & ~umask
        (tmp_path / "a.png").chmod(0o640)
        image_io.write_image(image_io.Image(noise(3, 4, 3)), tmp_path / "a.png")
        assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_a_link_stays_a_link(tmp_path):
    """Writing to a symbolic link replaces the file that it points to."""
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    image_io.write_image(image_io.Image(noise(3, 4, 3)), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert image_io.read_image(tmp_path / "real.png").pixels.shape == (3, 4, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    """A target that is no regular file stays what it is."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    image_io.write_image(image_io.Image(noise(3, 4, 3)), pipe)
    reader.join(10)
    assert image_io.read_image(received[0]).pixels.shape == (3, 4, 3)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failure):
    """When writing stops half-way, the target is untouched and the temporary is gone."""
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    seen = []

    def fail(descriptor):
        seen.extend(path.name for path in tmp_path.iterdir() if path != target)
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((ImageError, KeyboardInterrupt)) as caught:
        image_io.write_image(image_io.Image(noise(3, 4, 3)), target)
    if isinstance(failure, OSError):
        assert caught.value.message == f"{target}: cannot write (No space left on device)"
    assert len(seen) == 1
    assert seen[0].startswith(".a.png.")
    assert seen[0].endswith(".restormer-tmp")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["missing/a.png", "folder.png", "file/a.png", "x" * 300 + ".png"])
def test_a_target_that_cannot_be_is_an_image_error(tmp_path, name):
    """A missing folder, a folder or a name too long is one error that names the output."""
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ImageError) as caught:
        image_io.write_image(image_io.Image(noise(3, 4, 3)), tmp_path / name)
    assert name in caught.value.message
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [("a.xyz", (3, 4, 3), "cannot write the format xyz"), ("a.webp", (1, 16384, 3), "16383")],
)
def test_what_no_encoder_takes_is_an_image_error(tmp_path, name, shape, said):
    """An unknown suffix, or more pixels than the format allows, is said with its remedy."""
    with pytest.raises(ImageError, match=said) as caught:
        image_io.write_image(image_io.Image(np.zeros(shape, "uint8")), tmp_path / name)
    assert caught.value.hint


# Bad input


def bad_files():
    """Name, bytes and what the error says."""
    photo = noise(40, 50, 3)
    whole = {
        "png": png(photo, 2, 8),
        "deep.png": png(photo.astype("uint16") * 257, 2, 16),
        "jpg": encoded(PIL.Image.fromarray(photo), "JPEG"),
        "webp": encoded(PIL.Image.fromarray(photo), "WEBP"),
        "tif": encoded(PIL.Image.fromarray(photo), "TIFF", compression="tiff_lzw"),
        "bmp": encoded(PIL.Image.fromarray(photo), "BMP"),
    }
    for name, data in whole.items():
        yield f"half.{name}", data[: len(data) // 2], "damaged|not an image"
    yield "empty.png", b"", "empty"
    yield "text.png", b"hello, world", "not an image"
    yield (
        "short.png",
        png(photo[:20], 2, 8).replace(
            chunk(b"IHDR", struct.pack(">IIBBBBB", 50, 20, 8, 2, 0, 0, 0)),
            chunk(b"IHDR", struct.pack(">IIBBBBB", 50, 40, 8, 2, 0, 0, 0)),
        ),
        "damaged",
    )
    yield (
        "zero.png",
        whole["png"].replace(struct.pack(">II", 50, 40), struct.pack(">II", 0, 40)),
        "nothing to restore",
    )
    bomb = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    yield "bomb.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bomb), "over the limit"
    wide = struct.pack("<iiHH", 40000, 40000, 1, 24)
    yield "bomb.bmp", whole["bmp"][:18] + wide + whole["bmp"][30:], "over the limit"
    entries = [(256, 4, 1, b"\0\0\1\0"), (257, 4, 1, b"\0\0\1\0")]
    bomb = b"II" + struct.pack("<HI", 42, 8) + directory("<", 8, entries)
    yield "bomb.tif", bomb, "over the limit"
    raw = [(50706, 1, 4, b"\1\4\0\0"), (256, 4, 1, b"\1"), (257, 4, 1, b"\1")]
    yield "raw.dng", b"II" + struct.pack("<HI", 42, 8) + directory("<", 8, sorted(raw)), "raw"


@pytest.mark.parametrize(
    ("name", "data", "said"), [pytest.param(*bad, id=bad[0]) for bad in bad_files()]
)
def test_bad_files_are_one_clear_line(tmp_path, name, data, said):
    """A broken file is an ImageError of one line that names the file, and says what is wrong."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError, match=said) as caught:
        image_io.read_image(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("name", "said"), [("missing.png", "no such file"), (".", "a folder")])
def test_what_is_no_file_is_said(tmp_path, name, said):
    """A missing file and a folder are told apart."""
    with pytest.raises(ImageError, match=said) as caught:
        image_io.read_image(tmp_path / name)
    assert caught.value.hint


def test_an_unreadable_file_is_said(tmp_path, monkeypatch):
    """No permission is an ImageError that says so."""

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match="Permission denied"):
        image_io.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 3])
def test_values_that_are_no_numbers_are_refused(value, channel):
    """A float image with NaN or infinity, in colour or alpha, is not read."""
    samples = noise(5, 4, 4, "float32")
    samples[2, 1, channel] = value
    buffer = io.BytesIO()
    image_io.write_image(image_io.Image(samples[..., :3], samples[..., 3], "tiff"), buffer)
    with pytest.raises(ImageError, match="NaN or infinite"):
        image_io.read_image(buffer.getvalue())


def test_checksums_of_png_chunks_are_checked():
    """A wrong checksum of the pixels is an error, one of a text is a note."""
    whole = png(noise(3, 4, 3), 2, 8, chunk(b"tEXt", b"Author\0Jane"))
    image = image_io.read_image(whole.replace(b"Jane", b"Jade"))
    assert image.notes == ["a damaged chunk, b'tEXt', is left out"]
    assert image.extras == ()
    at = whole.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", whole, at)
    broken = whole[: at + 8 + length] + b"\0\0\0\0" + whole[at + 12 + length :]
    with pytest.raises(ImageError, match="wrong checksum"):
        image_io.read_image(broken)


def test_the_pixel_limit_is_the_callers():
    """An image of exactly `max_pixels` is read, one more is not."""
    data = png(noise(10, 10, 1), 0, 8)
    assert image_io.read_image(data, max_pixels=100).pixels.shape == (10, 10, 1)
    with pytest.raises(ImageError, match="10 x 10 pixels, over the limit of 99"):
        image_io.read_image(data, max_pixels=99)


def test_streams_are_read_and_named():
    """A stream is read to its end, and an error calls it by its name."""
    data = png(noise(3, 4, 3), 2, 8)
    assert image_io.read_image(io.BytesIO(data)).pixels.shape == (3, 4, 3)
    with pytest.raises(ImageError, match="<input>: not an image"):
        image_io.read_image(io.BytesIO(b"no"))


def fuzzed():
    """Small whole files of each kind."""
    picture = PIL.Image.fromarray(noise(9, 8, 3))
    info = {"exif": exif(6), "icc_profile": wide_gamut()}
    yield png(noise(9, 8, 4, "uint16"), 6, 16, chunk(b"eXIf", exif(6)))
    yield png(noise(9, 8, 1) % 4, 3, 8, chunk(b"PLTE", bytes(range(12))))
    yield encoded(picture, "JPEG", exif=b"Exif\0\0" + exif(6), xmp=XMP % 6)
    yield encoded(picture, "WEBP", lossless=True, **info)
    yield encoded(picture, "TIFF", compression="tiff_lzw")
    for dtype in ("uint16", "float32"):
        buffer = io.BytesIO()
        samples = noise(9, 8, 4, dtype)
        image_io.write_image(
            image_io.Image(samples[..., :3], samples[..., 3], "tiff", exif=exif()), buffer
        )
        yield buffer.getvalue()
    yield encoded(picture, "BMP")
    for kind in ("GIF", "WEBP", "AVIF"):
        others = [PIL.Image.fromarray(noise(9, 8, 3, seed=seed)) for seed in (1, 2)]
        yield encoded(picture, kind, save_all=True, append_images=others, duration=70, loop=2)
    pages = [image_io.Image(noise(9, 8, 3, seed=seed), exif=exif()) for seed in range(3)]
    for kind in ("tiff", "png"):
        yield image_io.encode(pages, kind, count=3)[0]
    if image_io.heif.writable():
        yield image_io.encode([image_io.Image(noise(9, 8, 3), exif=exif())], "heif")[0]
    if importlib.util.find_spec("rawpy"):
        yield dng(mosaic(np.full((24, 32, 3), 0.5)))


WHOLE = list(fuzzed())


@given(st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_only_image_errors_escape(data):
    """Whatever bits are flipped and wherever it is cut, all is read or is an ImageError."""
    whole = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    try:
        found = list(image_io.decode(bytes(whole[:cut]), max_pixels=100_000).images)
    except ImageError as error:
        assert error.message  # noqa: PT017 - both outcomes are right
    else:
        assert all(image.pixels.ndim == 3 and image.pixels.size > 0 for image in found)
