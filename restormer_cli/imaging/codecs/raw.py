"""A camera's raw files, developed by LibRaw, an optional package, to 16-bit sRGB."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from importlib import import_module
from typing import Any

from ...errors import ImageError
from ..image import Image, ImageSequence, check_size
from . import exif

SUFFIXES = frozenset[str]().union(
    (".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos"),
    (".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf"),
    (".srw", ".x3f"),
)
"""How the files of the usual cameras end."""

# First bytes of those that are no TIFF: Fujifilm, Olympus, Panasonic, Canon's CR2 and CR3, Sigma,
# Minolta. A TIFF may be one as well: see `is_raw`.
SIGNATURE = rb"FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|II\*\0....CR\x02|....ftypcrx |FOVb|\0MRM"
_TIFF = re.compile(rb"II\*\0|MM\0\*")
_DNG_VERSION = 50706
# What is said of the photograph; the rest is about the raw samples, or a preview.
_KEPT = frozenset([270, 271, 272, 305, 306, 315, 33432, 34665, 34853])
_XMP = 700
_SRGB_CURVE = (2.4, 12.92)  # as LibRaw takes it: IEC 61966-2-1's power, and its slope at black


def is_raw(data: bytes, suffix: str) -> bool:
    """Whether a TIFF is a camera's raw file: it says so itself (DNG), or its name does."""
    with suppress(*exif.DAMAGE):
        return suffix in SUFFIXES or _DNG_VERSION in exif.parse(data).tags
    return False


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Develop with the camera's white balance and exposure, upright.

    Brightness is not stretched to what the picture has, so that those of a series stay alike.
    """
    library = _library()
    try:
        with library.RawPy() as raw:
            raw.open_buffer(io.BytesIO(data))
            check_size(raw.sizes.width, raw.sizes.height, max_pixels)
            pixels = raw.postprocess(
                use_camera_wb=True,
                no_auto_bright=True,
                output_color=library.ColorSpace.sRGB,
                gamma=_SRGB_CURVE,
                output_bps=16,
            )
    except library.LibRawError as error:
        cause = error.args[0] if error.args else error
        raise ValueError(cause.decode() if isinstance(cause, bytes) else str(cause)) from error
    image = Image(pixels, format="raw")
    image.notes.append("a camera's raw file: developed to 16-bit sRGB")
    if _TIFF.match(data):
        with suppress(*exif.DAMAGE):
            said = exif.parse(data)
            kept = {tag: value for tag, value in said.tags.items() if tag in _KEPT}
            image.exif = exif.build(said.order, kept) if kept else None
            image.xmp = said.raw(_XMP)
    else:
        image.notes.append("its EXIF is left out")
    return ImageSequence.one(image)


def _library() -> Any:
    try:
        return import_module("rawpy")
    except ImportError as error:
        raise ImageError(
            "a camera's raw file, which takes a package that is not installed to develop",
            "pip install 'restormer-cli[raw]'",
        ) from error
