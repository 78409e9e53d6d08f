"""Faults of a GIF: incomplete blocks, and frames whose coded data does not give all pixels.

The extensions that hold metadata are collected on the way.

Section numbers are those of GIF89a (CompuServe, 1990).
"""

from __future__ import annotations

import struct
from typing import NamedTuple, NoReturn

from .fault import CORRUPT, CUT, Damage

_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B  # block labels (20, 23, 27)
_COMMENT, _APPLICATION = 0xFE, 0xFF  # extension labels (24, 26)
_APPLICATION_FIELDS = {b"ICCRGBG1012": "icc", b"XMP DataXMP": "xmp"}
# After an XMP packet, which is not in sub-blocks, this makes it seem so (XMP, part 3, 1.1.2).
_XMP_TRAILER = bytes([1, *range(255, -1, -1), 0])
_MAX_BITS = 12  # of a code (appendix F)


class Checked(NamedTuple):
    """Result of the check of a GIF."""

    data: bytes  # a complete file
    damage: dict[int, Damage | None]  # of frames, by number
    comments: list[bytes]
    fields: dict[str, bytes]  # "icc" and "xmp", where they are


def check(data: bytes, width: int, height: int) -> Checked:
    """Return a complete file, the damage of frames, and the metadata.

    A frame is drawn over those before it, so that damage extends to all frames after it.

    Raises:
        ValueError: a frame lies outside the picture.
    """
    damage: dict[int, Damage | None] = {}
    comments = []
    fields: dict[str, bytes] = {}
    found: Damage | None = None
    frames = 0
    position = 13 + _table_size(data[10])
    try:
        while (kind := data[position]) != _TRAILER:
            position += 1
            if kind == _IMAGE:
                left, top, across, down, flags = struct.unpack_from("<4HB", data, position)
                if left + across > width or top + down > height:
                    _refuse("a frame lies outside the picture")
                position += 9 + _table_size(flags)
                least, area = data[position], across * down
                coded, position, complete = _blocks(data, position + 1)
                count = _count_pixels(coded, least, area)
                if not complete:
                    data += _filler(data, position, area)
                if count != area and found is None:
                    found = Damage(CORRUPT if complete else CUT, 1 - max(count, 0) / area)
                damage[frames] = found
                frames += 1
            elif kind == _EXTENSION:
                label, start = data[position], position + 1
                content, position, complete = _blocks(data, start)
                if not complete:
                    raise IndexError  # noqa: TRY301
                if label == _COMMENT and content:
                    comments.append(content)
                elif label == _APPLICATION and (name := _APPLICATION_FIELDS.get(content[:11])):
                    is_xmp = name == "xmp" and data[:position].endswith(_XMP_TRAILER)
                    packet = data[start + 12 : position - len(_XMP_TRAILER)]
                    fields[name] = packet if is_xmp else content[11:]
            # Like Pillow, skip bytes outside blocks.
    except (IndexError, struct.error):
        if not frames:
            raise ValueError(CUT) from None
        damage[frames - 1] = found or Damage(CUT)
    return Checked(data, damage, comments, fields)


def _refuse(cause: str) -> NoReturn:
    raise ValueError(cause)


def _table_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0  # bytes of a colour table (18, 20)


def _blocks(data: bytes, position: int) -> tuple[bytes, int, bool]:
    """Return the content of sub-blocks up to an empty one (15), its end, and if they are whole."""
    pieces = []
    while position < len(data) and (size := data[position]):
        pieces.append(data[position + 1 : position + 1 + size])
        position += 1 + size
    return b"".join(pieces), position + 1, position < len(data)


def _filler(data: bytes, position: int, area: int) -> bytes:
    """Return the rest of a file that ends within a frame: zeros are codes of the first colour."""
    rest = position - 1 - len(data)  # of the sub-block
    blocks = -(-area * _MAX_BITS // (8 * 255)) + 1
    return bytes(max(0, rest)) + (b"\xff" + bytes(255)) * blocks + bytes([0, _TRAILER])


def _count_pixels(coded: bytes, least: int, area: int) -> int:
    """Count the pixels that LZW codes give (appendix F); return -1 for an invalid code."""
    clear = 1 << least
    first = clear + 2
    lengths = [1] * first
    bits, buffer, available, count, previous = least + 1, 0, 0, 0, 0
    for byte in coded:
        buffer |= byte << available
        available += 8
        while available >= bits:
            code = buffer & ((1 << bits) - 1)
            buffer >>= bits
            available -= bits
            if code == clear:
                del lengths[first:]
                bits, previous = least + 1, 0
                continue
            if code == clear + 1:
                return count
            if previous and len(lengths) < 1 << _MAX_BITS:
                lengths.append(previous + 1)
                if len(lengths) == 1 << bits and bits < _MAX_BITS:
                    bits += 1
            if code >= len(lengths):
                return -1
            previous = lengths[code]
            count += previous
    return min(count, area)
