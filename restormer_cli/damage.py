"""What decoders and encoders raise, and what they keep for the whole process."""

from __future__ import annotations

import threading
import zlib

import cv2
import PIL.Image

from . import exif

DAMAGE = (
    *exif.DAMAGE,
    ArithmeticError,
    AssertionError,  # Pillow's
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    Warning,
    cv2.error,
    zlib.error,
)
"""What they raise on bytes that are not what they say; `python -W error` adds Warning."""


class _OwnChecks:
    """Lifts Pillow's limit, of 89 megapixels, and silences OpenCV: our checks come before theirs.

    Both settings are the process's. The first thread to enter changes them and the last to leave
    puts them back, so that nobody waits for anybody's decoding.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
                self._level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                PIL.Image.MAX_IMAGE_PIXELS = self._limit
                cv2.utils.logging.setLogLevel(self._level)


OWN_CHECKS = _OwnChecks()


def cause(error: BaseException) -> str:
    """What an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0]
