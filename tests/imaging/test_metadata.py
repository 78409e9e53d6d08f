"""Metadata: carried to every format that can hold it, or noted."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs.blocks import exif as exif_blocks
from restormer_cli.imaging.image import Image
from tests.support.image_files import chunk, encoded, exif, png, tags, wide_gamut
from tests.support.metadata import (
    IPTC,
    PIXELS,
    RDF,
    XMP_START,
    converted,
    encode,
    jpeg,
    photoshop,
    raw_profile,
    resource,
    segment,
    text_png,
    user_comment,
)


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_iptc_and_comments_of_a_jpeg_cross_formats_and_return(kind):
    """IPTC is kept byte for byte, there and back; comments are kept too."""
    data = jpeg(photoshop(resource(0x0404, IPTC)), segment(0xFE, "grüß".encode()))
    written, image, notes = converted(data, kind)
    assert image.iptc == IPTC
    assert notes == (
        ["png has no standard place for IPTC: kept as ImageMagick does"] if kind == "png" else []
    )
    if kind == "tiff":
        assert user_comment(image) == b"UNICODE\0" + "grüß".encode("utf-16-be")
    else:
        assert image.texts == (("Comment", "grüß"),)
    assert converted(written, "jpeg")[1].iptc == IPTC


@pytest.mark.parametrize("kind", ["webp", "avif", "bmp"])
def test_what_a_format_cannot_hold_is_named_in_one_note(kind):
    """IPTC is left out with a note; a BMP's names all that is lost."""
    exif_segment = segment(0xE1, b"Exif\0\0" + exif())
    data = jpeg(exif_segment, photoshop(resource(0x0404, IPTC)), segment(0xFE, b"hello"))
    _, image, notes = converted(data, kind)
    if kind == "bmp":
        assert notes == ["bmp has no EXIF, IPTC, texts (Comment): they are left out"]
    else:
        assert notes == [f"{kind} has no IPTC: it is left out"]
        assert user_comment(image) == b"ASCII\0\0\0hello"
        assert exif_blocks.parse(image.exif).raw(315) == b"Jane\0"


@pytest.mark.parametrize("kind", ["jpeg", "webp", "tiff", "avif"])
def test_png_texts_go_to_the_tags_that_fit(kind):
    """Texts with a tag of their own go there; those of image generators to the user comment."""
    texts = {"Title": "T", "Author": "Jörg", "Copyright": "Nobody", "parameters": "Seed: 42"}
    texts["Creation Time"] = "Fri, 01 Mar 2024 10:11:12 GMT"
    _, image, notes = converted(text_png(*texts.items()), kind)
    assert notes == []
    block = exif_blocks.parse(image.exif)
    values = [block.raw(tag) for tag in (270, 315, 33432, 306)]
    assert values == [b"T\0", "Jörg\0".encode(), b"Nobody\0", b"2024:03:01 10:11:12\0"]
    assert user_comment(image) == b"ASCII\0\0\0Seed: 42"


def test_texts_do_not_replace_tags_and_all_offsets_of_exif_stay():
    """A tag that is there already stays; its text becomes a comment; maker notes do not move."""
    data = text_png(("Author", "Other"), ("Software", "S"), exif=b"Exif\0\0" + exif())
    _, image, notes = converted(data, "jpeg")
    assert notes == []
    assert image.texts == (("Comment", "Author: Other"),)
    main, details, gps = tags(image.exif)
    assert main == {**tags(exif())[0], 305: "S"}
    assert (details, gps) == tags(exif())[1:]
    note = b"\x01\xffmaker\x00note"
    assert image.exif.index(note) == exif().index(note)


def test_texts_that_find_no_place_are_named():
    """If the user comment is taken, a note names the texts that are lost, once each."""
    taken = exif_blocks.with_tags(
        exif(),
        {34665: (4, 1, exif_blocks.Directory("<", {37510: (7, 9, b"ASCII\0\0\0x", 0)}), 0)},
    )
    data = text_png(("prompt", "a"), ("prompt", "b"), ("Title", "T"), exif=b"Exif\0\0" + taken)
    _, image, notes = converted(data, "webp")
    assert notes == ["webp has no texts (prompt): they are left out"]
    assert user_comment(image) == b"ASCII\0\0\0x"


