"""TIFF: samples of any type, which neither Pillow nor OpenCV reads whole, and all the tags.

Sections are those of TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image

from . import exif, rasters, strips
from .errors import ImageError
from .exif import LONG, SHORT, Directory, Tag, integer_tag
from .pixels import UNDECODED, Image, Pictures, check_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _XMP, _ICC = 254, 338, 339, 700, 34675
_REDUCED, _PAGE, _MASK = 1, 2, 4  # what a directory's picture is to the others (section 8, 254)
_WHITE_IS_ZERO, _RGB = 0, 2  # photometric interpretations
_RAW, _DEFLATE = 1, 8  # compressions
# Compressions that work on bytes, whatever samples these make up: none, LZW, deflate (two
# numbers), PackBits, LZMA, Zstandard.
_BYTEWISE = frozenset([_RAW, 5, _DEFLATE, 32946, 32773, 34925, 50000])
# Tags that describe how pixels are stored, which the writer decides; 330 and 37724 (Photoshop's
# layers) hold other pictures, which would show the photograph as it was before.
_STORAGE = strips.CODING | {_SUBFILE, 255, 263, 280, 281, *range(288, 292), 318, 319, 321, 330, 334}
_STORAGE |= {*range(340, 347), _XMP, _ICC, 37724}

_BESIDES = {330: "pictures below its pages (SubIFDs)", 37724: "Photoshop's layers"}


class _Kind(NamedTuple):
    """How the samples are to be understood."""

    bits: frozenset[int]
    formats: frozenset[int]  # 1 unsigned, 2 signed, 3 floating point (section 19)
    photometric: int
    compression: int


def decode(data: bytes, max_pixels: int) -> Pictures:
    """Decode all pages to 8, 16 or float32 samples, each to its own.

    What shows another page smaller, or masks it, is no page: it would show it unrestored.
    """
    starts, others, besides = [], 0, set()
    for start, page in _directories(data):
        if page.integer(_SUBFILE, 0) & (_REDUCED | _MASK):
            others += 1
            continue
        starts.append(start)
        besides |= {name for tag, name in _BESIDES.items() if tag in page.tags}
        try:
            check_size(page.integer(strips.WIDTH), page.integer(strips.HEIGHT), max_pixels)
        except ImageError as error:
            if len(starts) == 1:
                raise
            raise ImageError(f"page {len(starts)}: {error.message}", error.hint) from error
    if not starts:
        raise ImageError("it holds nothing but small copies of a picture")

    def pages() -> Iterator[Image]:
        for number, start in enumerate(starts):
            page = _decode_page(data, exif.parse(data, start))
            if others and not number:
                page.notes.append(f"{others} smaller copies or masks of it are left out")
            yield page

    return Pictures(pages(), "tiff", len(starts), besides=tuple(sorted(besides)))


def _directories(data: bytes) -> Iterator[tuple[int | None, Directory]]:
    """Where each directory is, None for the first, and what is in it."""
    start: int | None = None
    seen = set()
    while start != 0:
        if start in seen:
            raise ValueError("its pages go in a circle")
        seen.add(start)
        page = exif.parse(data, start)
        yield start, page
        start = page.following


def _decode_page(data: bytes, page: Directory) -> Image:
    kept = {tag: v for tag, v in page.tags.items() if tag not in _STORAGE and v.kind <= 13}
    image = Image(
        UNDECODED,
        format="tiff",
        exif=exif.build(page.order, kept) if kept else None,
        icc=page.raw(_ICC),
        xmp=page.raw(_XMP),
        dpi=page.dpi(),
    )
    kind = _Kind(
        frozenset(page.integers(strips.BITS, 1)),
        frozenset(page.integers(_SAMPLE_FORMAT, 1)),
        page.integer(strips.PHOTOMETRIC, strips.BLACK_IS_ZERO),
        page.integer(strips.COMPRESSION, _RAW),
    )
    if kind.compression != _RAW:
        strips.check_segments(page, len(data))
    if (
        kind.photometric in (_WHITE_IS_ZERO, strips.BLACK_IS_ZERO, _RGB)
        and kind.compression in _BYTEWISE
        and kind.bits <= {8, 16, 32, 64}
    ):
        _decode_samples(image, data, page, kind)
    elif kind.bits <= {1, 2, 4, 8}:
        # Without the orientation, which Pillow would apply, and what it might warn of.
        file = strips.alone(data, page.order, strips.present(page, strips.CODING))
        with PIL.Image.open(io.BytesIO(file), formats=("TIFF",)) as picture:
            rasters.fill(image, picture)
    else:
        raise ImageError(
            f"TIFF samples of {max(kind.bits)} bits, photometric {kind.photometric}, compression "
            f"{kind.compression} are not supported",
            "Convert it to RGB of 8 or 16 bits.",
        )
    return image


def _decode_samples(image: Image, data: bytes, page: Directory, kind: _Kind) -> None:
    ((bits,), (form,)) = kind.bits, kind.formats
    dtype = np.dtype(f"{page.order}{'_uif'[form]}{bits // 8}")
    top = 1 if dtype.kind == "f" else np.iinfo(dtype).max
    colours = 3 if kind.photometric == _RGB else 1
    samples = strips.read_samples(data, page, dtype)
    count = samples.shape[2]
    if dtype.kind == "i" or count < colours:
        raise ImageError(
            f"{count} samples of type {samples.dtype} are not a picture",
            "Convert it to 8 or 16 unsigned bits, or to 32-bit floating point.",
        )
    if kind.photometric == _WHITE_IS_ZERO:
        samples[..., 0] = top - samples[..., 0]
    if dtype.name not in ("uint8", "uint16", "float32"):
        image.notes.append(f"{dtype.name} samples are read as float32")
        samples = (samples / top).astype(np.float32)
    image.premultiplied = count > colours and page.integer(_EXTRA_SAMPLES, 0) == 1  # section 18
    image.put(samples, colours)


def encode(image: Image, quality: int, notes: list[str]) -> bytes:
    """Encode any samples, deflated in strips of 256 KiB."""
    return encode_all([replace(image, notes=notes)], 1, quality)


def encode_all(pages: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode pages of any sizes and samples, each before the next is asked for."""
    file, order = bytearray(exif.header("<", 0)), ""
    link = 4  # where the offset of the next directory belongs
    for page in pages:
        old = _old_tags(page, order)
        if not order:
            order = old.order
            file[:8] = exif.header(order, 0)
        tags, pieces = _encode_page(page, old, len(file))
        if count > 1:
            tags[_SUBFILE] = integer_tag(order, LONG, _PAGE)
        file += b"".join(pieces)
        file += bytes(len(file) % 2)  # directories begin on a word boundary
        at = len(file)
        file += exif.directory(order, tags, at)
        struct.pack_into(order + "I", file, link, at)
        link = at + 2 + 12 * len(tags)
    return bytes(file)


