"""Decoders and encoders of the file formats, which `imaging.coding` selects.

A decoder takes the bytes of a file and the pixel limit, and returns an `ImageSequence`. An encoder
takes the images, their count and the quality, and returns the bytes of a file. It encodes each
image before it requests the next, and adds what the file lacks to `Image.losses`.
"""

import struct
import zlib
from importlib import import_module
from typing import Any

import cv2

from ...errors import ImageError

CODEC_ERRORS = (
    ArithmeticError,
    AssertionError,  # raised by Pillow
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,  # raised by Pillow
    TypeError,
    ValueError,
    Warning,  # with `python -W error`
    cv2.error,
    struct.error,
    zlib.error,
)
"""Exceptions of the libraries and our parsers for damaged data."""

INCH = 0.0254  # in metres, the unit of resolutions in PNG and BMP
OTHER_MAPS = "gain or depth maps, which fit the original picture only"
STALE_CREDENTIALS = "content credentials (C2PA) of the old pixels are left out"


def import_extra(module: str, extra: str, subject: str) -> Any:
    """Import a package of an optional extra, or raise an ImageError about `subject`."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImageError(
            f"{subject} need a package that is not installed",
            f"pip install 'restormer-cli[{extra}]'",
        ) from error


def decode_text(body: bytes) -> str:
    """Decode a comment, whose encoding is not specified."""
    body = body.rstrip(b"\0")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("latin-1")
