"""Decoders and encoders of the file formats, which `imaging.coding` selects.

A decoder takes the bytes of a file and the pixel limit, and returns an `ImageSequence`. An encoder
takes the images, their count and the quality, and returns the bytes of a file. It encodes each
image before it requests the next, and adds what the file lacks to `Image.losses`.
"""

import struct
import zlib

import cv2

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


def decode_text(body: bytes) -> str:
    """Decode a comment, whose encoding is not specified."""
    body = body.rstrip(b"\0")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("latin-1")