def _old_tags(page: Image, order: str) -> Directory:
    """What the EXIF block says, to be written in this byte order, if there is one yet."""
    old = Directory(order or "<", {})
    if page.exif is None:
        return old
    try:
        found = exif.parse(page.exif)
    except exif.DAMAGE:
        page.notes.append("damaged EXIF cannot be written to a TIFF: it is left out")
        return old
    if order and found.order != order:
        page.notes.append("EXIF in another byte order than the first page's is left out")
        return old
    return found


def _encode_page(image: Image, old: Directory, start: int) -> tuple[dict[int, Tag], list[bytes]]:
    """The tags of a page and its strips, which lie at the offset `start`."""
    order = old.order
    samples = image.samples()
    height, width, count = samples.shape
    rows = max(1, 2**18 // (width * count * samples.itemsize))
    predictor, form = (strips.FLOATING, 3) if samples.dtype.kind == "f" else (strips.HORIZONTAL, 1)
    pieces = [
        zlib.compress(strips.predict(samples[top : top + rows], predictor, order))
        for top in range(0, height, rows)
    ]
    if start + sum(map(len, pieces)) > 2**32 - 2**24:
        raise ValueError("over the 4 GB that a TIFF can have")
    photometric = _RGB if image.pixels.shape[2] == 3 else strips.BLACK_IS_ZERO
    integers: dict[int, tuple[int, list[int]]] = {
        strips.WIDTH: (LONG, [width]),
        strips.HEIGHT: (LONG, [height]),
        strips.BITS: (SHORT, [samples.itemsize * 8] * count),
        strips.COMPRESSION: (SHORT, [_DEFLATE]),
        strips.PHOTOMETRIC: (SHORT, [photometric]),
        strips.OFFSETS: (LONG, strips.starts(pieces, start)),
        strips.SAMPLES: (SHORT, [count]),
        strips.ROWS: (LONG, [rows]),
        strips.COUNTS: (LONG, [len(strip) for strip in pieces]),
        strips.PLANAR: (SHORT, [1]),
        strips.PREDICTOR: (SHORT, [predictor]),
        _SAMPLE_FORMAT: (SHORT, [form] * count),
    }
    if image.alpha is not None:
        integers[_EXTRA_SAMPLES] = (SHORT, [1 if image.premultiplied else 2])
    tags = {tag: value for tag, value in old.tags.items() if tag not in _STORAGE}
    if image.dpi is not None and exif.X_RESOLUTION not in tags:
        for tag, dots in zip((exif.X_RESOLUTION, exif.Y_RESOLUTION), image.dpi, strict=True):
            ratio = struct.pack(order + "II", round(dots * 1000), 1000)
            tags[tag] = Tag(exif.RATIONAL, 1, ratio)
        integers[exif.RESOLUTION_UNIT] = (SHORT, [2])
    for tag, (kind, numbers) in integers.items():
        tags[tag] = integer_tag(order, kind, *numbers)
    for tag, kind, value in ((_ICC, exif.UNDEFINED, image.icc), (_XMP, 1, image.xmp)):
        if value is not None:
            tags[tag] = Tag(kind, len(value), value)
    return tags, pieces
