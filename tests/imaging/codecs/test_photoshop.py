"""Photoshop's resources: thumbnails, settings and IPTC records."""

from __future__ import annotations

import base64
import io
import struct

import numpy as np
import PIL.Image
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from tests.support.image_files import exif
from tests.support.metadata import (
    IPTC,
    PIXELS,
    RDF,
    THUMBNAIL,
    THUMBNAILS,
    XMP_START,
    converted,
    encode,
    jpeg,
    md5,
    photoshop,
    resource,
    segment,
)


def test_thumbnails_go_and_the_rest_of_their_segments_stays():
    """JFIF's, Photoshop's, FlashPix's and XMP's thumbnails go; IPTC and settings stay."""
    rest = [resource(0x0404, IPTC), resource(1061, md5(IPTC).digest())]
    blocks = [resource(1033, b"old" + THUMBNAIL), resource(1036, THUMBNAIL), resource(1034, b"\1")]
    raw = bytes(range(30)) * 3
    jfif = segment(0xE0, b"JFIF\0\1\1\1" + struct.pack(">HH", 72, 72) + bytes([5, 6]) + raw)
    data = jpeg(
        segment(0xE0, b"JFXX\0\x10" + THUMBNAIL),
        segment(0xE1, XMP_START + RDF % (b'xmp:Label="Red"', THUMBNAILS)),
        segment(0xE2, b"FPXR\0\0" + THUMBNAIL),
        photoshop(rest[0], blocks[0], rest[1], *blocks[1:]),
        segment(0xEC, b"Ducky\0\1"),
    )
    data = data[:2] + jfif + data[20:]
    written, image, notes = converted(data, "jpeg")
    assert notes == []
    assert raw not in written
    assert THUMBNAIL not in written
    assert base64.b64encode(THUMBNAIL) not in written
    assert photoshop(*rest, blocks[2]) in written
    assert image.xmp == RDF % (b'xmp:Label="Red"', b"")
    assert (image.dpi, image.iptc) == ((72, 72), IPTC)


def test_segments_without_thumbnails_stay_byte_for_byte():
    """Photoshop's, comments and segments of unknown meaning are copied."""
    kept = [
        photoshop(resource(0x0404, IPTC), resource(1034, b"\1")),
        segment(0xE7, b"Qualcomm"),
        segment(0xFE, b"gr\xfc\xdf"),
    ]
    written, _, notes = converted(jpeg(*kept), "jpeg")
    assert notes == []
    assert b"".join(kept) in written
    assert converted(jpeg(*kept), "webp")[2] == [
        "webp has no IPTC, Photoshop settings, APP7 segments: they are left out"
    ]


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_photoshop_settings_cross_formats(kind):
    """Settings are kept in the formats that hold them, with IPTC in one place and its digest."""
    rest = resource(1061, md5(IPTC).digest()) + resource(1034, b"\1")
    written, image, notes = converted(
        jpeg(photoshop(resource(0x0404, IPTC), resource(1036, THUMBNAIL), rest)), "tiff"
    )
    assert notes == []
    assert THUMBNAIL not in written
    assert written.count(IPTC) == written.count(rest) == 1
    written, image, notes = converted(written, kind)
    assert image.iptc == IPTC
    assert kind == "png" or written.count(IPTC) == written.count(rest) == 1
    assert converted(written, "jpeg")[0].count(resource(0x0404, IPTC) + rest) == 1


def test_long_iptc_fills_several_segments():
    """IPTC over 64 kB is divided between segments of a JPEG, and joined again."""
    long = IPTC + b"\x1c\x02\x0d\xea\x60" + bytes(60000) + b"\x1c\x02\x0d\xea\x60" + bytes(60000)
    data, _ = encode([Image(PIXELS, iptc=long)], "jpeg")
    image = image_io.read_image(data)
    assert image.iptc == long
    assert image_io.read_image(encode([image], "jpeg")[0]).iptc == long


def test_thumbnails_of_a_tiff_and_misplaced_iptc_are_understood():
    """Photoshop's thumbnail in a TIFF goes; IPTC is read from resources and swapped integers."""
    buffer = io.BytesIO()
    resources = resource(1036, THUMBNAIL) + resource(0x0404, IPTC) + resource(1034, b"\1")
    PIL.Image.fromarray(PIXELS).save(buffer, "TIFF", tiffinfo={34377: resources})
    written, image, notes = converted(buffer.getvalue(), "tiff")
    assert (notes, image.iptc) == ([], IPTC)
    assert THUMBNAIL not in written
    assert resource(1034, b"\1") in written
    padded = IPTC + bytes(-len(IPTC) % 4)
    swapped = np.frombuffer(padded, "u4").byteswap().tobytes()
    buffer = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(buffer, "TIFF", tiffinfo={33723: swapped})
    assert image_io.read_image(buffer.getvalue()).iptc == padded


def test_metadata_of_photoshop_files_is_read():
    """XMP, IPTC and EXIF in a Photoshop file's resources are read."""
    xmp = RDF % (b"", b"")
    blocks = resource(1028, IPTC) + resource(1058, exif()) + resource(1060, xmp)
    data = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 8, 12, 8, 3) + bytes(4)
    data += struct.pack(">I", len(blocks)) + blocks + bytes(4) + bytes(2)
    image = image_io.read_image(data + PIXELS.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(image.pixels, PIXELS)
    assert (image.xmp, image.iptc, image.exif) == (xmp, IPTC, exif())
