"""Uncompressed YCbCr of a TIFF, with chroma of full or less resolution (TIFF 6.0, section 21)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from ....errors import ImageError
from ..blocks.tags import HEIGHT, PLANAR, ROWS, STRIP_OFFSETS, SUBSAMPLING, WIDTH

if TYPE_CHECKING:
    from ..blocks.exif import Directory

_DEFAULT = (2, 2)  # subsampling


def decode(data: bytes, page: Directory) -> PIL.Image.Image:
    """Decode strips to a picture of the mode YCbCr; missing bytes become zeros.

    Raises:
        ImageError: it has tiles or planes.
    """
    width, height = page.integer(WIDTH), page.integer(HEIGHT)
    wide, high = page.integers(SUBSAMPLING, *_DEFAULT)[:2]
    if STRIP_OFFSETS not in page.tags or page.integer(PLANAR, 1) != 1 or not wide * high:
        raise ImageError(
            "YCbCr TIFF in tiles or planes, without compression: not supported",
            "Convert it to RGB: tiff2rgba in.tif out.tif",
        )
    columns = -(-width // wide)
    strip_rows = min(page.integer(ROWS, height), height)
    bands = []
    for number, start in enumerate(page.integers(STRIP_OFFSETS)):
        rows = -(-min(strip_rows, height - number * strip_rows) // high)
        size = rows * columns * (wide * high + 2)
        strip = np.frombuffer(data[start : start + size].ljust(size, b"\0"), np.uint8)
        units = strip.reshape(rows, columns, -1)  # of luma samples, Cb and Cr
        luma = units[..., :-2].reshape(rows, columns, high, wide).swapaxes(1, 2)
        chroma = units[..., -2:].repeat(high, axis=0).repeat(wide, axis=1)
        band = np.dstack([luma.reshape(rows * high, columns * wide), chroma])
        bands.append(band[:strip_rows, :width])
    pixels = np.concatenate(bands)[:height]
    return PIL.Image.fromarray(np.ascontiguousarray(pixels), "YCbCr")
