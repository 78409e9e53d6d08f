"""Linear DNG: demosaicked camera colours, to be developed by other programs.

The layout is that of DNG 1.4 (Adobe, 2012): the first directory has a preview and all tags of the
photograph and the camera, a directory below it the samples (chapter 2).
"""

from __future__ import annotations

import struct
from itertools import accumulate
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...image import from_float, swap_red_blue
from ...linear import WHITE
from .. import CODEC_ERRORS
from ..blocks import exif
from ..blocks.exif import ASCII, BYTE, LONG, SHORT, Directory, Tag, integer_tag
from ..blocks.tags import (
    BITS,
    COMPRESSION,
    EXIF_IFD,
    HEIGHT,
    IPTC,
    MAKE,
    MODEL,
    ORIENTATION,
    PHOTOMETRIC,
    PLANAR,
    POSITIONING,
    ROWS,
    SAMPLES,
    STRIP_OFFSETS,
    STRIP_SIZES,
    SUB_IFDS,
    SUBFILE,
    SUBSAMPLING,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_SIZES,
    TILE_WIDTH,
    WIDTH,
    XMP,
)
from . import lossless_jpeg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...image import Array, Image
    from ...linear import RawDescription

VERSION, _BACKWARD_VERSION, _CAMERA = 50706, 50707, 50708
_COLOUR_MATRIX, _NEUTRAL, _WHITE_XY, _ILLUMINANT = 50721, 50728, 50729, 50778
_PRIVATE_DATA, _MAKER_NOTE = 50740, 37500
OPCODE_TAGS = frozenset([51008, 51009, 51022])
# Tags of a DNG about the camera and its profile, which hold for demosaicked samples as well:
# model, matrices, calibration, neutral colour, exposure, serial number, lens, maker note, curves.
PROFILE_TAGS = frozenset([_CAMERA, 50709, *range(50721, 50731), 50734, 50735, 50736, _PRIVATE_DATA])
PROFILE_TAGS |= {50778, 50779, 50931, 50932, *range(50936, 50943), 50964, 50965, 50981, 50982}
PROFILE_TAGS |= frozenset(range(51107, 51111))
_PREVIEW_COLOURS = 50970
_SIGNED_RATIONAL = 10
_D65 = 21  # EXIF's number of the illuminant
_JPEG, _YCBCR, _LINEAR_RAW = 7, 6, 34892
_SRGB_PREVIEW = 2
_PREVIEW_SIDE, _PREVIEW_QUALITY = 1024, 90
_TILE, _TILE_UNIT = 256, 16  # largest side, and a factor of all (TIFF 6.0, section 15)
_DENOMINATOR = 10**6
_LARGEST = 2**32 - 2**24  # bytes of a file, without its directories


