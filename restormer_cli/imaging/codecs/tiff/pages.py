"""Decode TIFF with all its tags, and with sample types that neither Pillow nor OpenCV supports.

Section numbers are those of TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL

from ....errors import ImageError
from ....text import counted
from ...image import UNDECODED, Array, Image, ImageSequence, check_size
from ...integrity import tiff as integrity
from ...integrity.fault import CUT, Damage
from ...scale import find_scale
from .. import CODEC_ERRORS, pillow
from ..blocks import exif, photoshop
from ..blocks.exif import LONG, SHORT, Directory, Tag, integer_tag
from ..blocks.tags import (
    BITS,
    COMPRESSION,
    EXTRA_SAMPLES,
    FILL_ORDER,
    HEIGHT,
    ICC,
    IPTC,
    PALETTE,
    PHOTOMETRIC,
    PHOTOSHOP,
    PLANAR,
    PREDICTOR,
    ROWS,
    SAMPLE_FORMAT,
    SAMPLES,
    SUB_IFDS,
    SUBFILE,
    TILE_HEIGHT,
    TILE_WIDTH,
    WIDTH,
    XMP,
)
from ..unsupported import check_tiff
from . import stacks, ycbcr
from .layout import (
    BLACK_IS_ZERO,
    CODING,
    DEFLATE,
    FLOATING,
    HORIZONTAL,
    MASK,
    RAW,
    REDUCED,
    RGB,
    STORAGE,
    WHITE_IS_ZERO,
    YCBCR,
    unspecified_bands,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DAMAGED = "the directory of its tags is damaged"
# Sample formats (section 19); 4 is undefined and read as unsigned, as by libtiff.
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_TYPES = {*("u1", "u2", "u4", "u8"), *("i1", "i2", "i4", "i8"), *("f2", "f4", "f8")}
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # by photometric interpretation, else 1
# Compressions of bytes: none, LZW, deflate (two numbers), PackBits, LZMA, Zstandard.
_BYTEWISE = frozenset([RAW, 5, DEFLATE, 32946, 32773, 34925, 50000])
_SINGLE = CODING & {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332}
_OLD_JPEG = frozenset(range(512, 522))  # tables may be anywhere in the file (section 22)
_OMITTED = {SUB_IFDS: "pictures below its pages (SubIFDs)", 37724: "Photoshop's layers"}


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode all pages to uint8, uint16 or float32 each, without thumbnails and masks."""
    starts: list[int | None] = []
    thumbnails, masks, declared = 0, 0, 1
    omitted, seen = set(), set()
    cut = ""  # damage: pages that cannot be found
    start: int | None = None  # the first directory
    while start != 0:
        if start in seen:
            raise ValueError("the links between its pages form a loop")
        seen.add(start)
        try:
            page = _parse_page(data, start)
        except CODEC_ERRORS:
            if not starts:
                raise
            cut = f"the directory after page {len(starts)} cannot be read, so later pages are lost"
            break
        kind = page.integer(SUBFILE, 0)
        if kind & MASK:
            masks += 1
        elif kind & REDUCED:
            thumbnails += 1
        else:
            starts.append(start)
            declared = max(declared, stacks.count_slices(page))
            omitted |= {name for tag, name in _OMITTED.items() if tag in page.tags}
            prefix = f"page {len(starts)}: " if len(starts) > 1 else ""
            check_size(page.integer(WIDTH), page.integer(HEIGHT), max_pixels, prefix)
        start = page.following
    if not starts:
        raise ImageError("contains only thumbnails or masks", "Name a file with the full picture.")

    if masks:
        omitted.add(counted(masks, "mask"))
    notes = [f"{counted(thumbnails, 'thumbnail')}: left out"] if thumbnails else []
    alone = len(starts) == 1
    slices = stacks.split(data, exif.parse(data, starts[0])) if alone and declared > 1 else []
    count = len(slices) or len(starts)
    if declared > 1 and count > 1:
        omitted.add(stacks.ORDER)
    if count < declared:
        notes.append(f"it should have {declared} slices, but the file holds {count}")

    def pages() -> Iterator[Image]:
        for number in range(count):
            page = slices[number] if slices else exif.parse(data, starts[number])
            image = _decode_page(data, page)
            if not number:
                image.notes += notes
                if cut:
                    cause, part = image.damage or ("", 0)
                    image.damage = Damage("; ".join(filter(None, [cut, cause])), part)
            yield image

    return ImageSequence(pages(), "tiff", count, omitted=tuple(sorted(omitted)))


