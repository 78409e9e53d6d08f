"""What each file format can hold, and an image made to fit it."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from PIL import features

from ..errors import ImageError
from .codecs import exif, heif, raw
from .image import Image, from_float, to_float


@dataclass(frozen=True)
class Container:
    """What a file format that we write can hold."""

    suffixes: tuple[str, ...]
    depths: tuple[str, ...]  # sample types, the deepest last
    alpha: bool
    grey: bool
    carries: frozenset[str]  # of icc, cicp, exif, xmp
    max_side: int
    several: str = ""  # "page" or "frame": what it holds more than one of


_ALL = frozenset({"icc", "exif", "xmp"})
_ALL_AND_CICP = _ALL | {"cicp"}
_LIKE_SRGB = ({1, 2}, {1, 2, 6, 13})  # CICP primaries and transfers that all take for granted
# What PNGs of sRGB say of their colours for older readers (PNG, third edition, 11.3.2.5).
_SRGB_CHUNKS = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
FORMATS = {
    "png": Container(
        (".png", ".apng"),
        ("uint8", "uint16"),
        alpha=True,
        grey=True,
        carries=_ALL_AND_CICP,
        max_side=2**31 - 1,
        several="frame",
    ),
    "jpeg": Container(_JPEG, ("uint8",), False, True, _ALL, 65500),
    "tiff": Container(
        (".tif", ".tiff"), ("uint8", "uint16", "float32"), True, True, _ALL, 2**31, "page"
    ),
    "webp": Container((".webp",), ("uint8",), True, False, _ALL, 16383, "frame"),
    "bmp": Container((".bmp", ".dib"), ("uint8",), True, True, frozenset(), 2**31 - 1),
}
if features.check("avif"):  # as in all of Pillow's own builds
    FORMATS["avif"] = Container((".avif",), ("uint8",), True, True, _ALL, 65536, "frame")
if heif.writable():
    FORMATS["heif"] = Container(
        (".heic", ".heif", ".hif"), ("uint8", "uint16"), True, True, _ALL_AND_CICP, 16384
    )
# Pictures that we read and, having no encoder for them, write as PNG. What takes a package that is
# not installed is among them, so that it is found and its error says what to do.
READ_ONLY_SUFFIXES = raw.SUFFIXES.union(
    (".avif", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jp2", ".jpx"),
    (".pbm", ".pgm", ".pnm", ".ppm", ".qoi", ".tga"),
)


def readable_suffixes() -> set[str]:
    """Suffixes, lower case with their dot, of the files that a folder run picks up."""
    return set(READ_ONLY_SUFFIXES).union(*(held.suffixes for held in FORMATS.values()))


def fit(image: Image, kind: str, notes: list[str]) -> Image:
    """`image` as the format can hold it; `notes` gets what had to go.

    Raises:
        ImageError: it is too large for the format.
    """
    held = FORMATS[kind]
    if (side := max(image.pixels.shape[:2])) > held.max_side:
        raise ImageError(
            f"{side} pixels a side, {kind} holds {held.max_side}", "Write PNG or TIFF."
        )
    pixels, alpha = image.pixels, image.alpha
    if alpha is not None and image.premultiplied and kind != "tiff":
        opacity = np.maximum(to_float(alpha), np.float32(1e-6))[..., None]
        pixels = from_float(to_float(pixels) / opacity, pixels.dtype)
        notes.append("colour was divided by the alpha it had been multiplied with")
    if alpha is not None and not held.alpha:
        alpha = None
        notes.append(f"{kind} has no alpha: it is left out")
    if pixels.dtype.name not in held.depths:
        if pixels.dtype == np.float32 and (pixels.min() < 0 or pixels.max() > 1):
            notes.append("values outside 0..1 are clipped")
        depth = np.dtype(held.depths[-1])
        notes.append(f"{kind} holds no {pixels.dtype} samples: rounded to {depth}")
        pixels = from_float(to_float(pixels), depth)
        alpha = None if alpha is None else from_float(to_float(alpha), depth)
    kept: dict[str, bytes | None] = {piece: getattr(image, piece) for piece in sorted(_ALL)}
    for piece in sorted(_ALL - held.carries):
        if kept[piece] is not None:
            notes.append(f"{kind} has no {piece.upper()}: it is left out")
            kept[piece] = None
    cicp = image.cicp
    if cicp is not None and "cicp" not in held.carries:
        usual = all(number in those for number, those in zip(cicp, _LIKE_SRGB, strict=False))
        if not usual and kept["icc"] is None:
            notes.append(
                f"{kind} as it is written here does not say what the colours are "
                f"(CICP {cicp[0]}/{cicp[1]}): they will look wrong; PNG does"
            )
        cicp = None
    if kind != image.format and kept["icc"] is None and image.cicp is None:
        chunks = dict(image.extras)
        if any(chunks.get(name, usual) != usual for name, usual in _SRGB_CHUNKS.items()):
            notes.append(f"{kind} cannot tell PNG's gamma or primaries: colours will look wrong")
    if kept["exif"] is not None:
        with suppress(*exif.DAMAGE):  # its thumbnail shows the picture as it was
            kept["exif"] = exif.without_thumbnail(kept["exif"])
    if pixels.shape[2] == 1 and not held.grey:
        pixels = np.repeat(pixels, 3, axis=2)
        notes.append(f"{kind} has no grey: written as RGB")
        if (icc := kept["icc"]) is not None and icc[16:20] == b"GRAY":
            kept["icc"] = None
            notes.append("a grey ICC profile does not fit RGB: it is left out")
    return replace(
        image,
        pixels=pixels,
        alpha=alpha,
        icc=kept["icc"],
        cicp=cicp,
        exif=kept["exif"],
        xmp=kept["xmp"],
        extras=image.extras if kind == image.format else (),
        premultiplied=image.premultiplied and kind == "tiff",
    )
