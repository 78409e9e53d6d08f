"""TIFF with all its tags, and with sample types that neither Pillow nor OpenCV supports.

Section numbers are those of TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import struct
import zlib
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL

from ...errors import ImageError
from ..image import UNDECODED, Array, Image, ImageSequence, check_size
from ..integrity import tiff as integrity
from ..integrity.fault import CUT, describe
from ..integrity.tiff import Damage
from ..unsupported import check_tiff
from . import CODEC_ERRORS, exif, pillow, ycbcr
from .exif import LONG, SHORT, Directory, Tag, integer_tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_SIZES, _PLANAR = 266, 273, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 317, 322, 323, 324, 325
_SUBFILE, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _XMP, _ICC = 254, 338, 339, 700, 34675
_SEGMENTS = ((_STRIP_OFFSETS, _STRIP_SIZES), (_TILE_OFFSETS, _TILE_SIZES))
_REDUCED, _PAGE, _MASK = 1, 2, 4  # bits of _SUBFILE (section 8)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6  # photometric interpretations
_RAW, _DEFLATE = 1, 8  # compressions
# Compressions of bytes: none, LZW, deflate (two numbers), PackBits, LZMA, Zstandard.
_BYTEWISE = frozenset([_RAW, 5, _DEFLATE, 32946, 32773, 34925, 50000])
_HORIZONTAL, _FLOATING = 2, 3  # predictors: section 14; Adobe's Technical Note 3 of 2005
# Tags that a decoder needs: strips or tiles, CCITT's options, palette, inks, JPEG and YCbCr.
_CODING = frozenset([*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320])
_CODING |= {*range(322, 326), 332, 338, 339, 347, *range(512, 522), *range(529, 533)}
_SINGLE = _CODING & {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332}
_OLD_JPEG = frozenset(range(512, 522))  # tables may be anywhere in the file (section 22)
# Tags that the encoder sets, and tags of other pictures, which are not restored.
_STORAGE = _CODING | {_SUBFILE, 255, 263, 280, 281, *range(288, 292), 318, 319, 321, 330, 334}
_STORAGE |= {*range(340, 347), _XMP, _ICC, 37724}
_OMITTED = {330: "pictures below its pages (SubIFDs)", 37724: "Photoshop's layers"}


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode all pages to uint8, uint16 or float32 each, without thumbnails and masks."""
    starts: list[int | None] = []
    skipped, omitted, seen = 0, set(), set()
    start: int | None = None  # the first directory
    while start != 0:
        if start in seen:
            raise ValueError("the links between its pages form a loop")
        seen.add(start)
        page = exif.parse(data, start)
        if page.integer(_SUBFILE, 0) & (_REDUCED | _MASK):
            skipped += 1
        else:
            starts.append(start)
            omitted |= {name for tag, name in _OMITTED.items() if tag in page.tags}
            prefix = f"page {len(starts)}: " if len(starts) > 1 else ""
            check_size(page.integer(_WIDTH), page.integer(_HEIGHT), max_pixels, prefix)
        start = page.following
    if not starts:
        raise ImageError("contains only thumbnails or masks", "Name a file with the full picture.")

    def pages() -> Iterator[Image]:
        for number, start in enumerate(starts):
            page = _decode_page(data, exif.parse(data, start))
            if skipped and not number:
                page.notes.append(f"{skipped} thumbnails or masks are left out")
            yield page

    return ImageSequence(pages(), "tiff", len(starts), omitted=tuple(sorted(omitted)))


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
            tags[_SUBFILE] = integer_tag(order, LONG, _PAGE)
        file += b"".join(strips)
        file += bytes(len(file) % 2)  # directories begin on a word boundary
        start = len(file)
        file += exif.directory(order, tags, start)
        struct.pack_into(order + "I", file, link, start)
        link = start + 2 + 12 * len(tags)
    return bytes(file)


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
    bits = frozenset(page.integers(_BITS, 1))
    photometric = page.integer(_PHOTOMETRIC, _BLACK_IS_ZERO)
    compression = page.integer(_COMPRESSION, _RAW)
    check_tiff(compression)
    page = integrity.with_sizes(page, len(data))
    damage: list[Damage | None] = []
    if (
        photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        and compression in _BYTEWISE
        and bits <= {8, 16, 32, 64}
    ):
        _decode_samples(image, data, page, damage)
    elif photometric == _YCBCR and compression == _RAW and bits == {8}:
        picture = ycbcr.decode(data, page)
        pillow.read_samples(image, picture)
    elif bits <= {1, 2, 4, 8}:
        # Other tags would make Pillow apply the orientation or emit warnings.
        file = _extract_page(data, page.order, _select(page, _CODING))
        try:
            picture, found = integrity.load(file)
        except PIL.UnidentifiedImageError as error:  # by its tags alone
            raise _unsupported(bits, photometric, compression) from error
        damage.append(found)
        pillow.read_samples(image, picture)
    else:
        raise _unsupported(bits, photometric, compression)
    image.damage = _describe(damage, integrity.missing_bytes(page, len(data)))
    return image


