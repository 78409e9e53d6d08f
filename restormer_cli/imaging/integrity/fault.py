"""Faults of a file, and the share of an image that they cost."""

from __future__ import annotations

import zlib
from bisect import bisect_left
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..codecs import CODEC_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..image import Array

CORRUPT, CUT = "its coded data is corrupt", "its end is missing"
# Bytes to repeat in place of missing data: pixels that depend on the choice are missing.
_FILLERS = b"\0", b"\xa5\x3c\x96\x0f\x5a\xc3\x69"
_LONG_ZEROS = 64  # bytes
_FILLER_SIZES = (2**12, 2**16, 2**20, 2**24, 2**28)


class Fault(NamedTuple):
    """A fault of coded pixels."""

    cause: str
    end: int | None = None  # offset up to which the data is sound, if known


class Damage(NamedTuple):
    """Missing part of an image; `str` describes it for users."""

    cause: str
    part: float | None = None  # share of the image that could not be decoded, if known

    def __str__(self) -> str:
        if self.part is None:
            extent = "an unknown part"
        elif self.part == 0:
            return self.cause
        elif self.part < 0.01:
            extent = "less than 1 %"
        elif 0.99 < self.part < 1:
            extent = "more than 99 %"
        else:
            extent = f"{100 * self.part:.0f} %"
        return f"{self.cause}, {extent} of the image could not be decoded"


def describe_rest(data: bytes, end: int) -> list[str]:
    """Return the loss of bytes after the end of a picture.

    Equal bytes are padding, and line ends are added by transfers as text: neither is a loss.
    """
    rest = data[end:]
    if not rest.strip(rest[:1]) or rest.isspace():
        return []
    return [f"{len(rest)} bytes after its end: left out"]


def missing_part(first: Array, second: Array) -> float:
    """Compare decodings with different fillers: return the share of rows that are missing."""
    rows = np.flatnonzero((first != second).reshape(len(first), -1).any(axis=1))
    return float(rows[-1] + 1 - rows[0]) / len(first) if len(rows) else 0.0


class Filled(NamedTuple):
    """Pixels decoded from data whose end is missing."""

    pixels: Array  # where data is missing, of no meaning
    part: float  # share of the image that is missing
    size: int  # zeros that were appended to the data


def fill_up(
    head: bytes, decode: Callable[[bytes], Array], most: int = _FILLER_SIZES[-1]
) -> Filled | None:
    """Decode data whose end is missing, followed by two different fillers.

    `decode` raises an exception while the data is too short. None: it does so with the first size
    of fillers, too, that is `most` bytes or more.
    """
    for size in _FILLER_SIZES[: bisect_left(_FILLER_SIZES, most) + 1]:
        try:
            first, second = (decode(head + filler * (size // len(filler))) for filler in _FILLERS)
        except CODEC_ERRORS:
            continue
        return Filled(first, missing_part(first, second), size)
    return None


def inflate(data: bytes, size: int) -> bytearray:
    """Decompress zlib data as far as it is sound, but not more than `size` bytes."""
    decoder, whole = zlib.decompressobj(), bytearray()
    with suppress(zlib.error):
        for byte in data:  # one by one: an error discards the output of its call
            if len(whole) >= size:
                break
            whole += decoder.decompress(bytes([byte]), size - len(whole))
    return whole


def sound_length(data: bytes) -> int:
    """Return the length of `data` without zeros at its end, if these are many.

    Coded data hardly contains long runs of zeros, but files whose download or copy was interrupted
    do: their size was reserved in advance.
    """
    length = len(data.rstrip(b"\0"))
    return length if len(data) - length >= _LONG_ZEROS else len(data)
