"""Faults of a PNG: missing chunks, wrong checksums, and pixels that do not inflate.

Section numbers are those of the PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .fault import CORRUPT, CUT, Damage, inflate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Chunks: TypeAlias = list[tuple[bytes, bytes]]  # kinds and bodies

SIGNATURE = b"\x89PNG\r\n\x1a\n"  # 5.2
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (11.2, IHDR)
# Column and row of the first pixel, and steps, of the passes of interlacing (8.1).
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_LAST_FILTER = 4  # types of filters (9.2)


class Contents(NamedTuple):
    """Chunks of a file, checked by `split`."""

    chunks: Chunks  # up to IEND or the end of the file
    cause: str | None  # of the damage of critical chunks (5.4), which are kept
    damaged: list[bytes]  # kinds of the other damaged chunks, which are left out
    end: int  # offset after the last chunk


def split(data: bytes) -> Contents:
    """Split a PNG into its chunks (5.3), and check their checksums."""
    chunks: Chunks = []
    damaged: list[bytes] = []
    cause, position = None, len(SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        if position + 12 > len(data):
            return Contents(chunks, CUT, damaged, position)
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        stored = data[position + 8 + length : position + 12 + length]
        position += 12 + length
        critical = kind[:1].isupper()
        if position > len(data):
            cause = cause or CUT
            if not critical:
                continue
        elif zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(stored, "big"):
            if not critical:
                damaged.append(kind)
                continue
            cause = cause or CORRUPT
        chunks.append((kind, body))
    return Contents(chunks, cause, damaged, position)


def repair(chunks: Chunks, cause: str | None, *, corrupt: bool) -> tuple[Chunks, Damage | None]:
    """Return chunks with all pixels, of which zeros replace the missing, and the damage.

    Args:
        chunks: those of `split`.
        cause: that of `split`.
        corrupt: True if the pixels cannot be decoded, even if all chunks are sound.

    Raises:
        ValueError: the header or all pixels are missing.
    """
    kinds = [kind for kind, _ in chunks]
    if kinds[:1] != [b"IHDR"] or b"IDAT" not in kinds:
        raise ValueError(cause or "its header or its pixels are missing")
    header, first = chunks[0][1], kinds.index(b"IDAT")
    packed = [body for kind, body in chunks if kind == b"IDAT"]
    fields = struct.unpack(">IIBBBBB", header)
    if cause is None and not corrupt:
        return chunks, None
    size = sum(_rows(fields))
    raw = inflate(b"".join(packed), size)
    del raw[_valid_size(raw, fields) :]
    part = 1 - len(raw) / size
    pixels = zlib.compress(raw.ljust(size, b"\0"), 1)
    others = [(kind, body) for kind, body in chunks if kind not in (b"IDAT", b"IEND")]
    others[first:first] = [(b"IDAT", pixels)]
    return [*others, (b"IEND", b"")], Damage(cause or CORRUPT, part or None)


def _rows(header: tuple[int, ...]) -> Iterator[int]:
    """Yield the bytes of each filtered row, with its filter's byte (7, 9)."""
    width, height, depth, colour_type, _, _, interlace = header
    bits = depth * _SAMPLES.get(colour_type, 1)
    for column, row, across, down in _PASSES if interlace else ((0, 0, 1, 1),):
        wide, high = -(-(width - column) // across), -(-(height - row) // down)
        if wide > 0 and high > 0:
            yield from repeat(1 + -(-wide * bits // 8), high)


def _valid_size(raw: bytearray, header: tuple[int, ...]) -> int:
    """Return the bytes of the rows before the first one with an unknown filter."""
    position = 0
    for size in _rows(header):
        if position >= len(raw) or raw[position] > _LAST_FILTER:
            break
        position += size
    return min(position, len(raw))


def join(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG of chunks, given by kinds and bodies (5.3)."""
    parts = [SIGNATURE]
    for kind, body in chunks:
        checksum = zlib.crc32(body, zlib.crc32(kind))
        parts += [struct.pack(">I4s", len(body), kind), body, struct.pack(">I", checksum)]
    return b"".join(parts)