def _unsupported(bits: Iterable[int], photometric: int, compression: int) -> ImageError:
    return ImageError(
        f"TIFF samples of {max(bits)} bits, photometric {photometric}, compression {compression} "
        "are not supported",
        "Convert it to RGB of 8 or 16 bits.",
    )


def _describe(damage: list[Damage | None], cut: float) -> str | None:
    """Describe the damage of a page's planes, and the share of its bytes beyond the file's end."""
    found = [each for each in damage if each is not None]
    parts = [each.part for each in found if each.part is not None]
    part = sum(parts) / len(damage) if parts else None
    if cut:
        return describe(CUT, cut if part is None else part)
    return describe(found[0].cause, part) if found else None


def _decode_samples(
    image: Image, data: bytes, page: Directory, damage: list[Damage | None]
) -> None:
    (bits,), (form,) = set(page.integers(_BITS, 1)), set(page.integers(_SAMPLE_FORMAT, 1))
    dtype = np.dtype(f"{page.order}{'_uif'[form]}{bits // 8}")  # section 19
    top = 1 if dtype.kind == "f" else np.iinfo(dtype).max
    photometric = page.integer(_PHOTOMETRIC, _BLACK_IS_ZERO)
    colours = 3 if photometric == _RGB else 1
    samples = _read_segments(data, page, dtype, damage)
    count = samples.shape[2]
    if dtype.kind == "i" or count < colours:
        raise ImageError(
            f"{count} samples of type {samples.dtype} are not a picture",
            "Convert it to 8 or 16 unsigned bits, or to 32-bit floating point.",
        )
    if photometric == _WHITE_IS_ZERO:
        samples[..., 0] = top - samples[..., 0]
    if dtype.name not in ("uint8", "uint16", "float32"):
        image.notes.append(f"{dtype.name} samples are read as float32")
        samples = (samples / top).astype(np.float32)
    image.premultiplied = count > colours and page.integer(_EXTRA_SAMPLES, 0) == 1  # section 18
    image.set_samples(samples, colours)