def _parse_page(data: bytes, start: int | None) -> Directory:
    """Parse the directory of a page, a thumbnail or a mask.

    Raises:
        CODEC_ERRORS: it is damaged, or the size of a page is missing.
    """
    page = exif.parse(data, start)
    is_page = not page.integer(SUBFILE, 0) & (MASK | REDUCED)
    if is_page and not page.tags.keys() >= {WIDTH, HEIGHT}:
        raise ValueError(_DAMAGED)
    return page


def _check_tags(page: Directory) -> list[str]:
    """Return the losses of a page with tags that have no value.

    Raises:
        ValueError: pixels cannot be decoded without these tags.
    """
    if page.damaged & CODING or 0 in page.integers(BITS, 1):
        raise ValueError(_DAMAGED)
    count = len(page.damaged)
    return [f"{counted(count, 'damaged tag')}: left out"] if count else []


def _decode_page(data: bytes, page: Directory) -> Image:
    losses = _check_tags(page)
    described = stacks.as_pages(page.tags)
    kept = {tag: v for tag, v in described.items() if tag not in STORAGE and v.kind <= 13}
    resources = page.raw(PHOTOSHOP) or b""
    kept.pop(PHOTOSHOP, None)
    if bare := photoshop.settings(resources):
        kept[PHOTOSHOP] = Tag(exif.BYTE, len(bare), bare)
    image = Image(
        UNDECODED,
        format="tiff",
        exif=exif.build(page.order, kept) if kept else None,
        icc=page.raw(ICC),
        xmp=page.raw(XMP),
        dpi=page.dpi(),
        iptc=_iptc(page) or photoshop.iptc(resources),
        losses=losses,
    )
    if wide := sum(tag not in STORAGE and v.kind > 13 for tag, v in described.items()):
        image.losses.append(f"{counted(wide, 'tag')} of BigTIFF's 64-bit types: left out")
    bits = frozenset(page.integers(BITS, 1))
    photometric = page.integer(PHOTOMETRIC, BLACK_IS_ZERO)
    compression = page.integer(COMPRESSION, RAW)
    palette = page.integers(PALETTE) if PALETTE in page.tags else ()
    check_tiff(compression)
    page = integrity.with_sizes(page, len(data))
    damage: list[Damage | None] = [None]  # of each plane that is decoded alone
    if (
        photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)
        and compression in _BYTEWISE
        and bits <= {8, 16, 32, 64}
    ):
        damage = _decode_samples(image, data, page)
    elif photometric == YCBCR and compression == RAW and bits == {8}:
        picture = ycbcr.decode(data, page)
        pillow.read_samples(image, picture)
    elif bits <= {1, 2, 4, 8}:
        # Other tags would make Pillow apply the orientation or emit warnings.
        file = _extract_page(data, page.order, _select(page, CODING))
        try:
            picture, damage[0] = integrity.load(file)
        except PIL.UnidentifiedImageError as error:  # by its tags alone
            raise _unsupported(bits, photometric, compression) from error
        pillow.read_samples(image, picture)
        if any(value not in (value >> 8 << 8, (value >> 8) * 257) for value in palette):
            image.losses.append("its palette of 16 bits is read as 8 bits")
        extra = page.integer(SAMPLES, 1) - _COLOURS.get(photometric, 1)
        if extra > 0 and image.alpha is None:
            image.losses.append(f"{unspecified_bands(extra)} left out")
    else:
        raise _unsupported(bits, photometric, compression)
    image.damage = _total(damage, integrity.missing_bytes(page, len(data)))
    return image


def _iptc(page: Directory) -> bytes | None:
    """Return the IPTC records, which some writers store as integers in the other byte order."""
    records = page.raw(IPTC)
    if records is not None and records[3:4] == b"\x1c" != records[:1] and len(records) % 4 == 0:
        return bytes(np.frombuffer(records, "u4").byteswap().data)
    return records


def _unsupported(bits: Iterable[int], photometric: int, compression: int) -> ImageError:
    return ImageError(
        f"TIFF samples of {max(bits)} bits, photometric {photometric}, compression {compression} "
        "are not supported",
        "Convert it to RGB of 8 or 16 bits.",
    )


def _total(damage: list[Damage | None], cut: float) -> Damage | None:
    """Return the damage of a page: of its planes, or by bytes beyond the file's end, a share."""
    found = [each for each in damage if each is not None]
    parts = [each.part for each in found if each.part is not None]
    part = sum(parts) / len(damage) if parts else None
    if cut:
        return Damage(CUT, cut if part is None else part)
    return Damage(found[0].cause, part) if found else None


