"""Faults of a WebP: chunks that do not fit the file, and coded data that the decoder misreads.

A decoder that has lost its place in coded data gives wrong pixels without an error. It either needs
more data than there is, which libwebp reports, or less. The latter is found by decoding without the
last bytes, which must fail.
"""

from __future__ import annotations

import io
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import PIL.Image

from ..codecs import CODEC_ERRORS
from .fault import CORRUPT, Damage, Fault, fill_up, sound_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..image import Array

SIGNATURE = re.compile(rb"RIFF....WEBP", re.DOTALL)
# Chunk -> bytes at its end without which it cannot be decoded. Coders add up to 5 and 1 bytes.
_NEEDED = {b"VP8 ": 8, b"VP8L": 3}
_SHORTEST = 64  # bytes of a chunk to which this applies
_HEADERS = {b"ANMF": 16}  # bytes of a chunk before the chunks in it


class Chunk(NamedTuple):
    """A chunk with coded pixels."""

    kind: bytes
    start: int  # offset of its body
    length: int  # of its body, as declared


def pixel_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks with pixels; RIFF chunks are padded to even lengths."""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        position += 8
        if kind in _NEEDED:
            yield Chunk(kind, position, length)
        position += _HEADERS.get(kind, length + length % 2)


def end(data: bytes) -> int:
    """Return the offset of the end of the file as declared."""
    (length,) = struct.unpack_from("<I", data, 4)
    return int(length + 8 + length % 2)


def is_cut(data: bytes) -> bool:
    """Return True if the end is missing; some encoders leave out the last byte of padding."""
    (length,) = struct.unpack_from("<I", data, 4)
    return bool(length + 7 > len(data))


def find_fault(data: bytes) -> Fault | None:
    """Return a fault of the coded data of a complete WebP."""
    for kind, start, size in pixel_chunks(data):
        body = data[start : start + size]
        short = _chunk(kind, body[: -_NEEDED[kind]])
        if size >= _SHORTEST and _decodes(_container(short)):
            sound = sound_length(body)
            return Fault(CORRUPT, start + sound if sound < size else None)
    return None


def repair(data: bytes, fault: Fault, load: Callable[[bytes], Array]) -> tuple[bytes, Damage]:
    """Return a file that can be decoded, and the damage; `load` decodes a file.

    Raises:
        ValueError: nothing can be decoded.
    """
    chunks = list(pixel_chunks(data))
    if fault.end is None:
        return data, Damage(fault.cause)
    if len(chunks) != 1:
        raise ValueError(fault.cause)
    kind, start, size = chunks[0]

    def complete(body: bytes) -> bytes:
        rest = data[start + size + size % 2 :]
        return _container(data[12 : start - 8] + _chunk(kind, body) + rest)

    head = data[start : min(start + size, fault.end)]
    filled = fill_up(head, lambda body: load(complete(body)))
    if filled is None:
        raise ValueError(fault.cause)
    return complete(head + bytes(filled.size)), Damage(fault.cause, filled.part)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _container(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _decodes(data: bytes) -> bool:
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
            picture.load()
    except CODEC_ERRORS:
        return False
    return True
