"""Faults of a JPEG: its markers are checked here, and its entropy-coded data by libjpeg.

Section numbers are those of ITU-T T.81 (1992).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from .fault import CORRUPT, CUT, Fault, sound_length
from .messages import library_messages

if TYPE_CHECKING:
    from ..image import Array

# A marker may follow fill bytes; 0xFF00 is a data byte (B.1.1.2).
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_END_OF_DATA = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
_RESTART = re.compile(rb"\xff+([\xd0-\xd7])", re.DOTALL)
_EOI, _SOS, _DRI, _DNL = 0xD9, 0xDA, 0xDD, 0xDC
FRAMES = frozenset([*range(0xC0, 0xD0)]) - {0xC4, 0xC8, 0xCC}  # SOF markers (B.1.1.3)
_PROGRESSIVE = frozenset([0xC2, 0xCA])
# Markers that may follow entropy-coded data: tables, comments, another scan, the end (B.2.4).
_AFTER_DATA = frozenset([0xC4, 0xCC, _EOI, _SOS, 0xDB, _DNL, _DRI, *range(0xE0, 0xF0), 0xFE])
# libjpeg's warnings about damage, and their causes. Others are about odd, but readable files.
_WARNINGS = (
    ("Corrupt JPEG data", CORRUPT),
    ("Premature end of JPEG file", CUT),
    ("Inconsistent progression", CORRUPT),
)
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_CUT_SCAN = "the header of a scan is cut off"
_MAX_PADDING = 16  # bytes after the data of a scan, by some cameras
# Pillow's mode -> flag to decode the same pixels with OpenCV, which shows libjpeg's warnings.
_FLAGS = {"L": cv2.IMREAD_GRAYSCALE, "RGB": cv2.IMREAD_COLOR_RGB}


class Loaded(NamedTuple):
    """Result of `load`."""

    pixels: Array | None  # H W or H W C
    fault: Fault | None
    end: int  # offset after the picture; any bytes may follow


def load(data: bytes, mode: str = "") -> Loaded:
    """Return the first fault of a JPEG or, if there is none, its pixels.

    A changed bit is not always a fault: after a few symbols, a decoder of Huffman codes often finds
    its place again without noticing.

    Args:
        data: the file.
        mode: Pillow's; modes except "L" and "RGB" are only checked.
    """
    fault, end = _check_markers(data)
    if fault is not None:
        return Loaded(None, fault, end)
    # At any scale, the coded data is read completely.
    flag = _FLAGS.get(mode, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    with library_messages() as lines:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8, end), flag)
        except cv2.error:  # a size or kind that OpenCV does not support
            return Loaded(None, None, end)
    for line in lines():
        for start, cause in _WARNINGS:
            if line.startswith(start) and not _is_padding(line, data[:end]):
                return Loaded(None, Fault(cause), end)
    return Loaded(pixels if mode in _FLAGS else None, None, end)


def _check_markers(data: bytes) -> tuple[Fault | None, int]:
    """Return the first fault of the markers, and the offset of the image's end.

    Raises:
        ValueError: the header of the first scan is cut off.
    """
    position, interval, scans, frame, components = 2, 0, 0, 0, b""
    accuracy: dict[tuple[int, int], int] = {}  # lowest bits of coefficients that are decoded
    while match := _MARKER.search(data, position):
        code, position = match[1][0], match.end()
        if code == _EOI:
            if not scans:
                return Fault("it has no pixels"), position
            if frame in _PROGRESSIVE and _is_incomplete(accuracy, components):
                return Fault("its last scans are missing", match.start()), position
            return None, position
        if code == 1 or 0xD0 <= code <= 0xD8:  # without a length (B.1.1.3)
            continue
        if position + 2 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position)
        body = data[position + 2 : position + length]
        position += length
        if code in FRAMES:
            frame, components = code, body[6::3]
        elif code == _DRI:
            (interval,) = struct.unpack_from(">H", body)
        elif code == _SOS:
            if len(body) < 4 + 2 * (body[0] if body else 1):
                if not scans:  # nothing can be decoded
                    raise ValueError(_CUT_SCAN)
                return Fault(_CUT_SCAN, match.start()), position
            scans += 1
            _note_accuracy(accuracy, body)
            stop = _END_OF_DATA.search(data, position)
            if stop is None:
                break
            if stop[0][-1] not in _AFTER_DATA:
                return Fault("an invalid marker is in its coded data", stop.start()), stop.end()
            for number, restart in enumerate(_RESTART.finditer(data, position, stop.start())):
                if not interval or restart[1][0] != 0xD0 + number % 8:
                    cause = "a restart marker is missing or out of order"
                    return Fault(cause, restart.start()), stop.end()
            position = stop.start()
    return Fault(CUT, sound_length(data)), len(data)


def _note_accuracy(accuracy: dict[tuple[int, int], int], scan: bytes) -> None:
    """Record which bits of which coefficients a progressive scan holds (B.2.3, G.1.1.1)."""
    count = scan[0]
    first, last, bits = scan[1 + 2 * count : 4 + 2 * count]
    for component in scan[1 : 1 + 2 * count : 2]:
        for coefficient in range(first, min(last, 63) + 1):
            accuracy[component, coefficient] = bits & 15


def _is_incomplete(accuracy: dict[tuple[int, int], int], components: bytes) -> bool:
    return any(accuracy.get((each, n), 1) for each in components for n in range(64))


def _is_padding(line: str, data: bytes) -> bool:
    """Return True if libjpeg warns only about padding before the end marker."""
    match = _EXTRANEOUS.search(line)
    count = int(match[1]) if match else 0
    return 0 < count <= _MAX_PADDING and len(set(data[:-2][-count:])) == 1
