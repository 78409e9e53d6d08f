"""Faults of a TIFF's strips and tiles, and decoding of those that are whole.

Section numbers are those of TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import io
import re
import zlib
from itertools import pairwise
from typing import NamedTuple

import PIL.Image

from ..codecs import CODEC_ERRORS
from ..codecs.blocks import exif
from ..codecs.blocks.tags import (
    BITS,
    COMPRESSION,
    HEIGHT,
    JPEG_TABLES,
    PLANAR,
    PREDICTOR,
    ROWS,
    SAMPLES,
    STRIP_OFFSETS,
    STRIP_SIZES,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_SIZES,
    TILE_WIDTH,
    WIDTH,
)
from . import jpeg
from .fault import CORRUPT, Damage, inflate
from .messages import library_messages

# Tags of the offsets and sizes of strips, and of tiles.
LOCATIONS = ((STRIP_OFFSETS, STRIP_SIZES), (TILE_OFFSETS, TILE_SIZES))
_RAW, _JPEG, _DEFLATE = 1, 7, (8, 32946)  # compressions
_WITHOUT_ZEROS = frozenset([2, 3, 4, 5])  # CCITT and LZW: no code consists of zeros
_PACK_BITS, _NEEDED = 32773, 4  # bytes at the end of a strip without which it lacks pixels
_LONGEST_ZEROS = 64  # bytes
# libtiff's errors; the number is the row in the strip or tile.
_WARNED = re.compile(r"^[\w.]+: .*?(?: at (?:line|scanline) (\d+).*)?$", re.MULTILINE)
_BUFFER = 2**20


class Segment(NamedTuple):
    """A strip or tile."""

    left: int
    top: int
    width: int
    height: int
    start: int  # offset of its data
    size: int  # of its data, in bytes


def with_sizes(page: exif.Directory, file_size: int) -> exif.Directory:
    """Return a page whose strips or tiles have sizes: zeros and a missing tag are replaced."""
    offsets, sizes = LOCATIONS[TILE_OFFSETS in page.tags]
    if offsets not in page.tags or (sizes in page.tags and all(page.integers(sizes))):
        return page
    starts = page.integers(offsets)
    declared = page.integers(sizes) if sizes in page.tags else ()
    ends = dict(pairwise([*sorted(set(starts)), file_size]))
    raw = page.integer(COMPRESSION, _RAW) == _RAW
    values = []
    for number, start in enumerate(starts):
        size = declared[number] if number < len(declared) else 0
        rest = max(ends[start] - start, 0)
        values.append(size or (min(_shape(page, number)[4], rest) if raw else rest))
    tag = exif.integer_tag(page.order, exif.LONG, *values)
    return page._replace(tags={**page.tags, sizes: tag})


def missing_bytes(page: exif.Directory, file_size: int) -> float:
    """Return the share of the strips' or tiles' bytes that are beyond the end of the file."""
    declared = available = 0
    for segment in _segments(page):
        declared += segment.size
        available += min(segment.size, max(0, file_size - segment.start))
    return 1 - available / declared if declared else 0.0


def load(file: bytes) -> tuple[PIL.Image.Image, Damage | None]:
    """Decode the intact part of a file of one page.

    Raises:
        OSError, ValueError, ...: nothing can be decoded.
    """
    picture = PIL.Image.open(io.BytesIO(file), formats=("TIFF",))
    mode, size, error = picture.mode, picture.size, None
    page = exif.parse(file)
    compression = page.integer(COMPRESSION, _RAW)
    found = _segments(page) if compression != _RAW else []
    with library_messages() as lines:
        try:
            picture.load()
        except CODEC_ERRORS as caught:
            error = caught
    reported = _WARNED.search("\n".join(lines()))
    if (
        error is None
        and not reported
        and all(
            _has_checksum(picture, file, page, each) or _is_sound(file, page, each)
            for each in found
        )
    ):
        return picture, None
    if not found or page.integer(PLANAR, 1) == 2:
        raise error or ValueError(CORRUPT)
    canvas = PIL.Image.new(mode, size)
    if mode == "P":
        canvas.putpalette(picture.getpalette() or [])
    missing = area = 0.0
    for segment in found:
        part, lost = _load_segment(file, page, segment)
        if part is not None:
            canvas.paste(part, (segment.left, segment.top))
        missing += lost * segment.width * segment.height
        area += segment.width * segment.height
    if missing >= area and error is not None:
        raise error
    return canvas, Damage(CORRUPT, missing / area or None)


def _shape(page: exif.Directory, number: int) -> tuple[int, int, int, int, int]:
    """Return left, top, width and height of a strip or tile, and the bytes of its pixels."""
    width, height = page.integer(WIDTH), page.integer(HEIGHT)
    tiled = TILE_WIDTH in page.tags
    across = page.integer(TILE_WIDTH) if tiled else width
    down = page.integer(TILE_HEIGHT) if tiled else min(page.integer(ROWS, height), height)
    columns, rows = -(-width // across), -(-height // down)
    row, column = divmod(number % (columns * rows), columns)
    high = down if tiled else min(down, height - row * down)
    samples = 1 if page.integer(PLANAR, 1) == 2 else page.integer(SAMPLES, 1)
    raw_row = -(-across * max(page.integers(BITS, 1)) * samples // 8)
    return column * across, row * down, across, high, raw_row * high


def _segments(page: exif.Directory) -> list[Segment]:
    offsets, sizes = LOCATIONS[TILE_OFFSETS in page.tags]
    if offsets not in page.tags or sizes not in page.tags:
        return []
    located = zip(page.integers(offsets), page.integers(sizes), strict=False)
    return [
        Segment(*_shape(page, number)[:4], start, size)
        for number, (start, size) in enumerate(located)
    ]


def _has_checksum(
    picture: PIL.Image.Image, file: bytes, page: exif.Directory, segment: Segment
) -> bool:
    """Return True if deflated bytes, which `picture` shows, have the checksum after them.

    It is faster to sum them up than to inflate them again, because libtiff ignores the checksum.
    """
    left, top, width, height, start, size = segment
    if page.integer(COMPRESSION, _RAW) not in _DEFLATE or picture.mode != "L":
        return False
    pixels = picture.crop((left, top, left + width, top + height)).tobytes()
    return zlib.adler32(pixels).to_bytes(4, "big") == file[start : start + size][-4:]


def _is_sound(file: bytes, page: exif.Directory, segment: Segment) -> bool:
    """Check a strip or tile for damage that libtiff does not report."""
    compression = page.integer(COMPRESSION, _RAW)
    piece = file[segment.start : segment.start + segment.size]
    if compression in _WITHOUT_ZEROS and bytes(_LONGEST_ZEROS) in piece:
        return False
    if compression == _PACK_BITS:
        return _is_used_up(page, segment, piece)
    if compression in _DEFLATE:
        decoder = zlib.decompressobj()
        try:
            while piece and not decoder.eof:
                decoder.decompress(piece, _BUFFER)
                piece = decoder.unconsumed_tail
        except zlib.error:
            return False
        return decoder.eof
    if compression == _JPEG:
        tables = page.raw(JPEG_TABLES) or b""
        return jpeg.load(tables[:-2] + piece[2 if tables else 0 :]).fault is None
    return True


def _is_used_up(page: exif.Directory, segment: Segment, piece: bytes) -> bool:
    """Return True if all of the data is needed: a decoder that has lost its place needs less."""
    short = piece.rstrip(b"\0")[:-_NEEDED]
    if not short or page.integer(PLANAR, 1) == 2:
        return True
    with library_messages():
        try:
            _alone(page, segment, short).load()
        except CODEC_ERRORS:
            return True
    return False


def _alone(page: exif.Directory, segment: Segment, piece: bytes) -> PIL.Image.Image:
    """Open a strip or tile with the data `piece` as a picture."""
    dropped = {TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES}
    tags = {tag: value for tag, value in page.tags.items() if tag not in dropped}
    numbers = {
        WIDTH: segment.width,
        HEIGHT: segment.height,
        ROWS: segment.height,
        STRIP_OFFSETS: 8,
        STRIP_SIZES: len(piece),
    }
    tags |= {tag: exif.integer_tag(page.order, exif.LONG, n) for tag, n in numbers.items()}
    return PIL.Image.open(io.BytesIO(exif.build(page.order, tags, piece)), formats=("TIFF",))


def _load_segment(
    file: bytes, page: exif.Directory, segment: Segment
) -> tuple[PIL.Image.Image | None, float]:
    """Decode a strip or tile alone; return it, and the share of it that is missing."""
    piece = file[segment.start : segment.start + segment.size]
    sound = _is_sound(file, page, segment)
    lost = 0.0
    if page.integer(COMPRESSION) in _DEFLATE and not sound and PREDICTOR not in page.tags:
        size = _shape(page, 0)[4] // _shape(page, 0)[3] * segment.height
        inflated = inflate(piece, size)
        piece, lost = bytes(inflated.ljust(size, b"\0")), 1 - len(inflated) / size
        raw = exif.integer_tag(page.order, exif.SHORT, _RAW)
        page = page._replace(tags={**page.tags, COMPRESSION: raw})
        sound = True
    with library_messages() as lines:
        try:
            picture = _alone(page, segment, piece)
            picture.load()
        except CODEC_ERRORS:
            return None, 1.0
    if reported := _WARNED.search("\n".join(lines())):
        row = int(reported[1] or 0)
        return picture, max(0.0, 1 - row / segment.height)
    return picture, lost if sound else 1.0
