"""Faults of an AVIF or HEIF: boxes that do not fit the file, and coded data that was never written.

Their coded data has no redundancy that the libraries check: a changed byte gives other pixels.
"""

from __future__ import annotations

import re
import struct

from .fault import CUT

SIGNATURE = re.compile(rb"....ftyp(?:avi[fs]|he(?:i[cxms]|v[cxms])|mif1|msf1)", re.DOTALL)
# Boxes at the top level (ISO/IEC 14496-12, table 1).
_BOXES = frozenset(
    [b"ftyp", b"styp", b"meta", b"mdat", b"moov", b"free", b"skip", b"uuid", b"idat"]
)
_LONGEST_ZEROS = 512  # bytes in coded pixels; a run of this length was not written by an encoder


def find_fault(data: bytes) -> str | None:
    """Return the cause of a fault, or None."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if kind not in _BOXES:
            return None  # data after the end
        header = 8
        if size == 1 and position + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, position + 8)
            header = 16
        end = position + size if size else len(data)
        if end > len(data):
            return CUT
        if end < position + header:
            return None
        if kind == b"mdat" and bytes(_LONGEST_ZEROS) in data[position + header : end]:
            return "a part of its coded data is empty"
        position = end
    return None
