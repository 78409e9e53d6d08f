"""Camera raw files, developed to 16-bit sRGB with LibRaw from an optional package."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

from ..image import Array, Image, ImageSequence, check_size
from ..integrity.fault import describe
from ..integrity.messages import library_messages
from . import CODEC_ERRORS, import_extra
from .blocks import exif

# Suffixes of common cameras.
SUFFIXES = frozenset[str]().union(
    (".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos"),
    (".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf"),
    (".srw", ".x3f"),
)
# Fujifilm, Olympus, Panasonic, Canon (CR2, CR3), Sigma and Minolta; other cameras write TIFFs.
SIGNATURE = rb"FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|II\*\0....CR\x02|....ftypcrx |FOVb|\0MRM"
_DNG_VERSION = 50706
# Tags that describe the photograph, and not the raw samples or a preview.
_KEPT = frozenset([270, 271, 272, 305, 306, 315, 33432, 34665, 34853])
_XMP, _IPTC = 700, 33723
_SRGB_CURVE = (2.4, 12.92)  # power, and slope at black (IEC 61966-2-1)


def is_raw(data: bytes, suffix: str) -> bool:
    """Return True if a TIFF is a camera raw file, by its DNG version tag or its suffix."""
    with suppress(*CODEC_ERRORS):
        return suffix in SUFFIXES or _DNG_VERSION in exif.parse(data).tags
    return False


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Develop an upright image with the camera's white balance and exposure.

    Brightness is not adapted to the image, so that the images of a series stay comparable.
    """
    library = import_extra("rawpy", "raw", "camera raw files")
    with library_messages() as messages:
        pixels = _develop(library, data, max_pixels)
    cause = "LibRaw reports corrupt data" if messages() else None
    image = Image(pixels, format="raw", notes=["camera raw file: developed to 16-bit sRGB"])
    image.damage = cause and describe(cause, None)
    if data.startswith((b"II*\0", b"MM\0*")):
        with suppress(*CODEC_ERRORS):
            directory = exif.parse(data)
            kept = {tag: value for tag, value in directory.tags.items() if tag in _KEPT}
            image.exif = exif.build(directory.order, kept) if kept else None
            image.xmp, image.iptc = directory.raw(_XMP), directory.raw(_IPTC)
    else:
        image.losses.append("its EXIF is left out")
    return ImageSequence.single(image)


def _develop(library: Any, data: bytes, max_pixels: int) -> Array:
    try:
        with library.RawPy() as raw:
            raw.open_buffer(io.BytesIO(data))
            check_size(raw.sizes.width, raw.sizes.height, max_pixels)
            pixels: Array = raw.postprocess(
                use_camera_wb=True,
                no_auto_bright=True,
                output_color=library.ColorSpace.sRGB,
                gamma=_SRGB_CURVE,
                output_bps=16,
            )
    except library.LibRawError as error:
        cause = error.args[0] if error.args else error
        raise ValueError(cause.decode() if isinstance(cause, bytes) else str(cause)) from error
    return pixels
