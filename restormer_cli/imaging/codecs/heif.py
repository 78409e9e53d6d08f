"""HEIF, such as the HEIC of phone cameras, with libheif from an optional package."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ImageError
from ...extras import require
from ...text import counted
from ..image import UNDECODED, Image, ImageSequence, check_size, rescale
from ..integrity import isobmff
from ..integrity.fault import CUT, Damage
from . import OTHER_MAPS

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGE = "pillow_heif"
SUFFIXES = (".heic", ".heif", ".hif")
# The HEVC brands and the generic brands (ISO/IEC 23008-12, 10 and B.4).
SIGNATURE = rb"....ftyp(?:he(?:i[cxms]|v[cxms])|mif[12]|msf1)"
_NCLX = ("color_primaries", "transfer_characteristics", "matrix_coefficients", "full_range_flag")
_BT709, _BT2020 = 1, 9  # primaries, and their matrices
_RGB_MATRIX = 0  # no colour transform, for lossless coding
_DEEP_BITS = 10  # for images of more than 8 bits, since few readers support 12
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # samples of a pixel -> libheif's mode


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode the primary image to 8 or 16 bits; libheif turns it upright."""
    library = require(PACKAGE, "heif", "HEIF", ImageError)
    if (cause := isobmff.find_fault(data)) == CUT:
        raise ValueError(cause)
    file = library.open_heif(data, convert_hdr_to_8bit=False)
    picture = file[file.primary_index]
    width, height = picture.size
    check_size(width, height, max_pixels)
    info = picture.info
    image = Image(
        UNDECODED,
        format="heif",
        icc=info.get("icc_profile") or None,
        exif=info["exif"] or None,
        xmp=info.get("xmp") or None,
        damage=Damage(cause) if cause else None,
    )
    if "nclx_profile" in info and image.icc is None:
        primaries, transfer, matrix, full = (info["nclx_profile"][name] for name in _NCLX)
        image.cicp = (primaries, transfer, matrix, full)
    omitted = []
    if len(file) > 1:
        omitted.append(counted(len(file) - 1, "more picture"))
    if info["aux"] or info["depth_images"]:
        omitted.append(OTHER_MAPS)
    samples = np.asarray(picture)
    if (bits := info["bit_depth"]) > 8:  # stored in the upper bits of 16
        image.bits = bits
        samples = rescale(samples >> (16 - bits), (1 << bits) - 1, 65535)
    colours = 1 if picture.mode[0] in "LI" else 3
    extra_samples = (1 if picture.premultiplied_alpha else 2,)  # as in a TIFF
    image.set_samples(samples.reshape(*samples.shape[:2], -1), colours, extra_samples)
    return ImageSequence.single(image, *omitted)


def encode(images: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode one image with 8 bits, or 10 for 16, in 4:4:4; lossless at quality 100."""
    library = require(PACKAGE, "heif", "HEIF", ImageError)
    (image,) = images
    samples = image.samples()
    mode = _MODES[samples.shape[2]]
    if samples.dtype == np.uint16:
        mode += ";16"
        samples = rescale(samples, 65535, (1 << _DEEP_BITS) - 1) << (16 - _DEEP_BITS)
    height, width = samples.shape[:2]
    file = library.from_bytes(mode, (width, height), samples.tobytes())
    options = dict(zip(_NCLX, image.cicp, strict=True)) if image.cicp else {}
    if image.cicp and image.format != "heif":  # matrix and range describe the source's coding
        options["matrix_coefficients"] = _BT2020 if image.cicp[0] == _BT2020 else _BT709
        options["full_range_flag"] = 1
    if quality == 100:
        options["matrix_coefficients"] = _RGB_MATRIX if samples.shape[2] > 2 else _BT709
        options["full_range_flag"] = 1
    pieces = {"exif": image.exif, "icc_profile": image.icc, "xmp": image.xmp}
    pieces = {name: piece for name, piece in pieces.items() if piece is not None}
    buffer = io.BytesIO()
    file.save(buffer, quality=-1 if quality == 100 else quality, chroma=444, **options, **pieces)
    return buffer.getvalue()
