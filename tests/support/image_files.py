"""Build image files by hand, so that tests of reading do not depend on our own writer."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
import PIL.Image
from PIL import ImageCms

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import to_float

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="%d" '
    b'dc:title="K\xc3\xb6ln"/></rdf:RDF></x:xmpmeta>'
)


def noise(height, width, samples, dtype="uint8", seed=0):
    """Return random samples over the whole range of an integer type, or around 0..1 for floats."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0.5, 0.4, (height, width, samples)).astype(dtype)
    top = np.iinfo(dtype).max
    return rng.integers(0, top, (height, width, samples), dtype=dtype, endpoint=True)


@functools.cache  # the profile contains the time
def wide_gamut(colour_space=b"RGB "):
    """Return the ICC profile of sRGB with its red and blue primaries exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    profile[16:20] = colour_space
    return bytes(profile)


def directory(order, at, entries, following=0):
    """Encode a TIFF directory for the offset `at`; entries are (tag, type, count, value)."""
    heap = at + 6 + 12 * len(entries)
    body, values = struct.pack(order + "H", len(entries)), b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            position = struct.pack(order + "I", heap + len(values))
            values += value + b"\0" * (len(value) % 2)
            value = position
        body += struct.pack(order + "HHI4s", tag, kind, count, value)
    return body + struct.pack(order + "I", following) + values


def exif(orientation=1, order="<", maker_note=b"\x01\xffmaker\x00note", thumbnail=False):
    """Return an EXIF block with a maker note, a GPS position and an optional thumbnail."""

    def pack(form, *numbers):
        return struct.pack(order + form, *numbers)

    note = [(33434, 5, 1, pack("II", 1, 250)), (36867, 2, 20, b"2024:02:29 12:34:56\0")]
    note += [(37500, 7, len(maker_note), maker_note)]
    gps = [(1, 2, 2, b"N\0"), (2, 5, 3, pack("IIIIII", 50, 1, 56, 1, 2925, 100))]
    main = [(271, 2, 7, b"Kamera\0"), (274, 3, 1, pack("H", orientation)), (315, 2, 5, b"Jane\0")]
    first = len(directory(order, 0, [*main, (34665, 4, 1, b""), (34853, 4, 1, b"")])) + 8
    second = first + len(directory(order, first, note))
    last = second + len(directory(order, second, gps))
    main += [(34665, 4, 1, pack("I", first)), (34853, 4, 1, pack("I", second))]
    block = (b"II" if order == "<" else b"MM") + pack("HI", 42, 8)
    block += directory(order, 8, main, last if thumbnail else 0)
    block += directory(order, first, note) + directory(order, second, gps)
    return block + (directory(order, last, [(259, 3, 1, pack("H", 6))]) if thumbnail else b"")


def tags(block):
    """Return all tags of an EXIF block as Pillow reads them, except orientation and links."""
    parsed = PIL.Image.Exif()
    parsed.load(b"Exif\0\0" + block)
    main = {tag: value for tag, value in parsed.items() if tag not in (274, 34665, 34853)}
    return main, dict(parsed.get_ifd(34665)), dict(parsed.get_ifd(34853))


def encoded(picture, kind, **options):
    """Encode a picture with Pillow."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, body):
    """Encode a PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples, colour_type, depth, *chunks):
    """Build a PNG."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if depth < 8:
        bits = (rows[..., None] >> np.arange(depth)[::-1]) & 1
        packed = np.packbits(bits.reshape(height, -1).astype(bool), axis=1)
    else:
        packed = rows.astype(f">u{depth // 8}").view(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def rewritten(image, path, **options):
    """Write and read an image whose format can store it without loss."""
    assert image_io.write_image(image, path, **options) == []
    return image_io.read_image(path)


def assert_same_image(actual, expected):
    """Compare samples, their types, and metadata byte by byte."""
    assert actual.pixels.dtype == expected.pixels.dtype
    np.testing.assert_array_equal(actual.pixels, expected.pixels)
    assert (actual.alpha is None) == (expected.alpha is None)
    if actual.alpha is not None:
        assert actual.alpha.dtype == expected.alpha.dtype
        np.testing.assert_array_equal(actual.alpha, expected.alpha)
    assert (actual.icc, actual.exif, actual.xmp) == (expected.icc, expected.exif, expected.xmp)
    assert actual.extras == expected.extras


def smooth(height=40, width=56, samples=3):
    """Return a picture that lossy coding hardly changes, float in 0..1."""
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    planes = [rows * columns, rows + 0 * columns, 0 * rows + columns, 0.5 + 0.5 * rows * columns]
    return np.dstack(planes[:samples])


def near(actual, expected, tolerance):
    """Return True if all samples, scaled to 0..1, differ by less than the tolerance."""
    return bool(np.abs(to_float(actual) - to_float(expected)).max() < tolerance)