def test_long_texts_and_other_scripts_reach_a_jpeg():
    """A text over 64 kB is divided between comments, at whole characters."""
    text = "日本" * 40000
    _, image, notes = converted(text_png(("Comment", text)), "jpeg")
    assert notes == []
    assert "".join(value for _, value in image.texts) == text


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_comments_of_gifs_are_kept(kind):
    """The comments of a GIF are kept, also one that stands after the picture."""
    data = encoded(PIL.Image.fromarray(PIXELS).quantize(8), "GIF", comment=b"hello from 1998")
    data = data[:-1] + b"\x21\xfe\x03end\0" + data[-1:]
    _, image, notes = converted(data, kind)
    assert notes == []
    if kind == "webp":
        assert user_comment(image) == b"ASCII\0\0\0hello from 1998\nend"
    else:
        assert image.texts == (("Comment", "hello from 1998"), ("Comment", "end"))


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp", "avif", "bmp"])
def test_resolution_reaches_every_format(kind):
    """300 dpi are kept, in EXIF where a format has no other place."""
    written, image, notes = converted(text_png(dpi=(300, 300)), kind)
    assert notes == []
    assert image.dpi == pytest.approx((300, 300), rel=1e-5)
    if kind == "webp":
        assert PIL.Image.open(io.BytesIO(written)).getexif()[282] == 300


@pytest.mark.parametrize(
    ("kind", "dpi"),
    [
        ("jpeg", 70000),
        ("jpeg", 0.1),
        ("tiff", 5e9),
        ("webp", 5e9),
        ("png", 6e7),
        ("bmp", 6e7),
        *((kind, bad) for kind in ("png", "jpeg", "tiff", "bmp") for bad in (0, -72, float("nan"))),
    ],
)
def test_a_resolution_that_does_not_fit_is_left_out_with_a_note(kind, dpi):
    """Numbers outside a format's range, and invalid ones, are never wrapped or rounded to 0."""
    data, (notes,) = encode([Image(PIXELS, dpi=(dpi, dpi))], kind)
    assert notes == [f"{dpi:.0f} dpi do not fit {kind}: left out"]
    assert image_io.read_image(data).dpi in (None, (1.0, 1.0))


def test_a_tiff_holds_millions_of_dpi():
    """A TIFF's rational numbers hold a resolution of millions."""
    _, image, notes = converted(text_png(dpi=(5e6, 5e6)), "tiff")
    assert (notes, image.dpi) == ([], (5e6, 5e6))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["exif", "APP1"])
def test_the_orientation_in_a_raw_profile_is_applied(name, packed):
    """EXIF in ImageMagick's text turns the picture, and becomes EXIF in the output."""
    data = png(PIXELS, 2, 8, raw_profile(name, b"Exif\0\0" + exif(6), packed))
    image = image_io.read_image(data)
    np.testing.assert_array_equal(image.pixels, np.rot90(PIXELS, -1))
    assert image.exif == exif(1)
    for kind in ("jpeg", "png"):
        written, back, _ = converted(data, kind)
        assert tags(back.exif) == tags(exif())
        assert b"Raw profile" not in written


@pytest.mark.parametrize(
    ("name", "data", "field"),
    [
        ("iptc", IPTC, "iptc"),
        ("iptc", resource(0x0404, IPTC), "iptc"),
        ("8bim", resource(0x0404, IPTC), "iptc"),
        ("icc", wide_gamut(), "icc"),
        ("icm", wide_gamut(), "icc"),
        ("xmp", RDF % (b"", b""), "xmp"),
        ("APP1", XMP_START + RDF % (b"", b""), "xmp"),
    ],
)
def test_raw_profiles_are_read(name, data, field):
    """Each kind of ImageMagick's raw profiles is read, and goes to other formats."""
    expected = data.removeprefix(XMP_START) if field != "iptc" else IPTC
    source = png(PIXELS, 2, 8, raw_profile(name, data))
    assert getattr(image_io.read_image(source), field) == expected
    for kind in ("jpeg", "png", "tiff"):
        _, image, notes = converted(source, kind)
        assert (getattr(image, field), notes) == (expected, [])


