"""The capabilities of each file format, and the conversion of an image to fit them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
from PIL import features

from ..errors import ImageError
from .codecs import heif, raw
from .image import UNIT, Image, from_float, opacity, to_float
from .metadata import fit_metadata


@dataclass(frozen=True)
class FormatSpec:
    """Capabilities of a file format that can be written."""

    suffixes: tuple[str, ...]  # in lower case, the usual one first
    max_side: int  # in pixels
    depths: tuple[str, ...] = ("uint8",)  # the deepest last
    alpha: bool = True
    bands: bool = False  # of unknown meaning
    grey: bool = True
    grey_alpha: bool = True  # grey together with alpha
    bits: int = 16  # of an integer sample
    cicp: bool = False
    lossy: bool = False  # True if a quality can be chosen
    linear: bool = False  # True if it holds linear camera colours only
    several: str = ""  # "page" or "frame" if it holds several images


LINEAR_ONLY = "only camera raw files can become DNG"
_DEEP = ("uint8", "uint16")
FORMATS = {
    "png": FormatSpec((".png", ".apng"), 2**31 - 1, _DEEP, cicp=True, several="frame"),
    "jpeg": FormatSpec((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), 65500, alpha=False, lossy=True),
    "tiff": FormatSpec((".tif", ".tiff"), 2**31, (*_DEEP, "float32"), bands=True, several="page"),
    "webp": FormatSpec((".webp",), 16383, grey=False, lossy=True, several="frame"),
    "dng": FormatSpec((".dng",), 2**31, ("uint16",), alpha=False, grey=False, linear=True),
    "bmp": FormatSpec((".bmp", ".dib"), 2**31 - 1, grey_alpha=False),
}
if features.check("avif"):
    FORMATS["avif"] = FormatSpec((".avif",), 65536, grey_alpha=False, lossy=True, several="frame")
if find_spec(heif.PACKAGE):
    FORMATS["heif"] = FormatSpec(
        heif.SUFFIXES, 16384, _DEEP, grey_alpha=False, bits=10, cicp=True, lossy=True
    )
# Formats that cannot be written or need a package that may be missing. Their files are found all
# the same: outputs become PNG, and errors name the package.
_READ_ONLY_SUFFIXES = raw.SUFFIXES.union(
    heif.SUFFIXES,
    (".avif", ".gif", ".j2k", ".jp2", ".jpx"),
    (".pam", ".pbm", ".pfm", ".pgm", ".pnm", ".ppm", ".qoi", ".tga"),
)
_FLOAT_FORMATS = ("pfm", "fits", "fit", "fts")  # and suffixes
_LIKE_SRGB = ({1, 2}, {1, 2, 6, 13})  # CICP primaries and transfers that readers assume anyway
# Chunks for older readers in PNGs of sRGB (PNG, third edition, 11.3.2.5).
_SRGB_CHUNKS = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}


def readable_suffixes() -> set[str]:
    """Return the suffixes of images in folders, in lower case with their dot."""
    return set(_READ_ONLY_SUFFIXES).union(*(spec.suffixes for spec in FORMATS.values()))


def excludes_linear(suffix: str) -> bool:
    """Return True if files with this suffix cannot become linear: they are no camera raw files."""
    return suffix in readable_suffixes().difference(raw.SUFFIXES, FORMATS["tiff"].suffixes)


def check_side(image: Image, kind: str) -> None:
    """Raise ImageError if an image is too large for the format, or the format is for raw files."""
    if FORMATS[kind].linear and image.raw is None:
        raise ImageError(LINEAR_ONLY, "Write TIFF or PNG.")
    limit = FORMATS[kind].max_side
    if (side := max(image.pixels.shape[:2])) > limit:
        raise ImageError(
            f"{side} pixels a side, over {kind}'s limit of {limit}", "Write PNG or TIFF."
        )


def replacement(kind: str) -> str:
    """Return the format that replaces one that cannot be written, given by its name or suffix."""
    return "tiff" if kind in _FLOAT_FORMATS else "png"


def fit(image: Image, kind: str) -> Image:
    """Return a copy of the image that fits the format, with its losses and notes only.

    Raises:
        ImageError: the image is too large for the format, or the format is for raw files.
    """
    check_side(image, kind)
    spec, losses, notes = FORMATS[kind], list[str](), list[str]()
    image = replace(image, losses=losses, notes=notes)
    if image.raw is not None and not spec.linear:
        image.pixels, image.raw = from_float(image.raw.developed(image.pixels), np.uint16), None
    if image.alpha is not None and image.premultiplied and kind != "tiff":
        visible = np.maximum(opacity(image.alpha, image.scale), np.float32(1e-6))[..., None]
        image.pixels = from_float(to_float(image.pixels) / visible, image.pixels.dtype)
        notes.append("premultiplied colour was divided by alpha")
    image.premultiplied = image.premultiplied and kind == "tiff"
    if image.alpha is not None and not spec.alpha:
        image.alpha = None
        losses.append(f"{kind} has no alpha: it is left out")
    if image.bands is not None and not spec.bands:
        count = image.bands.shape[2]
        losses.append(f"{kind} has no further bands: {count} of unspecified meaning left out")
        image.bands = None
    if (dtype := image.pixels.dtype).name not in spec.depths:
        low, high = image.scale
        if dtype == np.float32 and (image.pixels.min() < low or image.pixels.max() > high):
            losses.append(f"values outside {low:g}..{high:g} are clipped")
        depth = np.dtype(spec.depths[-1])
        losses.append(f"{kind} holds no {dtype} samples: rounded to {depth}")
        if image.scale != UNIT:
            losses.append(f"{low:g}..{high:g} becomes 0..{np.iinfo(depth).max}")
        image.pixels = from_float(to_float(image.pixels, image.scale), depth)
        if image.alpha is not None:
            image.alpha = from_float(opacity(image.alpha, image.scale), depth)
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
    if image.pixels.shape[2] == 1:
        if not spec.grey:
            image.widen_grey(f"{kind} has no grey")
        elif image.alpha is not None and not spec.grey_alpha:
            image.widen_grey(f"{kind} has no grey with alpha")
    return image
