"""TIFF: samples of any type, which neither Pillow nor OpenCV reads whole, and all the tags.

Sections are those of TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image

from ...errors import ImageError
from ..image import UNDECODED, Array, Image, ImageSequence, check_size
from . import exif, pillow
from .exif import LONG, SHORT, Directory, Tag, integer_tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet


# --- strips --------------------------------------------------------------------------------------

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
FILL_ORDER, OFFSETS, SAMPLES, ROWS, COUNTS, PLANAR = 266, 273, 277, 278, 279, 284
PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 317, 322, 323, 324, 325
BLACK_IS_ZERO = 1  # a photometric interpretation
HORIZONTAL, FLOATING = 2, 3  # predictors: section 14; Adobe's Technical Note 3 of 2005
# Tags that a decoder needs: strips or tiles, CCITT's options, palette, inks, JPEG and YCbCr.
CODING = frozenset([*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320])
CODING |= {*range(322, 326), 332, 338, 339, 347, *range(512, 522), *range(529, 533)}
_SINGLE = CODING & {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332}
_OLD_JPEG = frozenset(range(512, 522))  # its tables are anywhere in the file (section 22)


def check_segments(page: Directory, size: int) -> None:
    """Find a truncated file before libtiff does, which would complain on stderr."""
    for offsets, counts in ((OFFSETS, COUNTS), (TILE_OFFSETS, TILE_COUNTS)):
        if offsets in page.tags and counts in page.tags:
            pairs = zip(page.integers(offsets), page.integers(counts), strict=False)
            if any(offset + count > size for offset, count in pairs):
                raise ValueError("pixels run past the end")


def present(page: Directory, wanted: AbstractSet[int]) -> dict[int, Tag]:
    """These tags in a classic TIFF's types, and with no more values than Pillow is content with."""
    chosen: dict[int, Tag] = {}
    for tag in wanted & page.tags.keys():
        kind = page.tags[tag].kind
        if kind in exif.INTEGERS:
            numbers = page.integers(tag)[: 1 if tag in _SINGLE else None]
            chosen[tag] = integer_tag(page.order, min(kind, LONG), *numbers)
        elif kind <= 12:
            chosen[tag] = page.tags[tag]
    return chosen


def alone(data: bytes, order: str, tags: dict[int, Tag]) -> bytes:
    """A file of one page that has these tags, and of all the pixels in `data` only its own.

    A page of many is a small part of its file, which would otherwise be copied for each.
    """
    page = Directory(order, tags)
    for offsets, counts in ((OFFSETS, COUNTS), (TILE_OFFSETS, TILE_COUNTS)):
        if offsets in tags and counts in tags and not _OLD_JPEG & tags.keys():
            where, sizes = page.integers(offsets), page.integers(counts)
            if len(where) != len(sizes) or sum(sizes) > len(data):
                continue
            pieces = [data[at : at + size] for at, size in zip(where, sizes, strict=True)]
            if [len(piece) for piece in pieces] == list(sizes):
                moved = integer_tag(order, LONG, *starts(pieces))
                return exif.build(order, {**tags, offsets: moved}, b"".join(pieces))
    return exif.build(order, tags, data[8:])  # all of it, as where and what they are is not said


def starts(pieces: list[bytes], start: int = 8) -> list[int]:
    """Where pieces lie that follow each other from the offset `start`."""
    return list(accumulate(map(len, pieces[:-1]), initial=start))