def _read_segments(
    data: bytes, page: Directory, dtype: np.dtype[Any], damage: list[Damage | None]
) -> Array:
    """Decode strips or tiles (15), interleaved or planar, of any sample type to H W S.

    Pillow decompresses each plane as a grey 8-bit picture, with a pixel for each byte. The damage
    of each plane is added to `damage`.
    """
    order, tiled = page.order, _TILE_WIDTH in page.tags
    width, height = page.integer(_WIDTH), page.integer(_HEIGHT)
    count, predictor = page.integer(_SAMPLES, 1), page.integer(_PREDICTOR, 1)
    planes = count if page.integer(_PLANAR, 1) == 2 else 1
    run = page.integer(_TILE_WIDTH) if tiled else width  # pixels that the predictor spans
    padded = -(-width // run) * run
    pixel_size = count // planes * dtype.itemsize
    locations = _SEGMENTS[tiled]
    per_plane = len(page.integers(locations[0])) // planes
    decoded = []
    for plane in range(planes):
        tags = _select(page, {_HEIGHT, _COMPRESSION, _FILL_ORDER, _ROWS, _TILE_HEIGHT})
        for tag in locations:
            if tag in page.tags:
                values = page.integers(tag)[plane * per_plane : (plane + 1) * per_plane]
                tags[tag] = integer_tag(order, LONG, *values)
        tags[_WIDTH] = integer_tag(order, LONG, padded * pixel_size)
        if tiled:
            tags[_TILE_WIDTH] = integer_tag(order, LONG, run * pixel_size)
        for tag, value in ((_BITS, 8), (_PHOTOMETRIC, _BLACK_IS_ZERO), (_SAMPLES, 1)):
            tags[tag] = integer_tag(order, SHORT, value)
        file = _extract_page(data, order, tags)
        picture, found = integrity.load(file)
        damage.append(found)
        raw = np.asarray(picture).reshape(height, -1, run, pixel_size)
        decoded.append(_undo_predictor(raw, predictor, dtype)[:, :width])
    return np.concatenate(decoded, axis=2)


def _select(page: Directory, wanted: AbstractSet[int]) -> dict[int, Tag]:
    """Return these tags with the types of a classic TIFF and the number of values for Pillow."""
    selected: dict[int, Tag] = {}
    for tag in wanted & page.tags.keys():
        kind = page.tags[tag].kind
        if kind in exif.INTEGERS:
            numbers = page.integers(tag)[: 1 if tag in _SINGLE else None]
            selected[tag] = integer_tag(page.order, min(kind, LONG), *numbers)
        elif kind <= 12:
            selected[tag] = page.tags[tag]
    return selected


def _extract_page(data: bytes, order: str, tags: dict[int, Tag]) -> bytes:
    """Build a file of one page with these tags and its pixels, or all data if these are unclear."""
    page = Directory(order, tags)
    for offsets, sizes in _SEGMENTS:
        if offsets in tags and sizes in tags and not _OLD_JPEG & tags.keys():
            starts, lengths = page.integers(offsets), page.integers(sizes)
            area = page.integer(_WIDTH) * page.integer(_HEIGHT)
            most = len(data) + 64 * area * page.integer(_SAMPLES, 1)
            if len(starts) != len(lengths) or sum(lengths) > most:
                continue
            located = zip(starts, lengths, strict=True)
            # Zeros replace what is missing at the end of the file.
            pieces = [data[at : at + length].ljust(length, b"\0") for at, length in located]
            moved = integer_tag(order, LONG, *accumulate(map(len, pieces[:-1]), initial=8))
            return exif.build(order, {**tags, offsets: moved}, b"".join(pieces))
    return exif.build(order, tags, data[8:])


def _undo_predictor(raw: Array, predictor: int, dtype: np.dtype[Any]) -> Array:
    """Convert bytes, H runs W B, to samples, H W S, in native byte order."""
    height, runs, width, pixel_size = raw.shape
    if predictor == _FLOATING:  # differences of bytes, first the highest bytes of all samples
        count = pixel_size // dtype.itemsize
        whole = raw.reshape(height, runs, -1, count).cumsum(axis=2, dtype=np.uint8)
        whole = whole.reshape(height, runs, dtype.itemsize, width * count)
        raw, dtype = np.ascontiguousarray(whole.swapaxes(2, 3)), dtype.newbyteorder(">")
        raw = raw.reshape(height, runs, width, pixel_size)
    native = dtype.newbyteorder("=")
    if predictor == _HORIZONTAL:  # differences of samples, viewed as integers
        integers = raw.view(dtype.str.replace(dtype.kind, "u"))
        integers = integers.astype(integers.dtype.newbyteorder("="))
        samples: Array = integers.cumsum(axis=2, dtype=integers.dtype).view(native)
    else:
        samples = raw.view(dtype).astype(native)
    return samples.reshape(height, runs * width, -1)


def _apply_predictor(samples: Array, predictor: int, order: str) -> bytes:
    """Invert `_undo_predictor` for one strip, H W S."""
    height, width, count = samples.shape
    if predictor == _HORIZONTAL:
        differences = np.diff(samples, axis=1, prepend=samples.dtype.type(0))
        return differences.astype(f"{order}u{samples.itemsize}").tobytes()
    raw = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8)
    planes = raw.reshape(height, width * count, -1).swapaxes(1, 2).reshape(height, -1, count)
    return bytes(np.diff(planes, axis=1, prepend=np.uint8(0)).data)


def _old_tags(page: Image, order: str) -> Directory:
    """Return the tags of the page's EXIF block if it has the byte order of the first page."""
    empty = Directory(order or "<", {})
    try:
        tags = empty if page.exif is None else exif.parse(page.exif)
    except CODEC_ERRORS:
        page.notes.append("damaged EXIF cannot be written to a TIFF: it is left out")
        return empty
    if not order or tags.order == order:
        return tags
    page.notes.append("EXIF in another byte order than the first page's is left out")
    return empty


def _encode_page(image: Image, old: Directory, start: int) -> tuple[dict[int, Tag], list[bytes]]:
    """Return the tags of a page and its strips, for the offset `start` of the first strip."""
    order = old.order
    samples = image.samples()
    height, width, count = samples.shape
    rows = max(1, 2**18 // (width * count * samples.itemsize))
    predictor, form = (_FLOATING, 3) if samples.dtype.kind == "f" else (_HORIZONTAL, 1)
    strips = [
        zlib.compress(_apply_predictor(samples[top : top + rows], predictor, order))
        for top in range(0, height, rows)
    ]
    if start + sum(map(len, strips)) > 2**32 - 2**24:
        raise ValueError("larger than the 4 GB limit of a TIFF")
    integers: dict[int, tuple[int, list[int]]] = {
        _WIDTH: (LONG, [width]),
        _HEIGHT: (LONG, [height]),
        _BITS: (SHORT, [samples.itemsize * 8] * count),
        _COMPRESSION: (SHORT, [_DEFLATE]),
        _PHOTOMETRIC: (SHORT, [_RGB if image.pixels.shape[2] == 3 else _BLACK_IS_ZERO]),
        _STRIP_OFFSETS: (LONG, list(accumulate(map(len, strips[:-1]), initial=start))),
        _SAMPLES: (SHORT, [count]),
        _ROWS: (LONG, [rows]),
        _STRIP_SIZES: (LONG, [len(strip) for strip in strips]),
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
