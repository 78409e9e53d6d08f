"""The capabilities of each file format, and the conversion of an image to fit them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
from PIL import features

from ..errors import ImageError
from .codecs import heif, raw
from .image import Image, from_float, to_float
from .metadata import fit_metadata


@dataclass(frozen=True)
class FormatSpec:
    """Capabilities of a file format that can be written."""

    suffixes: tuple[str, ...]  # in lower case, the usual one first
    max_side: int  # in pixels
    depths: tuple[str, ...] = ("uint8",)  # the deepest last
    alpha: bool = True
    grey: bool = True
    bits: int = 16  # of an integer sample
    cicp: bool = False
    several: str = ""  # "page" or "frame" if it holds several images


_DEEP = ("uint8", "uint16")
FORMATS = {
    "png": FormatSpec((".png", ".apng"), 2**31 - 1, _DEEP, cicp=True, several="frame"),
    "jpeg": FormatSpec((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), 65500, alpha=False),
    "tiff": FormatSpec((".tif", ".tiff"), 2**31, (*_DEEP, "float32"), several="page"),
    "webp": FormatSpec((".webp",), 16383, grey=False, several="frame"),
    "bmp": FormatSpec((".bmp", ".dib"), 2**31 - 1),
}
if features.check("avif"):
    FORMATS["avif"] = FormatSpec((".avif",), 65536, several="frame")
if find_spec(heif.PACKAGE):
    FORMATS["heif"] = FormatSpec((".heic", ".heif", ".hif"), 16384, _DEEP, bits=10, cicp=True)
# Formats that cannot be written or need a package that may be missing. Their files are found all
# the same: outputs become PNG, and errors name the package.
_READ_ONLY_SUFFIXES = raw.SUFFIXES.union(
    (".avif", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jp2", ".jpx"),
    (".pbm", ".pgm", ".pnm", ".ppm", ".qoi", ".tga"),
)
_LIKE_SRGB = ({1, 2}, {1, 2, 6, 13})  # CICP primaries and transfers that readers assume anyway
# Chunks for older readers in PNGs of sRGB (PNG, third edition, 11.3.2.5).
_SRGB_CHUNKS = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}


def readable_suffixes() -> set[str]:
    """Return the suffixes of images in folders, in lower case with their dot."""
    return set(_READ_ONLY_SUFFIXES).union(*(spec.suffixes for spec in FORMATS.values()))


def check_side(image: Image, kind: str) -> None:
    """Raise ImageError if an image is too large for the format."""
    limit = FORMATS[kind].max_side
    if (side := max(image.pixels.shape[:2])) > limit:
        raise ImageError(
            f"{side} pixels a side, over {kind}'s limit of {limit}", "Write PNG or TIFF."
        )


def fit(image: Image, kind: str) -> Image:
    """Return a copy of the image that fits the format, with its losses and notes only.

    Raises:
        ImageError: the image is too large for the format.
    """
    check_side(image, kind)
    spec, losses, notes = FORMATS[kind], list[str](), list[str]()
    image = replace(image, losses=losses, notes=notes)
    if image.alpha is not None and image.premultiplied and kind != "tiff":
        opacity = np.maximum(to_float(image.alpha), np.float32(1e-6))[..., None]
        image.pixels = from_float(to_float(image.pixels) / opacity, image.pixels.dtype)
        notes.append("premultiplied colour was divided by alpha")
    image.premultiplied = image.premultiplied and kind == "tiff"
    if image.alpha is not None and not spec.alpha:
        image.alpha = None
        losses.append(f"{kind} has no alpha: it is left out")
    if (dtype := image.pixels.dtype).name not in spec.depths:
        if dtype == np.float32 and (image.pixels.min() < 0 or image.pixels.max() > 1):
            losses.append("values outside 0..1 are clipped")
        depth = np.dtype(spec.depths[-1])
        losses.append(f"{kind} holds no {dtype} samples: rounded to {depth}")
        image.pixels = from_float(to_float(image.pixels), depth)
        image.alpha = None if image.alpha is None else from_float(to_float(image.alpha), depth)
    elif dtype == np.uint16 and (image.bits or 16) > spec.bits:
        losses.append(f"{kind} holds {spec.bits} bits: rounded")
    chunks = dict(image.extras)
    fit_metadata(image, kind)
    if kind != image.format:
        unusual = any(chunks.get(name, srgb) != srgb for name, srgb in _SRGB_CHUNKS.items())
        if unusual and image.icc is None and image.cicp is None:
            losses.append(f"{kind} cannot hold PNG's gamma or primaries: colours will look wrong")
    if (cicp := image.cicp) is not None and not spec.cicp:
        image.cicp = None
        if image.icc is None and not (cicp[0] in _LIKE_SRGB[0] and cicp[1] in _LIKE_SRGB[1]):
            losses.append(
                f"{kind} as written here cannot hold the colour space (CICP {cicp[0]}/{cicp[1]}): "
                "colours will look wrong. PNG can hold it"
            )
    if image.pixels.shape[2] == 1 and not spec.grey:
        image.widen_grey(f"{kind} has no grey")
    return image
