"""Sizes of images from the headers of their files, which are read without decoding, for estimates.

The decoders check the sizes themselves: a header may be wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import PIL.Image

from ...errors import ImageError
from ...extras import require
from . import heif, raw

if TYPE_CHECKING:
    from pathlib import Path

_PAGED = ("GIF", "PNG", "TIFF", "WEBP")  # whose frames or pages are all restored


class Size(NamedTuple):
    """Height and width of the first page in pixels, and the number of pages or frames."""

    height: int
    width: int
    pages: int = 1


def read(path: Path) -> Size:
    """Return the size that a file states.

    Raises:
        ImageError: an optional package is missing.
        CODEC_ERRORS: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in raw.SUFFIXES:
        return Size(*raw.read_size(path))
    if suffix in heif.SUFFIXES:
        file = require(heif.PACKAGE, "heif", "HEIF", ImageError).open_heif(path)
        width, height = file[file.primary_index].size
        return Size(height, width)
    with PIL.Image.open(path) as picture:
        pages = getattr(picture, "n_frames", 1) if picture.format in _PAGED else 1
        return Size(picture.height, picture.width, pages)