def _decode_samples(image: Image, data: bytes, page: Directory) -> list[Damage | None]:
    """Set samples of any type, in strips or tiles; return the damage of each plane."""
    bits, forms = set(page.integers(BITS, 1)), set(page.integers(SAMPLE_FORMAT, 1))
    types = {f"{_KINDS.get(form, 'c')}{size // 8}" for form in forms for size in bits}
    if len(types) > 1 or not types <= _TYPES:
        raise ImageError(
            f"TIFF samples of {_listed(bits)} bits and format {_listed(forms)} are not supported",
            "Convert it to 8 or 16 unsigned bits, or to 32-bit floating point.",
        )
    photometric = page.integer(PHOTOMETRIC, BLACK_IS_ZERO)
    colours = 3 if photometric == RGB else 1
    samples, damage = _read_segments(data, page, np.dtype(page.order + types.pop()))
    if samples.shape[2] < colours:
        raise ImageError(
            f"{samples.shape[2]} samples a pixel are not an RGB picture", "Convert it to RGB."
        )
    image.set_samples(samples, colours, page.integers(EXTRA_SAMPLES, 0))
    if photometric == WHITE_IS_ZERO:
        if samples.dtype.kind == "f":
            low, high = find_scale(image.pixels)
        else:
            low, high = np.iinfo(samples.dtype).min, np.iinfo(samples.dtype).max
        white = image.pixels.dtype.type(low + high)
        image.pixels = white - image.pixels
    return damage


def _read_segments(
    data: bytes, page: Directory, dtype: np.dtype[Any]
) -> tuple[Array, list[Damage | None]]:
    """Decode strips or tiles (15), interleaved or planar, of any sample type to H W S.

    Pillow decompresses each plane as a grey 8-bit picture, with a pixel for each byte. The
    damage is that of each plane.
    """
    order, tiled = page.order, TILE_WIDTH in page.tags
    width, height = page.integer(WIDTH), page.integer(HEIGHT)
    count, predictor = page.integer(SAMPLES, 1), page.integer(PREDICTOR, 1)
    planes = count if page.integer(PLANAR, 1) == 2 else 1
    run = page.integer(TILE_WIDTH) if tiled else width  # pixels that the predictor spans
    padded = -(-width // run) * run
    pixel_size = count // planes * dtype.itemsize
    locations = integrity.LOCATIONS[tiled]
    per_plane = len(page.integers(locations[0])) // planes
    decoded, damage = [], []
    for plane in range(planes):
        tags = _select(page, {HEIGHT, COMPRESSION, FILL_ORDER, ROWS, TILE_HEIGHT})
        for tag in locations:
            if tag in page.tags:
                values = page.integers(tag)[plane * per_plane : (plane + 1) * per_plane]
                tags[tag] = integer_tag(order, LONG, *values)
        tags[WIDTH] = integer_tag(order, LONG, padded * pixel_size)
        if tiled:
            tags[TILE_WIDTH] = integer_tag(order, LONG, run * pixel_size)
        for tag, value in ((BITS, 8), (PHOTOMETRIC, BLACK_IS_ZERO), (SAMPLES, 1)):
            tags[tag] = integer_tag(order, SHORT, value)
        file = _extract_page(data, order, tags)
        picture, found = integrity.load(file)
        damage.append(found)
        raw = np.asarray(picture).reshape(height, -1, run, pixel_size)
        decoded.append(_undo_predictor(raw, predictor, dtype)[:, :width])
    return np.concatenate(decoded, axis=2), damage


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
    for offsets, sizes in integrity.LOCATIONS:
        if offsets in tags and sizes in tags and not _OLD_JPEG & tags.keys():
            starts, lengths = page.integers(offsets), page.integers(sizes)
            area = page.integer(WIDTH) * page.integer(HEIGHT)
            most = len(data) + 64 * area * page.integer(SAMPLES, 1)
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
    if predictor == FLOATING:  # differences of bytes, first the highest bytes of all samples
        count = pixel_size // dtype.itemsize
        whole = raw.reshape(height, runs, -1, count).cumsum(axis=2, dtype=np.uint8)
        whole = whole.reshape(height, runs, dtype.itemsize, width * count)
        raw, dtype = np.ascontiguousarray(whole.swapaxes(2, 3)), dtype.newbyteorder(">")
        raw = raw.reshape(height, runs, width, pixel_size)
    native = dtype.newbyteorder("=")
    if predictor == HORIZONTAL:  # differences of samples, viewed as integers
        integers = raw.view(dtype.str.replace(dtype.kind, "u"))
        integers = integers.astype(integers.dtype.newbyteorder("="))
        samples: Array = integers.cumsum(axis=2, dtype=integers.dtype).view(native)
    else:
        samples = raw.view(dtype).astype(native)
    return samples.reshape(height, runs * width, -1)


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
