"""HEIF, which is what phones take (HEIC): read and written by libheif, an optional package."""

from __future__ import annotations

import io
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from ...errors import ImageError
from ..image import UNDECODED, Image, ImageSequence, check_size, rescaled
from . import exif

# The brand of a file whose pictures are compressed so that libheif's usual decoder has them, or
# that leaves this to be seen (ISO/IEC 23008-12, 10 and B.4).
SIGNATURE = rb"....ftyp(?:he(?:i[cxms]|v[cxms])|mif[12]|msf1)"
_NCLX_FIELDS = (
    *("color_primaries", "transfer_characteristics"),
    *("matrix_coefficients", "full_range_flag"),
)
_MATRICES = {9: 9}  # primaries -> matrix, of BT.2020 both; all else is coded as BT.709 is
_RGB_MATRIX = 0  # colour stored as it is: what coding without loss needs
_DEEP = 10  # bits that an image of more than 8 is written with; few readers take 12
# Samples of a pixel -> what libheif calls them.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def writable() -> bool:
    """Whether the package is there; what it needs to write comes with it."""
    return find_spec("pillow_heif") is not None


def _library() -> Any:
    try:
        return import_module("pillow_heif")
    except ImportError as error:
        raise ImageError(
            "HEIF images need a package that is not installed",
            "pip install 'restormer-cli[heif]'",
        ) from error


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode the main picture to 8 or 16 bits; libheif has turned it upright."""
    file = _library().open_heif(data, convert_hdr_to_8bit=False)
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
    )
    if image.exif is not None:
        # The file's own rotation is what counts, and EXIF's a copy of it (ISO/IEC 23008-12, A.2.1).
        image.exif = image.exif.removeprefix(b"Exif\0\0")
        with suppress(*exif.DAMAGE):
            _, image.exif = exif.take_orientation(image.exif)
            image.dpi = exif.parse(image.exif).dpi()
    if "nclx_profile" in info and image.icc is None:
        primaries, transfer, matrix, full = (info["nclx_profile"][name] for name in _NCLX_FIELDS)
        image.cicp = (primaries, transfer, matrix, full)
    besides = []
    if (others := len(file) - 1) > 0:
        besides.append(f"{others} more pictures")
    if info["aux"] or info["depth_images"]:
        besides.append("gain or depth maps, which fit the picture as it was")
    samples = np.asarray(picture)
    if (bits := info["bit_depth"]) > 8:  # which are the upper ones of 16
        samples = rescaled(samples >> (16 - bits), (1 << bits) - 1, 65535)
    image.premultiplied = picture.premultiplied_alpha
    image.put(samples.reshape(*samples.shape[:2], -1), 1 if picture.mode[0] in "LI" else 3)
    return ImageSequence.one(image, *besides)


def encode(image: Image, quality: int, notes: list[str]) -> bytes:
    """Encode 8 bits, or 10 of 16, its colour at full resolution; without loss at quality 100."""
    library = _library()
    samples = image.samples()
    if samples.shape[2] == 2:
        samples = np.ascontiguousarray(samples[..., [0, 0, 0, 1]])
        notes.append("heif has no grey with alpha: written as RGB")
    mode = _MODES[samples.shape[2]]
    if samples.dtype == np.uint16:
        mode += ";16"
        samples = rescaled(samples, 65535, (1 << _DEEP) - 1) << (16 - _DEEP)  # likewise
        if image.format != "heif":
            notes.append(f"heif holds {_DEEP} bits: rounded")
    height, width = samples.shape[:2]
    file = library.from_bytes(mode, (width, height), samples.tobytes())
    options = dict(zip(_NCLX_FIELDS, image.cicp, strict=True)) if image.cicp else {}
    if image.cicp and image.format != "heif":  # of which these were another coding's
        options["matrix_coefficients"] = _MATRICES.get(image.cicp[0], 1)
        options["full_range_flag"] = 1
    if quality == 100:
        options["matrix_coefficients"] = _RGB_MATRIX if samples.shape[2] > 2 else 1
        options["full_range_flag"] = 1
    buffer = io.BytesIO()
    pieces = {"exif": image.exif, "icc_profile": image.icc, "xmp": image.xmp}
    pieces = {name: piece for name, piece in pieces.items() if piece is not None}
    file.save(buffer, quality=-1 if quality == 100 else quality, chroma=444, **options, **pieces)
    return buffer.getvalue()