def read_samples(data: bytes, page: Directory, dtype: np.dtype[Any]) -> Array:
    """Decode to H W S, strips or tiles (15), interleaved or in planes, of any sample type.

    Compression works on bytes. So each plane is presented to Pillow as a grey 8-bit picture, as
    wide as a row has bytes, and the samples and their predictor are made from these bytes here.
    """
    order, tiled = page.order, TILE_WIDTH in page.tags
    width, height = page.integer(WIDTH), page.integer(HEIGHT)
    count, predictor = page.integer(SAMPLES, 1), page.integer(PREDICTOR, 1)
    planes = count if page.integer(PLANAR, 1) == 2 else 1
    segment = page.integer(TILE_WIDTH) if tiled else width  # pixels a run of the predictor covers
    padded = -(-width // segment) * segment
    pixel = count // planes * dtype.itemsize  # bytes of one
    where = (TILE_OFFSETS, TILE_COUNTS) if tiled else (OFFSETS, COUNTS)
    each = len(page.integers(where[0])) // planes
    decoded = []
    for plane in range(planes):
        tags = present(page, {HEIGHT, COMPRESSION, FILL_ORDER, ROWS, TILE_HEIGHT})
        for tag in where:
            if tag in page.tags:
                own = page.integers(tag)[plane * each : (plane + 1) * each]
                tags[tag] = integer_tag(order, LONG, *own)
        tags[WIDTH] = integer_tag(order, LONG, padded * pixel)
        if tiled:
            tags[TILE_WIDTH] = integer_tag(order, LONG, segment * pixel)
        for tag, value in ((BITS, 8), (PHOTOMETRIC, BLACK_IS_ZERO), (SAMPLES, 1)):
            tags[tag] = integer_tag(order, SHORT, value)
        file = alone(data, order, tags)
        with PIL.Image.open(io.BytesIO(file), formats=("TIFF",)) as picture:
            raw = np.asarray(picture).reshape(height, -1, segment, pixel)
        decoded.append(_undo_predictor(raw, predictor, dtype)[:, :width])
    return np.concatenate(decoded, axis=2)


def _undo_predictor(raw: Array, predictor: int, dtype: np.dtype[Any]) -> Array:
    """Bytes, H segments W B, to samples, H W S, in native byte order."""
    height, segments, width, pixel = raw.shape
    if predictor == FLOATING:  # differences of bytes, the highest bytes of all samples first
        count = pixel // dtype.itemsize
        whole = raw.reshape(height, segments, -1, count).cumsum(axis=2, dtype=np.uint8)
        whole = whole.reshape(height, segments, dtype.itemsize, width * count)
        raw, dtype = np.ascontiguousarray(whole.swapaxes(2, 3)), dtype.newbyteorder(">")
        raw = raw.reshape(height, segments, width, pixel)
    native = dtype.newbyteorder("=")
    if predictor == HORIZONTAL:  # differences of samples taken as integers
        integers = raw.view(dtype.str.replace(dtype.kind, "u"))
        integers = integers.astype(integers.dtype.newbyteorder("="))
        samples: Array = integers.cumsum(axis=2, dtype=integers.dtype).view(native)
    else:
        samples = raw.view(dtype).astype(native)
    return samples.reshape(height, segments * width, -1)


def predict(samples: Array, predictor: int, order: str) -> bytes:
    """The inverse of `_undo_predictor` for one strip, H W S."""
    height, width, count = samples.shape
    if predictor == HORIZONTAL:
        differences = np.diff(samples, axis=1, prepend=samples.dtype.type(0))
        return differences.astype(f"{order}u{samples.itemsize}").tobytes()
    raw = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8)
    planes = raw.reshape(height, width * count, -1).swapaxes(1, 2).reshape(height, -1, count)
    return bytes(np.diff(planes, axis=1, prepend=np.uint8(0)).data)


# --- tiff ----------------------------------------------------------------------------------------

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
_STORAGE = CODING | {_SUBFILE, 255, 263, 280, 281, *range(288, 292), 318, 319, 321, 330, 334}
_STORAGE |= {*range(340, 347), _XMP, _ICC, 37724}

_BESIDES = {330: "pictures below its pages (SubIFDs)", 37724: "Photoshop's layers"}


class _Kind(NamedTuple):
    """How the samples are to be understood."""

    bits: frozenset[int]
    formats: frozenset[int]  # 1 unsigned, 2 signed, 3 floating point (section 19)
    photometric: int
    compression: int


def decode(data: bytes, max_pixels: int) -> ImageSequence:
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
            check_size(page.integer(WIDTH), page.integer(HEIGHT), max_pixels)
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

    return ImageSequence(pages(), "tiff", len(starts), besides=tuple(sorted(besides)))


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
        frozenset(page.integers(BITS, 1)),
        frozenset(page.integers(_SAMPLE_FORMAT, 1)),
        page.integer(PHOTOMETRIC, BLACK_IS_ZERO),
        page.integer(COMPRESSION, _RAW),
    )
    if kind.compression != _RAW:
        check_segments(page, len(data))
    if (
        kind.photometric in (_WHITE_IS_ZERO, BLACK_IS_ZERO, _RGB)
        and kind.compression in _BYTEWISE
        and kind.bits <= {8, 16, 32, 64}
    ):
        _decode_samples(image, data, page, kind)
    elif kind.bits <= {1, 2, 4, 8}:
        # Without the orientation, which Pillow would apply, and what it might warn of.
        file = alone(data, page.order, present(page, CODING))
        with PIL.Image.open(io.BytesIO(file), formats=("TIFF",)) as picture:
            pillow.fill(image, picture)
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
    samples = read_samples(data, page, dtype)
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
    predictor, form = (FLOATING, 3) if samples.dtype.kind == "f" else (HORIZONTAL, 1)
    pieces = [
        zlib.compress(predict(samples[top : top + rows], predictor, order))
        for top in range(0, height, rows)
    ]
    if start + sum(map(len, pieces)) > 2**32 - 2**24:
        raise ValueError("over the 4 GB that a TIFF can have")
    photometric = _RGB if image.pixels.shape[2] == 3 else BLACK_IS_ZERO
    integers: dict[int, tuple[int, list[int]]] = {
        WIDTH: (LONG, [width]),
        HEIGHT: (LONG, [height]),
        BITS: (SHORT, [samples.itemsize * 8] * count),
        COMPRESSION: (SHORT, [_DEFLATE]),
        PHOTOMETRIC: (SHORT, [photometric]),
        OFFSETS: (LONG, starts(pieces, start)),
        SAMPLES: (SHORT, [count]),
        ROWS: (LONG, [rows]),
        COUNTS: (LONG, [len(strip) for strip in pieces]),
        PLANAR: (SHORT, [1]),
        PREDICTOR: (SHORT, [predictor]),
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
