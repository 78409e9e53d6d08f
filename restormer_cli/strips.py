"""A TIFF's pixels: strips and tiles of bytes, and the samples that these make up.

Sections are those of TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import io
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from . import exif
from .exif import LONG, SHORT, Directory, Tag, integer_tag
from .pixels import Array

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

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
