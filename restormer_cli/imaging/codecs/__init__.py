"""The file formats: each module decodes one of them or several, and most encode them too.

A decoder takes the bytes of a file and the pixel limit, and returns an `ImageSequence`. An encoder
takes the images, their count and the quality, and returns the bytes of a file. It encodes each
image before it asks for the next, and adds to `Image.notes` what the format cannot hold.
`imaging.io` selects them by signature and by format.
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
    MemoryError,
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
"""Exceptions that the libraries and our parsers raise on damaged data."""


def import_extra(module: str, extra: str, subject: str) -> Any:
    """Import a package of an optional extra, or raise ImageError: `subject` needs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImageError(
            f"{subject} need a package that is not installed",
            f"pip install 'restormer-cli[{extra}]'",
        ) from error
