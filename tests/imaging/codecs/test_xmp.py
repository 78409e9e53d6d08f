"""XMP packets, their extensions in a JPEG, and what they announce."""

from __future__ import annotations

import struct

from restormer_cli.imaging import io as image_io
from tests.support.metadata import (
    EXTENSION,
    RDF,
    THUMBNAILS,
    XMP_START,
    converted,
    jpeg,
    md5,
    segment,
)


def test_xmp_does_not_go_on_to_announce_a_video():
    """Once the video of a motion photo is left out, its output is an ordinary photo."""
    xmp = RDF % (b'GCamera:MotionPhoto="1"', b"")
    source = jpeg(segment(0xE1, XMP_START + xmp))
    assert image_io.read_image(source).losses == ["a video (motion photo): left out"]
    _, image, _ = converted(source, "jpeg")
    assert image.losses == []
    assert b'GCamera:MotionPhoto="0"' in image.xmp


def extended_jpeg(extension, digest=None):
    """Build a JPEG whose XMP has an extension, its pieces out of order."""
    name = digest or md5(extension).hexdigest().upper().encode()
    pieces = [
        segment(
            0xE1,
            EXTENSION + name + struct.pack(">II", len(extension), at) + extension[at : at + 50000],
        )
        for at in range(0, len(extension), 50000)
    ]
    main = RDF % (b'xmpNote:HasExtendedXMP="%b"' % name, b"")
    return jpeg(segment(0xE1, XMP_START + main), *reversed(pieces))


def test_extended_xmp_reaches_other_formats_and_returns():
    """Extended XMP becomes one packet elsewhere, and over 64 kB is extended again in a JPEG."""
    source = extended_jpeg(RDF % (b'xmp:Nickname="%b"' % (b"n" * 70000), THUMBNAILS))
    png_data, image, notes = converted(source, "png")
    assert notes == []
    assert b"n" * 70000 in image.xmp
    assert b"HasExtendedXMP" not in image.xmp
    assert b"Thumbnails" not in image.xmp
    back, _, notes = converted(png_data, "jpeg")
    assert notes == []
    _, again, _ = converted(back, "webp")
    assert b"n" * 70000 in again.xmp
    same, _, notes = converted(source, "jpeg")
    assert notes == []
    assert b"Thumbnails" not in same
    assert b"n" * 70000 in converted(same, "png")[1].xmp


def test_damaged_extended_xmp_is_noted():
    """An extension that is not the one named is left out with a note; the main packet stays."""
    source = extended_jpeg(RDF % (b'xmp:Nickname="n"', b""), b"0" * 32)
    _, image, notes = converted(source, "png")
    assert notes == ["the extended XMP is damaged: it is left out"]
    assert image.xmp is not None
