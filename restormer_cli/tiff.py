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

from . import exif, rasters
from .errors import ImageError
from .exif import LONG, SHORT, Directory, Tag, integer_tag
from .pixels import UNDECODED, Array, Image, Pictures, check_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_FILL_ORDER, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR = 266, 273, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 317, 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _XMP, _ICC = 338, 339, 700, 34675
_REDUCED, _PAGE, _MASK = 1, 2, 4  # what a directory's picture is to the others (section 8, 254)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # photometric interpretations
_RAW, _DEFLATE = 1, 8  # compressions
# Compressions that work on bytes, whatever samples these make up: none, LZW, deflate (two
# numbers), PackBits, LZMA, Zstandard.
_BYTEWISE = frozenset([_RAW, 5, _DEFLATE, 32946, 32773, 34925, 50000])
_HORIZONTAL, _FLOATING = 2, 3  # section 14; Adobe's Technical Note 3 of 2005
# Tags that a decoder needs: strips or tiles, CCITT's options, palette, inks, JPEG and YCbCr.
_CODING = frozenset([*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320])
_CODING |= {*range(322, 326), 332, 338, 339, 347, *range(512, 522), *range(529, 533)}
_SINGLE = _CODING & {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332}
_OLD_JPEG = frozenset(range(512, 522))  # its tables are anywhere in the file (section 22)
# Tags that describe how pixels are stored, which the writer decides; 330 and 37724 (Photoshop's
# layers) hold other pictures, which would show the photograph as it was before.
_STORAGE = _CODING | {_SUBFILE, 255, 263, 280, 281, *range(288, 292), 318, 319, 321, 330, 334}
_STORAGE |= {*range(340, 347), _XMP, _ICC, 37724}


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
    starts, others = [], 0
    for start, page in _directories(data):
        if page.integer(_SUBFILE, 0) & (_REDUCED | _MASK):
            others += 1
            continue
        starts.append(start)
        try:
            check_size(page.integer(_WIDTH), page.integer(_HEIGHT), max_pixels)
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

    return Pictures(pages(), "tiff", len(starts))


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
        frozenset(page.integers(_BITS, 1)),
        frozenset(page.integers(_SAMPLE_FORMAT, 1)),
        page.integer(_PHOTOMETRIC, _BLACK_IS_ZERO),
        page.integer(_COMPRESSION, _RAW),
    )
    if kind.compression != _RAW:
        _check_segments(page, len(data))
    if (
        kind.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        and kind.compression in _BYTEWISE
        and kind.bits <= {8, 16, 32, 64}
    ):
        _decode_samples(image, data, page, kind)
    elif kind.bits <= {1, 2, 4, 8}:
        # Without the orientation, which Pillow would apply, and what it might warn of.
        file = _alone(data, page.order, _present(page, _CODING))
        with PIL.Image.open(io.BytesIO(file), formats=("TIFF",)) as picture:
            rasters.fill(image, picture)
    else:
        raise ImageError(
            f"TIFF samples of {max(kind.bits)} bits, photometric {kind.photometric}, compression "
            f"{kind.compression} are not supported",
            "Convert it to RGB of 8 or 16 bits.",
        )
    return image


