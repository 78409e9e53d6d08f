"""Image files put together by hand, so that reading is not checked against our own writer."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
import PIL.Image
from PIL import ImageCms

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="%d" '
    b'dc:title="K\xc3\xb6ln"/></rdf:RDF></x:xmpmeta>'
)


def noise(height, width, samples, dtype="uint8", seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0.5, 0.4, (height, width, samples)).astype(dtype)
    top = np.iinfo(dtype).max
    return rng.integers(0, top, (height, width, samples), dtype=dtype, endpoint=True)


@functools.cache  # it holds the time
def wide_gamut(colour_space=b"RGB "):
    """An ICC profile that is not sRGB: sRGB's with its red and blue primaries exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    profile[16:20] = colour_space
    return bytes(profile)


def directory(order, at, entries, following=0):
    """A TIFF directory at `at`; entries are (tag, type, count, value)."""
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
    """An EXIF block with a maker note, a GPS position, and perhaps a thumbnail's directory."""

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
    """All tags of an EXIF block as Pillow reads them, orientation and structure apart."""
    parsed = PIL.Image.Exif()
    parsed.load(b"Exif\0\0" + block)
    main = {tag: value for tag, value in parsed.items() if tag not in (274, 34665, 34853)}
    return main, dict(parsed.get_ifd(34665)), dict(parsed.get_ifd(34853))


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples, colour_type, depth, *chunks):
    """A PNG put together here, so that reading is not checked against our own writer."""
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
