"""Lossless JPEG, the compression of integers in a DNG.

Section numbers are those of ITU-T T.81 (1992). Each sample is predicted by its left neighbour
(annex H), and a Huffman code is made for the differences of every picture (annex K.2).
"""

from __future__ import annotations

import heapq
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ...image import Array

_BITS = 16
_LEFT = 1  # number of the predictor (table H.1)
_LONGEST = 16  # bits of a code
_FLOOR = 2**10  # rarest categories get a share of 1 / _FLOOR, or codes would be longer
# Number of bits of a difference: its category (table H.2).
_CATEGORIES = np.array(
    [abs(v).bit_length() for v in (*range(2**15), *range(-(2**15), 0))], np.uint8
)
_BITLESS = 16  # the category of -32768 alone, which needs no further bits


def encode(samples: Array) -> bytes:
    """Encode H W C samples, uint16 with 1 to 4 colours and sides up to 65535."""
    height, width, count = samples.shape
    differences = np.diff(samples, axis=1, prepend=np.uint16(0))  # modulo 2^16
    differences[:, 0] = np.diff(samples[:, 0], axis=0, prepend=np.uint16(2 ** (_BITS - 1)))
    values = differences.reshape(-1)
    categories = _CATEGORIES[values]
    lengths = _code_lengths(np.bincount(categories, minlength=_BITLESS + 1))
    coded = _pack(values, categories, lengths)

    frame = struct.pack(">BHHB", _BITS, height, width, count)
    frame += b"".join(bytes([number, 0x11, 0]) for number in range(count))
    symbols = sorted(lengths, key=lambda symbol: (lengths[symbol], symbol))
    per_length = [list(lengths.values()).count(bits) for bits in range(1, _LONGEST + 1)]
    table = bytes([0, *per_length, *symbols])
    scan = bytes([count, *(byte for number in range(count) for byte in (number, 0)), _LEFT, 0, 0])
    segments = ((0xC3, frame), (0xC4, table), (0xDA, scan))  # SOF3, DHT, SOS (table B.1)
    heads = (struct.pack(">BBH", 0xFF, code, 2 + len(body)) + body for code, body in segments)
    return b"".join([b"\xff\xd8", *heads, coded, b"\xff\xd9"])


def _code_lengths(counts: Array) -> dict[int, int]:
    """Return the length of the code of each category that occurs.

    A code of ones is not allowed: the longest belongs to a symbol that never occurs.
    """
    total = int(counts.sum())
    heap = [(max(int(n), total // _FLOOR), [symbol]) for symbol, n in enumerate(counts) if n]
    heap.append((0, [len(counts)]))
    heapq.heapify(heap)
    depths = dict.fromkeys((symbol for _, (symbol,) in heap), 0)
    while len(heap) > 1:
        (first, left), (second, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in (*left, *right):
            depths[symbol] += 1
        heapq.heappush(heap, (first + second, left + right))
    del depths[len(counts)]
    return depths


def _pack(values: Array, categories: Array, lengths: dict[int, int]) -> bytes:
    """Return the codes of categories, each followed by the bits of its value (H.1.2.2)."""
    codes, sizes = np.zeros((2, _BITLESS + 1), np.uint64)
    code, last = 0, 0
    for symbol in sorted(lengths, key=lambda symbol: (lengths[symbol], symbol)):  # annex C
        code <<= lengths[symbol] - last
        last = lengths[symbol]
        codes[symbol], sizes[symbol] = code, last
        code += 1
    further = np.arange(_BITLESS + 1, dtype=np.uint64)
    further[_BITLESS] = 0
    extra = further[categories]
    # Negative values are reduced by one, of which the lowest bits count (F.1.2.1.1).
    bits = (values - (values >> 15)) & ((np.uint64(1) << extra) - np.uint64(1))
    words = codes[categories] << extra | bits
    counts = sizes[categories] + extra
    ends = np.cumsum(counts)
    starts = ends - counts

    # Each code of up to 32 bits lies in two words of 32 bits, in which no bits overlap.
    places = (starts >> np.uint64(5)).astype(np.intp)
    words <<= np.uint64(64) - (starts & np.uint64(31)) - counts
    total = int(ends[-1])
    length = total // 32 + 2
    high = np.bincount(places, words >> np.uint64(32), length)
    low = np.bincount(places + 1, words & np.uint64(2**32 - 1), length)
    data = bytearray((high + low).astype(">u4").tobytes()[: -(-total // 8)])
    data[-1] |= (1 << (-total % 8)) - 1  # filled with ones (F.1.2.3)
    return bytes(data).replace(b"\xff", b"\xff\0")  # B.1.1.5