def test_a_chunk_of_its_own_takes_precedence_over_a_raw_profile():
    """The orientation of eXIf counts, and not an older copy of it."""
    old = raw_profile("exif", b"Exif\0\0" + exif(6))
    image = image_io.read_image(png(PIXELS, 2, 8, old, chunk(b"eXIf", exif(1))))
    np.testing.assert_array_equal(image.pixels, PIXELS)


def test_a_text_that_inflates_without_end_is_left_out():
    """A compressed text over the limit is left out with a note, and damaged ones are too."""
    bomb = zlib.compress(bytes(2**26 + 1))
    chunks = [
        b"bomb\0\0" + bomb,
        b"cut\0\0" + zlib.compress(b"x" * 99)[:-6],
        b"good\0\0" + bomb[:0],
    ]
    chunks[2] += zlib.compress(b"y")
    image = image_io.read_image(png(PIXELS, 2, 8, *(chunk(b"zTXt", body) for body in chunks)))
    assert image.texts == (("good", "y"),)
    assert image.losses == [
        f"the text {name!r} is damaged or too long: it is left out" for name in ("bomb", "cut")
    ]


def test_the_density_of_a_turned_png_is_turned():
    """The pixel density in a PNG's own chunk changes places with the picture."""
    density = chunk(b"pHYs", struct.pack(">IIB", 300, 150, 0))
    source = png(PIXELS, 2, 8, density, chunk(b"eXIf", exif(6)))
    written, _, _ = converted(source, "png")
    assert chunk(b"pHYs", struct.pack(">IIB", 150, 300, 0)) in written


def test_metadata_of_jpeg_2000_is_read():
    """XMP, IPTC and EXIF in JPEG 2000 boxes are read."""
    data = encoded(PIL.Image.fromarray(PIXELS), "JPEG2000")
    xmp = RDF % (b"", b"")
    boxes = [
        (bytes.fromhex("be7acfcb97a942e89c71999491e3afac"), xmp),
        (bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"), IPTC),
        (b"JpgTiffExif->JP2", exif()),
    ]
    at = data.index(b"jp2c") - 4
    added = b"".join(
        struct.pack(">I4s", 24 + len(body), b"uuid") + name + body for name, body in boxes
    )
    image = image_io.read_image(data[:at] + added + data[at:])
    assert (image.xmp, image.iptc, image.exif) == (xmp, IPTC, exif())


def test_metadata_in_long_and_last_boxes_of_jpeg_2000_is_read():
    """A box may have a length of 64 bits, and the last one none."""
    data = encoded(PIL.Image.fromarray(PIXELS), "JPEG2000")
    iptc = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38") + IPTC
    wide = struct.pack(">I4sQ", 1, b"uuid", 16 + len(iptc)) + iptc
    last = struct.pack(">I4s", 0, b"uuid") + b"JpgTiffExif->JP2" + exif()
    at = data.index(b"jp2c") - 4
    image = image_io.read_image(data[:at] + wide + data[at:] + last)
    assert (image.iptc, image.exif) == (IPTC, exif())


def test_content_credentials_are_left_out_with_a_note():
    """C2PA is bound to the old pixels, and goes with a note."""
    sources = (
        jpeg(segment(0xEB, b"JP\0\1\0\0\0\1jumbc2pa")),
        png(PIXELS, 2, 8, chunk(b"caBX", b"jumbc2pa")),
    )
    for source in sources:
        assert image_io.read_image(source).notes == [
            "content credentials (C2PA) of the old pixels are left out"
        ]
        assert b"c2pa" not in converted(source, "jpeg")[0]


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_fields_of_an_image_are_written_without_a_source(kind):
    """IPTC and texts of an image that a program has made are written."""
    image = Image(PIXELS, format=kind, iptc=IPTC, texts=(("Comment", "made"),))
    data, _ = encode([image], kind)
    back = image_io.read_image(data)
    assert back.iptc == IPTC
    assert kind == "tiff" or back.texts == image.texts
    again, _ = encode([replace(back, pixels=PIXELS)], kind)
    assert image_io.read_image(again).texts == back.texts