def encode(images: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode linear camera colours in tiles of lossless JPEG, with a JPEG preview."""
    (image,) = images
    assert image.raw is not None  # noqa: S101 - checked by `formats.fit`
    order, photo = _photo_tags(image)
    height, width, _ = image.pixels.shape
    high, wide = _tile_side(height), _tile_side(width)
    padded = np.pad(image.pixels, [(0, -height % high), (0, -width % wide), (0, 0)], "edge")
    tiles = [
        lossless_jpeg.encode(padded[top : top + high, left : left + wide])
        for top in range(0, height, high)
        for left in range(0, width, wide)
    ]
    *starts, end = accumulate(map(len, tiles), initial=8)
    if end > _LARGEST:
        raise ValueError("larger than the 4 GB limit of a DNG")
    preview, preview_tags = _preview(image.pixels, image.raw, order, end)
    below = Directory(order, _raw_tags(order, (width, height), (wide, high), starts, tiles))
    tags = {
        **_camera_tags(order, image.raw, photo),
        **photo,
        **preview_tags,
        **_common_tags(order),
        SUB_IFDS: Tag(LONG, 1, below),
    }
    for tag, value in ((XMP, image.xmp), (IPTC, image.iptc)):
        if value is not None:
            tags[tag] = Tag(BYTE, len(value), value)
    return exif.build(order, tags, b"".join([*tiles, preview]))


def with_private_maker_note(order: str, tags: Mapping[int, Tag]) -> dict[int, Tag]:
    """Return tags of a raw file with its maker note in the place of Adobe's DNG converter.

    Offsets in maker notes count from the start of the raw file. In the private data, the note has
    its old offset beside it, so that readers such as exiftool and exiv2 can correct them (chapter
    4, DNGPrivateData; the inner format is that of "Adobe" with "MakN").
    """
    kept = dict(tags)
    photo = kept[EXIF_IFD].value if EXIF_IFD in kept else None
    note = photo.raw(_MAKER_NOTE) if isinstance(photo, Directory) else None
    if not isinstance(photo, Directory) or not note or _PRIVATE_DATA in kept:
        return kept
    offset = photo.tags[_MAKER_NOTE].offset
    without = {tag: value for tag, value in photo.tags.items() if tag != _MAKER_NOTE}
    kept[EXIF_IFD] = Tag(LONG, 1, photo._replace(tags=without))
    mark = b"II" if order == "<" else b"MM"
    block = mark + struct.pack(">I", offset) + note
    private = b"Adobe\0MakN" + struct.pack(">I", len(block)) + block
    kept[_PRIVATE_DATA] = Tag(BYTE, len(private), private)
    return kept


def _photo_tags(image: Image) -> tuple[str, dict[int, Tag]]:
    """Return the byte order and the tags of the photograph and its camera."""
    try:
        block = exif.parse(image.exif) if image.exif is not None else Directory("<", {})
    except CODEC_ERRORS:
        image.losses.append("damaged EXIF cannot be written to a DNG: it is left out")
        return "<", {}
    return block.order, block.tags


def _camera_tags(order: str, raw: RawDescription, photo: Mapping[int, Tag]) -> dict[int, Tag]:
    """Return tags of the camera's name and colours; those of a DNG as input take their place."""
    make, model = (_text(photo, tag) for tag in (MAKE, MODEL))
    first, again = (text.lower().split()[:1] for text in (make, model))
    name = model if first == again else f"{make} {model}"  # models often begin with their make
    matrix = [value for row in raw.from_xyz for value in row]
    tags = {_CAMERA: _ascii(name.strip() or "Unknown camera")}
    if _COLOUR_MATRIX not in photo:
        tags[_COLOUR_MATRIX] = _ratios(order, _SIGNED_RATIONAL, *matrix)
        tags[_ILLUMINANT] = integer_tag(order, SHORT, _D65)
    if _WHITE_XY not in photo:
        neutral = (1 / factor for factor in raw.balance)
        tags[_NEUTRAL] = _ratios(order, exif.RATIONAL, *neutral)
    return tags


def _common_tags(order: str) -> dict[int, Tag]:
    return {
        VERSION: Tag(BYTE, 4, b"\1\4\0\0"),
        _BACKWARD_VERSION: Tag(BYTE, 4, b"\1\1\0\0"),
        ORIENTATION: integer_tag(order, SHORT, 1),
    }


def _tile_side(length: int) -> int:
    """Return the side of tiles that need little padding.

    It is no longer than the image, because LibRaw misreads wider tiles.
    """
    count = -(-length // _TILE)
    units = -(-length // (count * _TILE_UNIT))
    return _TILE_UNIT * max(1, min(units, length // _TILE_UNIT))


def _raw_tags(
    order: str,
    size: tuple[int, int],
    tile: tuple[int, int],
    starts: list[int],
    tiles: list[bytes],
) -> dict[int, Tag]:
    """Return the tags of the samples (chapter 4; of TIFF 6.0, sections 8 and 15, up to 325)."""
    width, height = size
    integers: dict[int, tuple[int, list[int]]] = {
        SUBFILE: (LONG, [0]),  # the full picture
        WIDTH: (LONG, [width]),
        HEIGHT: (LONG, [height]),
        BITS: (SHORT, [16] * 3),
        COMPRESSION: (SHORT, [_JPEG]),
        PHOTOMETRIC: (SHORT, [_LINEAR_RAW]),
        SAMPLES: (SHORT, [3]),
        PLANAR: (SHORT, [1]),  # interleaved
        TILE_WIDTH: (LONG, [tile[0]]),
        TILE_HEIGHT: (LONG, [tile[1]]),
        TILE_OFFSETS: (LONG, starts),
        TILE_SIZES: (LONG, [len(tile) for tile in tiles]),
        50713: (SHORT, [1, 1]),  # size of the pattern of black levels
        50714: (LONG, [0] * 3),  # black level
        50717: (LONG, [WHITE] * 3),  # white level
        50719: (LONG, [0, 0]),  # origin and size of the crop
        50720: (LONG, [width, height]),
        50829: (LONG, [0, 0, height, width]),  # active area
    }
    tags = {tag: integer_tag(order, kind, *values) for tag, (kind, values) in integers.items()}
    tags[50718] = _ratios(order, exif.RATIONAL, 1, 1)  # scale: square pixels
    tags[50780] = _ratios(order, exif.RATIONAL, 1)  # scale for the best quality
    return tags


def _preview(
    pixels: Array, raw: RawDescription, order: str, start: int
) -> tuple[bytes, dict[int, Tag]]:
    """Return a developed picture as JPEG and its tags, for the offset `start`.

    It has at most half of the image's sides, since some readers take the largest one for the raw.
    """
    height, width = pixels.shape[:2]
    scale = min(0.5, _PREVIEW_SIDE / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    picture = swap_red_blue(from_float(raw.developed(small), np.uint8))
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _PREVIEW_QUALITY])
    jpeg = encoded.tobytes()
    integers: dict[int, tuple[int, list[int]]] = {
        SUBFILE: (LONG, [1]),  # a preview
        WIDTH: (LONG, [size[0]]),
        HEIGHT: (LONG, [size[1]]),
        BITS: (SHORT, [8] * 3),
        COMPRESSION: (SHORT, [_JPEG]),
        PHOTOMETRIC: (SHORT, [_YCBCR]),
        STRIP_OFFSETS: (LONG, [start]),
        SAMPLES: (SHORT, [3]),
        ROWS: (LONG, [size[1]]),
        STRIP_SIZES: (LONG, [len(jpeg)]),
        PLANAR: (SHORT, [1]),
        SUBSAMPLING: (SHORT, [2, 2]),  # half chroma, as OpenCV writes it
        POSITIONING: (SHORT, [1]),  # centred, as in JFIF
        _PREVIEW_COLOURS: (LONG, [_SRGB_PREVIEW]),
    }
    tags = {tag: integer_tag(order, kind, *values) for tag, (kind, values) in integers.items()}
    return jpeg, tags


def _ratios(order: str, kind: int, *values: float) -> Tag:
    form = order + ("ii" if kind == _SIGNED_RATIONAL else "II")
    ratios = (struct.pack(form, round(value * _DENOMINATOR), _DENOMINATOR) for value in values)
    return Tag(kind, len(values), b"".join(ratios))


def _ascii(text: str) -> Tag:
    value = text.encode() + b"\0"
    return Tag(ASCII, len(value), value)


def _text(tags: Mapping[int, Tag], tag: int) -> str:
    value = tags[tag].value if tag in tags else b""
    return value.strip(b"\0 ").decode(errors="replace") if isinstance(value, bytes) else ""
