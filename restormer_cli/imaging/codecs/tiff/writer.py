"""Encode TIFF: pages of any sizes and samples, with their tags."""

from __future__ import annotations

import struct
import zlib
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from ...image import alpha_place
from .. import CODEC_ERRORS
from ..blocks import exif
from ..blocks.exif import LONG, SHORT, Directory, Tag, integer_tag
from ..blocks.tags import (
    BITS,
    COMPRESSION,
    EXTRA_SAMPLES,
    HEIGHT,
    ICC,
    IPTC,
    PHOTOMETRIC,
    PLANAR,
    PREDICTOR,
    ROWS,
    SAMPLE_FORMAT,
    SAMPLES,
    STRIP_OFFSETS,
    STRIP_SIZES,
    SUBFILE,
    WIDTH,
    XMP,
)
from .layout import (
    BLACK_IS_ZERO,
    DEFLATE,
    HORIZONTAL,
    NO_PREDICTOR,
    PAGE,
    RGB,
    STORAGE,
    unspecified_bands,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...image import Array, Image

_LARGER = 1.1  # relative size that faster compression may have


def encode(images: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode pages of any sizes and samples, deflated in strips of 256 KiB."""
    file, order = bytearray(exif.header("<", 0)), ""
    link = 4  # position of the next directory's offset
    for page in images:
        old = _old_tags(page, order)
        if not order:
            order = old.order
            file[:8] = exif.header(order, 0)
        tags, strips = _encode_page(page, old, len(file))
        if count > 1:
            tags[SUBFILE] = integer_tag(order, LONG, PAGE)
        file += b"".join(strips)
        file += bytes(len(file) % 2)  # directories begin on a word boundary
        start = len(file)
        file += exif.directory(order, tags, start)
        struct.pack_into(order + "I", file, link, start)
        link = start + 2 + 12 * len(tags)
    return bytes(file)


def _encode_page(image: Image, old: Directory, start: int) -> tuple[dict[int, Tag], list[bytes]]:
    """Return the tags of a page and its strips, for the offset `start` of the first strip."""
    order = old.order
    samples, extra_samples = _stored_samples(image)
    height, width, count = samples.shape
    rows = max(1, 2**18 // (width * count * samples.itemsize))
    # Many readers lack the predictor for floats.
    predictor, form = (NO_PREDICTOR, 3) if samples.dtype.kind == "f" else (HORIZONTAL, 1)

    def strip(top: int) -> bytes:
        return _apply_predictor(samples[top : top + rows], predictor, order)

    strategy = _choose_strategy(strip(height // 2 // rows * rows))
    strips = [_deflate(strip(top), strategy) for top in range(0, height, rows)]
    if start + sum(map(len, strips)) > 2**32 - 2**24:
        raise ValueError("larger than the 4 GB limit of a TIFF")
    integers: dict[int, tuple[int, list[int]]] = {
        WIDTH: (LONG, [width]),
        HEIGHT: (LONG, [height]),
        BITS: (SHORT, [samples.itemsize * 8] * count),
        COMPRESSION: (SHORT, [DEFLATE]),
        PHOTOMETRIC: (SHORT, [RGB if image.pixels.shape[2] == 3 else BLACK_IS_ZERO]),
        STRIP_OFFSETS: (LONG, list(accumulate(map(len, strips[:-1]), initial=start))),
        SAMPLES: (SHORT, [count]),
        ROWS: (LONG, [rows]),
        STRIP_SIZES: (LONG, [len(strip) for strip in strips]),
        PLANAR: (SHORT, [1]),
        PREDICTOR: (SHORT, [predictor]),
        SAMPLE_FORMAT: (SHORT, [form] * count),
    }
    if extra_samples:
        integers[EXTRA_SAMPLES] = (SHORT, extra_samples)
    if image.bands is not None:
        image.notes.append(f"{unspecified_bands(image.bands.shape[2])} carried unchanged")
    tags = {tag: value for tag, value in old.tags.items() if tag not in STORAGE}
    if image.dpi is not None and not exif.agrees(old, image.dpi):
        tags |= exif.resolution_tags(order, image.dpi)
    for tag, (kind, numbers) in integers.items():
        tags[tag] = integer_tag(order, kind, *numbers)
    for tag, kind, value in (
        (ICC, exif.UNDEFINED, image.icc),
        (XMP, exif.BYTE, image.xmp),
        (IPTC, exif.BYTE, image.iptc),
    ):
        if value is not None:
            tags[tag] = Tag(kind, len(value), value)
    return tags, strips


def _stored_samples(image: Image) -> tuple[Array, list[int]]:
    """Return H W S samples with alpha and bands in their order, and the ExtraSamples tag."""
    bands = 0 if image.bands is None else image.bands.shape[2]
    codes = list(image.extra_samples)
    if (alpha_place(codes) is None, len(codes)) != (
        image.alpha is None,
        bands + (image.alpha is not None),
    ):
        codes = [*([] if image.alpha is None else [2]), *[0] * bands]
    planes = [] if image.bands is None else list(np.moveaxis(image.bands, 2, 0))
    if (place := alpha_place(codes)) is not None:
        planes.insert(place, image.alpha)
        codes[place] = 1 if image.premultiplied else 2
    return np.ascontiguousarray(np.dstack([image.pixels, *planes])), codes


def _old_tags(page: Image, order: str) -> Directory:
    """Return the tags of the page's EXIF block if it has the byte order of the first page."""
    empty = Directory(order or "<", {})
    try:
        tags = empty if page.exif is None else exif.parse(page.exif)
    except CODEC_ERRORS:
        page.losses.append("damaged EXIF cannot be written to a TIFF: it is left out")
        return empty
    return exif.in_order(tags, order or tags.order)


def _apply_predictor(samples: Array, predictor: int, order: str) -> bytes:
    """Return the bytes of one strip, H W S, with the predictor applied."""
    if predictor == HORIZONTAL:
        samples = np.diff(samples, axis=1, prepend=samples.dtype.type(0))
    return samples.astype(f"{order}{samples.dtype.kind}{samples.itemsize}").tobytes()


def _deflate(data: bytes, strategy: int) -> bytes:
    compressor = zlib.compressobj(strategy=strategy)
    return compressor.compress(data) + compressor.flush()


def _choose_strategy(strip: bytes) -> int:
    """Return zlib's strategy for an image, of which this is one strip.

    Run lengths alone compress the differences between pixels of a photograph as well as all
    matches, in a sixth to a third of the time, but not texts, patterns and floats.
    """
    runs, matches = (len(_deflate(strip, s)) for s in (zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY))
    return zlib.Z_RLE if runs < _LARGER * matches else zlib.Z_DEFAULT_STRATEGY
