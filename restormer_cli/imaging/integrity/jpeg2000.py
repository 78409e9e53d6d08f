"""Faults of a JPEG 2000: markers in its coded data, which cannot be there, and parts without data.

Section numbers are those of ISO/IEC 15444-1 (2019).
"""

from __future__ import annotations

import re
import struct

from .fault import CORRUPT, CUT
from .isobmff import boxes

FILE, _STREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
SIGNATURE = re.compile(re.escape(FILE) + b"|" + re.escape(_STREAM))
_CODESTREAM = b"jp2c"  # box (I.5.4)
_SOT, _SOD, _EOC = 0xFF90, 0xFF93, 0xFFD9  # markers of a tile-part and of the end (A.4)
# Coded data has no codes above 0xFF8F but the markers of packets, SOP and EPH (A.1, A.8).
_MARKER = re.compile(rb"\xff(?:[\x90\x93-\xff]|\x91(?!\0\x04))", re.DOTALL)
_LONGEST_ZEROS = 512  # bytes; each empty packet is one, so that blank pictures have many


def find_fault(data: bytes) -> str | None:
    """Return the cause of a fault, or None; bytes after the end may be anything."""
    position: int | None = 2  # after the start of the codestream
    if not data.startswith(_STREAM):
        position = next((box.start + 2 for box in boxes(data) if box.kind == _CODESTREAM), None)
    try:
        while position is not None:
            marker, size = struct.unpack_from(">HH", data, position)
            if marker == _EOC:
                return None
            if marker != _SOT:
                if marker < 0xFF00:
                    return CORRUPT
                position += 2 + size
                continue
            (length,) = struct.unpack_from(">I", data, position + 6)  # 0: up to the end
            end = position + length if length else max(data.rfind(b"\xff\xd9"), position)
            body = data[position + 12 : end]
            if end > len(data):
                return CUT
            if cause := _find_in(body):
                return cause
            position = end if end > position else None
    except struct.error:  # without its end marker
        return None if position == len(data) else CUT
    return None


def _find_in(part: bytes) -> str | None:
    """Return the fault of a tile-part, given without its first marker segment."""
    position = 0
    while (marker := struct.unpack_from(">H", part, position)[0]) != _SOD:
        position += 2 + int(struct.unpack_from(">H", part, position + 2)[0])
        if marker < 0xFF00:
            return CORRUPT
    coded = part[position + 2 :]
    if _MARKER.search(coded):
        return CORRUPT
    longest = max(_LONGEST_ZEROS, len(coded) // 2 + 1)
    zeros = coded.find(bytes(_LONGEST_ZEROS))
    if zeros < 0 or bytes(longest) in coded:
        return None
    return "a part of its coded data is empty"
