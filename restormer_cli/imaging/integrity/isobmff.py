"""Faults of an AVIF or HEIF: boxes that do not fit the file, and coded data that was never written.

Their coded data has no redundancy that the libraries check: a changed byte gives other pixels.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from .fault import CUT

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE = re.compile(rb"....ftyp(?:avi[fs]|he(?:i[cxms]|v[cxms])|mif1|msf1)", re.DOTALL)
# Boxes at the top level (ISO/IEC 14496-12, table 1).
_BOXES = frozenset(
    [b"ftyp", b"styp", b"meta", b"mdat", b"moov", b"free", b"skip", b"uuid", b"idat"]
)
_LONGEST_ZEROS = 512  # bytes in coded pixels; a run of this length was not written by an encoder


class Box(NamedTuple):
    """A box at the top level of a file."""

    kind: bytes
    start: int  # offset of its body
    end: int  # as declared, which may be beyond the end of the file or, in the last one, too small


def boxes(data: bytes) -> Iterator[Box]:
    """Yield the boxes of a file (ISO/IEC 14496-12, 4.2), up to one that is shorter than its header.

    JPEG 2000 has the same (ISO/IEC 15444-1, I.4).
    """
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1 and position + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = position + size if size else len(data)
        yield Box(kind, start, end)
        if end < start:
            break
        position = end


def find_fault(data: bytes) -> str | None:
    """Return the cause of a fault, or None."""
    for kind, start, end in boxes(data):
        if kind not in _BOXES:
            break  # data after the end
        if end > len(data):
            return CUT
        if kind == b"mdat" and bytes(_LONGEST_ZEROS) in data[start:end]:
            return "a part of its coded data is empty"
    return None
