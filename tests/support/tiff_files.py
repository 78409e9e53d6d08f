"""Build uncompressed TIFFs with any samples and tags."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from tests.support.image_files import directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMATS = {"u": 1, "i": 2, "f": 3}
EXTRA_SAMPLES = 338


def tiff(
    samples: np.ndarray,
    photometric: int,
    tags: Mapping[int, Sequence[int]] | None = None,
    *,
    planar: bool = False,
) -> bytes:
    """Return a TIFF of H W S samples, interleaved or in planes."""
    height, width, count = samples.shape
    planes = [samples[..., n] for n in range(count)] if planar else [samples]
    blocks = [np.ascontiguousarray(plane).tobytes() for plane in planes]
    starts = [8 + sum(map(len, blocks[:n])) for n in range(len(blocks))]
    numbers: dict[int, Sequence[int]] = {
        256: [width],
        257: [height],
        258: [samples.itemsize * 8] * count,
        259: [1],
        262: [photometric],
        273: starts,
        277: [count],
        278: [height],
        279: [len(block) for block in blocks],
        284: [2 if planar else 1],
        339: [FORMATS[samples.dtype.kind]] * count,
        **(tags or {}),
    }
    entries = [(t, 4, len(v), struct.pack(f"<{len(v)}I", *v)) for t, v in sorted(numbers.items())]
    body = b"".join(blocks)
    body += bytes(len(body) % 2)
    at = 8 + len(body)
    return b"II*\0" + struct.pack("<I", at) + body + directory("<", at, entries)


def extra_samples(data: bytes) -> list[int]:
    """Return the ExtraSamples of the first page of a little-endian TIFF."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for n in range(count):
        tag, kind, length, value = struct.unpack_from("<HHII", data, at + 2 + 12 * n)
        if tag == EXTRA_SAMPLES:
            assert kind == 3
            where = at + 2 + 12 * n + 8 if length <= 2 else value
            return list(struct.unpack_from(f"<{length}H", data, where))
    return []