def _check_segments(page: Directory, size: int) -> None:
    """Find a truncated file before libtiff does, which would complain on stderr."""
    for offsets, counts in ((_OFFSETS, _COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        if offsets in page.tags and counts in page.tags:
            pairs = zip(page.integers(offsets), page.integers(counts), strict=False)
            if any(offset + count > size for offset, count in pairs):
                raise ValueError("pixels run past the end")


def _present(page: Directory, wanted: AbstractSet[int]) -> dict[int, Tag]:
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


def _alone(data: bytes, order: str, tags: dict[int, Tag]) -> bytes:
    """A file of one page that has these tags, and of all the pixels in `data` only its own.

    A page of many is a small part of its file, which would otherwise be copied for each.
    """
    page = Directory(order, tags)
    for offsets, counts in ((_OFFSETS, _COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        if offsets in tags and counts in tags and not _OLD_JPEG & tags.keys():
            starts, sizes = page.integers(offsets), page.integers(counts)
            pieces = [data[at : at + size] for at, size in zip(starts, sizes, strict=False)]
            if [len(piece) for piece in pieces] == list(sizes) and len(sizes) == len(starts):
                moved = integer_tag(order, LONG, *_starts(pieces))
                return exif.build(order, {**tags, offsets: moved}, b"".join(pieces))
    return exif.build(order, tags, data[8:])  # all of it, as where and what they are is not said


def _starts(pieces: list[bytes], start: int = 8) -> list[int]:
    """Where pieces lie that follow each other from the offset `start`."""
    return list(accumulate(map(len, pieces[:-1]), initial=start))


def _decode_samples(image: Image, data: bytes, page: Directory, kind: _Kind) -> None:
    ((bits,), (form,)) = kind.bits, kind.formats
    dtype = np.dtype(f"{page.order}{'_uif'[form]}{bits // 8}")
    top = 1 if dtype.kind == "f" else np.iinfo(dtype).max
    colours = 3 if kind.photometric == _RGB else 1
    samples = _read_samples(data, page, dtype)
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


def _read_samples(data: bytes, page: Directory, dtype: np.dtype[Any]) -> Array:
    """Decode to H W S, strips or tiles (15), interleaved or in planes, of any sample type.

    Compression works on bytes. So each plane is presented to Pillow as a grey 8-bit picture, as
    wide as a row has bytes, and the samples and their predictor are made from these bytes here.
    """
    order, tiled = page.order, _TILE_WIDTH in page.tags
    width, height = page.integer(_WIDTH), page.integer(_HEIGHT)
    count, predictor = page.integer(_SAMPLES, 1), page.integer(_PREDICTOR, 1)
    planes = count if page.integer(_PLANAR, 1) == 2 else 1
    segment = page.integer(_TILE_WIDTH) if tiled else width  # pixels a run of the predictor covers
    padded = -(-width // segment) * segment
    pixel = count // planes * dtype.itemsize  # bytes of one
    where = (_TILE_OFFSETS, _TILE_COUNTS) if tiled else (_OFFSETS, _COUNTS)
    each = len(page.integers(where[0])) // planes
    decoded = []
    for plane in range(planes):
        tags = _present(page, {_HEIGHT, _COMPRESSION, _FILL_ORDER, _ROWS, _TILE_HEIGHT})
        for tag in where:
            if tag in page.tags:
                own = page.integers(tag)[plane * each : (plane + 1) * each]
                tags[tag] = integer_tag(order, LONG, *own)
        tags[_WIDTH] = integer_tag(order, LONG, padded * pixel)
        if tiled:
            tags[_TILE_WIDTH] = integer_tag(order, LONG, segment * pixel)
        for tag, value in ((_BITS, 8), (_PHOTOMETRIC, _BLACK_IS_ZERO), (_SAMPLES, 1)):
            tags[tag] = integer_tag(order, SHORT, value)
        file = _alone(data, order, tags)
        with PIL.Image.open(io.BytesIO(file), formats=("TIFF",)) as picture:
            raw = np.asarray(picture).reshape(height, -1, segment, pixel)
        decoded.append(_undo_predictor(raw, predictor, dtype)[:, :width])
    return np.concatenate(decoded, axis=2)


def _undo_predictor(raw: Array, predictor: int, dtype: np.dtype[Any]) -> Array:
    """Bytes, H segments W B, to samples, H W S, in native byte order."""
    height, segments, width, pixel = raw.shape
    if predictor == _FLOATING:  # differences of bytes, the highest bytes of all samples first
        count = pixel // dtype.itemsize
        whole = raw.reshape(height, segments, -1, count).cumsum(axis=2, dtype=np.uint8)
        whole = whole.reshape(height, segments, dtype.itemsize, width * count)
        raw, dtype = np.ascontiguousarray(whole.swapaxes(2, 3)), dtype.newbyteorder(">")
        raw = raw.reshape(height, segments, width, pixel)
    native = dtype.newbyteorder("=")
    if predictor == _HORIZONTAL:  # differences of samples taken as integers
        integers = raw.view(dtype.str.replace(dtype.kind, "u"))
        integers = integers.astype(integers.dtype.newbyteorder("="))
        samples: Array = integers.cumsum(axis=2, dtype=integers.dtype).view(native)
    else:
        samples = raw.view(dtype).astype(native)
    return samples.reshape(height, segments * width, -1)


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
        tags, strips = _encode_page(page, old, len(file))
        if count > 1:
            tags[_SUBFILE] = integer_tag(order, LONG, _PAGE)
        file += b"".join(strips)
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
    if found.following:
        page.notes.append("the EXIF thumbnail is left out")
    return found


def _encode_page(image: Image, old: Directory, start: int) -> tuple[dict[int, Tag], list[bytes]]:
    """The tags of a page and its strips, which lie at the offset `start`."""
    order = old.order
    samples = image.samples()
    height, width, count = samples.shape
    rows = max(1, 2**18 // (width * count * samples.itemsize))
    predictor, form = (_FLOATING, 3) if samples.dtype.kind == "f" else (_HORIZONTAL, 1)
    strips = [
        zlib.compress(_predict(samples[top : top + rows], predictor, order))
        for top in range(0, height, rows)
    ]
    if start + sum(map(len, strips)) > 2**32 - 2**24:
        raise ValueError("over the 4 GB that a TIFF can have")
    photometric = _RGB if image.pixels.shape[2] == 3 else _BLACK_IS_ZERO
    integers: dict[int, tuple[int, list[int]]] = {
        _WIDTH: (LONG, [width]),
        _HEIGHT: (LONG, [height]),
        _BITS: (SHORT, [samples.itemsize * 8] * count),
        _COMPRESSION: (SHORT, [_DEFLATE]),
        _PHOTOMETRIC: (SHORT, [photometric]),
        _OFFSETS: (LONG, _starts(strips, start)),
        _SAMPLES: (SHORT, [count]),
        _ROWS: (LONG, [rows]),
        _COUNTS: (LONG, [len(strip) for strip in strips]),
        _PLANAR: (SHORT, [1]),
        _PREDICTOR: (SHORT, [predictor]),
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
    return tags, strips


def _predict(samples: Array, predictor: int, order: str) -> bytes:
    """The inverse of `_undo_predictor` for one strip, H W S."""
    height, width, count = samples.shape
    if predictor == _HORIZONTAL:
        differences = np.diff(samples, axis=1, prepend=samples.dtype.type(0))
        return differences.astype(f"{order}u{samples.itemsize}").tobytes()
    raw = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8)
    planes = raw.reshape(height, width * count, -1).swapaxes(1, 2).reshape(height, -1, count)
    return bytes(np.diff(planes, axis=1, prepend=np.uint8(0)).data)
