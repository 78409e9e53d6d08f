"""EXIF: orientation, sizes, embedded pictures and damage, in every format."""

from __future__ import annotations

import struct

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs.blocks import exif as exif_blocks
from restormer_cli.imaging.image import Image
from tests.support.image_files import (
    XMP,
    assert_same_image,
    directory,
    exif,
    noise,
    rewritten,
    tags,
)
from tests.support.metadata import (
    PIXELS,
    RDF,
    THUMBNAIL,
    XMP_START,
    converted,
    encode,
    jpeg,
    segment,
    text_png,
    user_comment,
)


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_applied_once(tmp_path, kind, orientation, order):
    """The picture is turned upright, the tags reset, and every other tag kept."""
    samples = noise(6, 9, 3 if kind == "jpeg" else 4)
    alpha = None if kind == "jpeg" else samples[..., 3]
    block = exif(orientation, order)
    xmp = XMP % orientation
    lying = Image(samples[..., :3], alpha, kind, exif=block, xmp=xmp, lossless=True)
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
    back = rewritten(image, tmp_path / "b")
    if kind != "jpeg":
        assert_same_image(image, back)
    assert back.exif == image.exif


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_damaged_metadata_does_not_stop_the_image(tmp_path, kind):
    """Damaged EXIF and ICC are noted, and the pixels are read and written."""
    image = Image(noise(5, 4, 3), format=kind, icc=b"no profile" * 20, exif=b"II*\0junk")
    notes = image_io.write_image(image, tmp_path / "a")
    assert len(notes) == (kind == "tiff")
    back = image_io.read_image(tmp_path / "a")
    assert "the ICC profile is damaged: kept unchanged" in back.notes
    assert any("EXIF is damaged" in note for note in back.notes) == (kind != "tiff")
    assert back.pixels.shape == (5, 4, 3)


def test_pictures_in_exif_are_blanked():
    """The bytes of the thumbnail and of a preview in the maker note go, and offsets stay."""
    block = exif(maker_note=b"Nikon" + THUMBNAIL + b"after")
    first = struct.unpack_from("<H", block, 8)[0]
    link = 10 + 12 * first
    thumbnail = [(259, 3, 1, b"\1\0"), (273, 4, 1, b""), (279, 4, 1, struct.pack("<I", 90))]
    raw, start = bytes(range(90)), len(block)
    thumbnail[1] = (273, 4, 1, struct.pack("<I", start + len(directory("<", start, thumbnail))))
    block = block[:link] + struct.pack("<I", start) + block[link + 4 :]
    block += directory("<", start, thumbnail) + raw
    data, (notes,) = encode([Image(PIXELS, format="jpeg", exif=block)], "jpeg")
    assert notes == []
    assert raw not in data
    assert THUMBNAIL not in data
    image = image_io.read_image(data)
    assert image.exif.index(b"after") == block.index(b"after")


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
def test_sizes_and_resolutions_follow_the_turned_picture(kind):
    """EXIF's and XMP's sizes are those of the picture, and its resolutions change places."""

    def rational(number):
        return struct.pack("<II", number, 1)

    size = [(0xA002, 4, 1, struct.pack("<I", 12)), (0xA003, 3, 1, struct.pack("<H", 8))]
    main = [(256, 4, 1, struct.pack("<I", 12)), (257, 4, 1, struct.pack("<I", 8))]
    main += [(274, 3, 1, b"\6\0"), (282, 5, 1, rational(300)), (283, 5, 1, rational(150))]
    main += [(296, 3, 1, b"\2\0"), (34665, 4, 1, b"")]
    at = 8 + len(directory("<", 8, main))
    main[-1] = (34665, 4, 1, struct.pack("<I", at))
    block = b"II*\0\x08\0\0\0" + directory("<", 8, main) + directory("<", at, size)
    xmp = RDF % (b'exif:PixelXDimension="12" exif:PixelYDimension="8"', b"")
    data = jpeg(segment(0xE1, b"Exif\0\0" + block), segment(0xE1, XMP_START + xmp), dpi=(300, 150))
    _, image, notes = converted(data, kind)
    assert notes == []
    assert image.pixels.shape == (12, 8, 3)
    parsed = exif_blocks.parse(image.exif)
    details = parsed.tags[34665].value
    assert (details.integer(0xA002), details.integer(0xA003)) == (8, 12)
    if kind != "tiff":
        assert (parsed.integer(256), parsed.integer(257)) == (8, 12)
    assert parsed.dpi() == (150, 300)
    assert image.dpi == (150, 300)
    assert image.xmp == RDF % (b'exif:PixelXDimension="8" exif:PixelYDimension="12"', b"")


def test_blank_user_comments_of_cameras_are_replaced():
    """A user comment of blanks is free."""
    blank = exif_blocks.Tag(7, 20, b"ASCII\0\0\0" + b" " * 12)
    details = exif_blocks.Tag(4, 1, exif_blocks.Directory("<", {37510: blank}))
    block = exif_blocks.with_tags(exif(), {34665: details})
    data = text_png(("parameters", "Seed: 42"), exif=b"Exif\0\0" + block)
    _, image, notes = converted(data, "webp")
    assert notes == []
    assert user_comment(image) == b"ASCII\0\0\0Seed: 42"


def test_an_exif_block_or_xmp_packet_that_stands_twice_counts_once():
    """Equal copies are one; of different ones, a note says which counts."""
    first, second = segment(0xE1, b"Exif\0\0" + exif(6)), segment(0xE1, b"Exif\0\0" + exif(3))
    image = image_io.read_image(jpeg(first, first))
    assert (image.exif, image.losses) == (exif(1), [])
    image = image_io.read_image(jpeg(first, second))
    assert image.exif == exif(1)
    assert image.losses == ["more EXIF blocks are left out: the first one counts"]
    packets = [segment(0xE1, XMP_START + RDF % (b"", body)) for body in (b"", b"<a/>")]
    assert image_io.read_image(jpeg(packets[0], packets[0])).losses == []
    image = image_io.read_image(jpeg(*packets))
    assert image.xmp == RDF % (b"", b"<a/>")
    assert image.losses == ["more XMP packets are left out: the last one counts"]


def test_pages_of_both_byte_orders_keep_their_exif():
    """The tags of all pages are kept in one TIFF, in the byte order of the first page."""
    images = [Image(PIXELS, exif=exif(1, order)) for order in "<>"]
    data, notes = encode(iter(images), "tiff", count=2)
    assert notes == [[], []]
    first, second = image_io.decode(data).images
    assert tags(first.exif) == tags(second.exif) == tags(exif())


def test_damaged_exif_takes_no_resolution_and_no_texts():
    """What would go to EXIF is named in notes if EXIF is damaged."""
    image = Image(PIXELS, exif=b"II*\0junk", dpi=(300, 300), texts=(("Title", "T"),))
    _, (notes,) = encode([image], "webp")
    assert notes == [
        "dpi cannot be written to damaged EXIF: left out",
        "webp has no texts (Title): they are left out",
    ]
