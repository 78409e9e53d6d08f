"""GIF: whether it is whole, and where its frames lie, which Pillow finds out too late.

Sections are those of the GIF89a specification (CompuServe, 1990).
"""

from __future__ import annotations

import struct

_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B  # what a block begins with (20, 23, 27)


def check(data: bytes, width: int, height: int) -> None:
    """Refuse a file that ends too early, or draws outside the picture, which has this size.

    Raises:
        ValueError, struct.error: it does so.
    """
    at = 13 + _table(data[10])
    while (kind := _byte(data, at)) != _TRAILER:
        at += 1
        if kind == _IMAGE:
            left, top, across, down, flags = struct.unpack_from("<4HB", data, at)
            if left + across > width or top + down > height:
                raise ValueError("a frame lies outside the picture")
            at += 10 + _table(flags)  # and the first code size
        elif kind == _EXTENSION:
            at += 1  # its label
        else:  # no block: the next one is looked for, as Pillow does
            continue
        while size := _byte(data, at):  # sub-blocks, the last of which is empty (15)
            at += 1 + size
        at += 1


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise ValueError("its end is missing")
    return data[at]


def _table(flags: int) -> int:
    """The size of the colour table that flags announce (18, 20)."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
