"""Camera raw files, read with LibRaw from an optional package.

They are developed to 16-bit sRGB or, for a DNG, demosaicked to linear camera colours.
"""

from __future__ import annotations

import io
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ...errors import ImageError
from ...extras import require
from ..image import Array, Image, ImageSequence, check_size
from ..integrity.fault import Damage
from ..integrity.messages import library_messages
from ..linear import WHITE, RawDescription, from_srgb_matrix
from . import CODEC_ERRORS
from .blocks import exif
from .blocks.exif import Directory
from .blocks.tags import (
    ARTIST,
    COPYRIGHT,
    DATE_TIME,
    DESCRIPTION,
    EXIF_IFD,
    GPS_IFD,
    IPTC,
    MAKE,
    MODEL,
    SOFTWARE,
    SUB_IFDS,
    XMP,
)
from .tiff import dng

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    _Tags = dict[int, exif.Tag]

# Suffixes of common cameras.
SUFFIXES = frozenset[str]().union(
    (".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos"),
    (".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf"),
    (".srw", ".x3f"),
)
# Fujifilm, Olympus, Panasonic, Canon (CR2, CR3), Sigma and Minolta; other cameras write TIFFs.
SIGNATURE = rb"FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|II\*\0....CR\x02|....ftypcrx |FOVb|\0MRM"
_TIFF_NUMBERS = {"<": b"II*\0", ">": b"MM\0*"}
_TIFFS = (*_TIFF_NUMBERS.values(), b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
_RAF, _RAF_JPEG = b"FUJIFILMCCD-RAW", 84  # position of offset and size of a JPEG with EXIF
# Blocks of a CR3 and the tags that lead to them elsewhere: IFD 0, EXIF, GPS.
_CR3, _CR3_BLOCKS = b"ftypcrx ", ((b"CMT1", 0), (b"CMT2", EXIF_IFD), (b"CMT4", GPS_IFD))
_CR3_HEAD = 2**18  # bytes in which the blocks are
# Tags that describe the photograph, and not the raw samples or a preview.
_KEPT = frozenset([DESCRIPTION, MAKE, MODEL, SOFTWARE, DATE_TIME, ARTIST, COPYRIGHT])
_KEPT |= {EXIF_IFD, GPS_IFD}
_SRGB_CURVE = (2.4, 12.92)  # power, and slope at black (IEC 61966-2-1)
_LINEAR = (1, 1)
_REACH = 7  # side of the square in which a sample influences the others when demosaicking
# Part of the rounding that is left to LibRaw, which truncates. It is below 0.5, because the factors
# of a DNG are rounded themselves.
_TRUNCATED = 0.48


def is_raw(data: bytes, suffix: str) -> bool:
    """Return True if a TIFF is a camera raw file, by its DNG version tag or its suffix."""
    with suppress(*CODEC_ERRORS):
        return suffix in SUFFIXES or dng.VERSION in exif.parse(data).tags
    return False


def read_size(path: Path) -> tuple[int, int]:
    """Return the height and width that the header of a file states."""
    with library_messages(), _library() as library, library.RawPy() as raw:
        raw.open_file(str(path))
        return raw.sizes.height, raw.sizes.width


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Develop an upright image with the camera's white balance and exposure.

    Brightness is not adapted to the image, so that the images of a series stay comparable.
    """
    image = _read(data, max_pixels, _develop)
    _describe(image, data, _KEPT)
    return ImageSequence.single(image)


def decode_linear(data: bytes, max_pixels: int) -> ImageSequence:
    """Demosaic an upright image to camera colours as LibRaw does, without clipping highlights.

    The tags of a DNG that describe its colours stay in `Image.exif`, and the maker note goes to the
    private data of a DNG.
    """
    image = _read(data, max_pixels, _demosaic)
    directory = _describe(image, data, _KEPT | dng.PROFILE_TAGS, dng.with_private_maker_note)
    if directory is not None and _has_corrections(data, directory):
        image.losses.append("corrections of the lens (opcodes of the DNG): left out")
    return ImageSequence.single(image)


def _read(data: bytes, max_pixels: int, convert: Callable[[Any, Any], Image]) -> Image:
    """Open a file, check its size and convert it, with the library and an open file."""
    with library_messages() as messages, _library() as library, library.RawPy() as raw:
        raw.open_buffer(io.BytesIO(data))
        check_size(raw.sizes.width, raw.sizes.height, max_pixels)
        image = convert(library, raw)
    if messages():
        image.damage = Damage("LibRaw reports corrupt data")
    return image


@contextmanager
def _library() -> Iterator[Any]:
    """Yield the package; its errors become ValueErrors."""
    library = require("rawpy", "raw", "a camera raw file", ImageError)
    try:
        yield library
    except library.LibRawError as error:
        cause = error.args[0] if error.args else error
        raise ValueError(cause.decode() if isinstance(cause, bytes) else str(cause)) from error


def _develop(library: Any, raw: Any) -> Image:
    pixels: Array = raw.postprocess(
        use_camera_wb=True,
        no_auto_bright=True,
        output_color=library.ColorSpace.sRGB,
        gamma=_SRGB_CURVE,
        output_bps=16,
    )
    return Image(pixels, format="raw", notes=["camera raw file: developed to 16-bit sRGB"])


def _demosaic(library: Any, raw: Any) -> Image:
    """Return linear camera colours that LibRaw develops like the raw file itself.

    Demosaicking depends on the scale of the samples, so it happens on the balanced samples, which
    are divided by the factors afterwards. Balancing clips highlights: near them, the samples are
    those of a second run, on a smaller scale.
    """
    raw.unpack()
    description, factors = _describe_colours(raw)
    if raw.raw_type != library.RawType.Flat:  # already demosaicked: without the rounding
        factors = np.ones(4)

    def run(mode: Any, scale: Array) -> tuple[Array, Array]:
        """Return LibRaw's samples, and those divided by the scale."""
        samples: Array = raw.postprocess(
            user_wb=factors.tolist(),
            no_auto_bright=True,
            adjust_maximum_thr=0,  # white is that of the sensor, not of the image
            output_color=library.ColorSpace.raw,
            gamma=_LINEAR,
            output_bps=16,
            highlight_mode=mode,
        )
        levels = np.arange(WHITE + 1) - _TRUNCATED * np.maximum(scale[:3, None] - 1, 0)
        tables = np.ceil(levels / scale[:3, None]).clip(0, WHITE).astype(np.uint16)
        planes = [table[samples[..., channel]] for channel, table in enumerate(tables)]
        return samples, np.dstack(planes)

    balanced, pixels = run(library.HighlightMode.Clip, factors / factors.min())
    clipped = (balanced.max(axis=2) == WHITE).astype(np.uint8)
    if clipped.any() and factors.max() > factors.min():
        near = cv2.dilate(clipped, np.ones((_REACH, _REACH), np.uint8)) > 0
        _, unclipped = run(library.HighlightMode.Ignore, factors / factors.max())
        pixels[near] = unclipped[near]
    return Image(
        pixels,
        format="raw",
        raw=description,
        notes=["camera raw file: restored in linear camera colours"],
    )


def _describe_colours(raw: Any) -> tuple[RawDescription, Array]:
    """Return the description of a file's colours, and LibRaw's four factors of white balance."""
    if raw.num_colors != 3 or not raw.color_desc.startswith(b"RGB"):
        colours = {1: "no colours", 3: "other colours"}.get(raw.num_colors, "more than 3 colours")
        raise ImageError(
            f"its sensor has {colours}: only raw files of red, green and blue can become DNG",
            "Write TIFF or PNG.",
        )
    daylight = np.array(raw.daylight_whitebalance[:3])
    if raw.rgb_xyz_matrix.any():
        from_xyz = raw.rgb_xyz_matrix[:3]
    elif raw.color_matrix[:, :3].any() and daylight.all():
        from_xyz = from_srgb_matrix(raw.color_matrix[:, :3], daylight)
    else:
        raise ImageError(
            "LibRaw does not know the camera's colours, which a DNG needs", "Write TIFF or PNG."
        )
    shot = np.array(raw.camera_whitebalance)
    factors = shot if shot[:3].min() > 0 else np.array(raw.daylight_whitebalance)
    if factors[3] <= 0:
        factors[3] = factors[1]
    red, green, blue = factors[:3] / factors[:3].min()
    rows = tuple((float(x), float(y), float(z)) for x, y, z in from_xyz)
    return RawDescription((float(red), float(green), float(blue)), rows), factors


def _describe(
    image: Image,
    data: bytes,
    kept: AbstractSet[int],
    adapt: Callable[[str, _Tags], _Tags] = lambda _, tags: tags,
) -> Directory | None:
    """Set the metadata of an image from its file, and return the file's first directory.

    Args:
        image: the image to describe.
        data: the file.
        kept: tags to keep.
        adapt: called with the byte order and the kept tags; returns those of `Image.exif`.
    """
    directory = photo_tags(data)
    if directory is None:
        image.losses.append("its EXIF is left out")
        return None
    tags = {tag: value for tag, value in directory.tags.items() if tag in kept}
    tags = adapt(directory.order, tags)
    image.exif = exif.build(directory.order, tags) if tags else None
    image.xmp, image.iptc = directory.raw(XMP), directory.raw(IPTC)
    return directory


def photo_tags(data: bytes) -> Directory | None:
    """Return the first directory of a file, or None if it is elsewhere or damaged."""
    with suppress(*CODEC_ERRORS):
        if data.startswith(_TIFFS):  # some with a number of their own instead of TIFF's 42
            order = "<" if data.startswith(b"II") else ">"
            number = _TIFF_NUMBERS[order]
            return exif.parse(data if data.startswith(number) else number + data[4:])
        if data.startswith(_RAF):
            start, size = struct.unpack_from(">II", data, _RAF_JPEG)
            preview = data[start : start + min(size, 2**17)]
            return exif.parse(preview.partition(exif.SEGMENT)[2])
        if data[4:12] == _CR3:
            return _cr3_tags(data[:_CR3_HEAD])
    return None


def _cr3_tags(head: bytes) -> Directory:
    blocks = {}
    for name, tag in _CR3_BLOCKS:
        if (position := head.find(name)) >= 4:
            (size,) = struct.unpack_from(">I", head, position - 4)
            blocks[tag] = exif.parse(head[position + 4 : position - 4 + size])
    first = blocks.pop(0)
    nested = {
        tag: exif.Tag(exif.LONG, 1, exif.in_order(d, first.order)) for tag, d in blocks.items()
    }
    return Directory(first.order, {**first.tags, **nested})


def _has_corrections(data: bytes, directory: Directory) -> bool:
    """Return True for a DNG with opcodes, which describe corrections of its own samples."""
    with suppress(*CODEC_ERRORS):
        starts = directory.integers(SUB_IFDS, 0)
        below = [exif.parse(data, start) for start in starts if start]
        return any(dng.OPCODE_TAGS & each.tags.keys() for each in (directory, *below))
    return False
