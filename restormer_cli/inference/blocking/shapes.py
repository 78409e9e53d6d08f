"""Shapes of strips and blocks, for the cache of a CPU or the memory of a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch

from ..devices import free_memory, largest_tensor

MAPS_PER_BLOCK = {"cpu": 10, "gpu": 13}
"""Memory for processing a block, in multiples of its feature map (measured; counted on the meta
device, whose largest blocks are a larger part of the whole)."""

GPU_BLOCK_PIXELS = 1 << 19
"""Largest block on a GPU, which fills it; larger ones only take more memory."""

WIDEST = 4
"""Channels of the widest tensor for a block, relative to those of its feature map."""

BLOCK_BYTES = 3 << 19
"""Size of a block's feature map on a CPU (measured to be fastest with 1 MiB of cache per core)."""

STRIPS_AT_ONCE = 4
"""Strips that a pass takes as one if it does not overwrite its map."""


class BlockShape(NamedTuple):
    """Rows of a strip, and rows and columns of a block. All are even."""

    strip: int
    rows: int
    columns: int
    halo: bool = True  # without, a block that covers its map is not copied: convolutions pad it

    @property
    def reading(self) -> BlockShape:
        """The shape for a pass that does not overwrite its map: the fewer strips, the faster."""
        return self._replace(strip=STRIPS_AT_ONCE * self.strip)


Blocking = Callable[[int, int, int], BlockShape]
"""Function from the channels, height and width of a map to its block shape."""


def blocking_for(device: torch.device, dtype: torch.dtype) -> Blocking:
    """Return the default blocking of a device.

    On a CPU, blocks have equal sizes that fit the cache of a core, and a strip has enough blocks
    for all threads. On a GPU, a block is as large as the free memory allows, and fills the GPU.
    """
    if device.type == "cpu":
        return partial(block_shape_on_cpu, torch.get_num_threads(), dtype.itemsize)
    free, limit = free_memory(device), largest_tensor(device)
    return partial(block_shape_on_gpu, free // 4, limit, dtype.itemsize)


def block_shape_on_gpu(
    budget: int, limit: int | None, itemsize: int, channels: int, height: int, width: int
) -> BlockShape:
    """Return the block shape for a GPU.

    Args:
        budget: memory for a block in bytes.
        limit: maximum size of a tensor in bytes.
        itemsize: number of bytes of a value.
        channels: channels of the map.
        height: height of the map.
        width: width of the map.
    """
    pixels = max(budget // (channels * itemsize * MAPS_PER_BLOCK["gpu"]), 1 << 14)
    if limit is not None:  # some sums are in fp32
        pixels = min(pixels, limit // (channels * 4 * WIDEST))
    pixels = min(pixels, GPU_BLOCK_PIXELS)
    columns = min(width, 4096)
    rows = min(height + height % 2, max(2, pixels // columns // 2 * 2))
    return BlockShape(rows, rows, columns, halo=False)


def block_shape_on_cpu(
    threads: int, itemsize: int, channels: int, height: int, width: int
) -> BlockShape:
    """Return the block shape for a CPU; `itemsize` is the number of bytes of a value."""
    side = min(256, max(16, math.isqrt(BLOCK_BYTES // (channels * itemsize))))
    # Even, because a pixel-unshuffle takes pairs of rows and columns.
    rows, columns = (
        2 * math.ceil(length / math.ceil(length / side) / 2) for length in (height, width)
    )
    across = math.ceil(width / columns)
    # If a row has too few blocks for all threads, a strip takes several rows.
    down = next(
        n for n in range(1, threads + 1) if n * across % threads == 0 or n * across > 4 * threads
    )
    return BlockShape(down * rows, rows, columns)


def smaller_blocks(blocking: Blocking) -> Blocking:
    """Return a blocking whose strips and blocks have a quarter of the height and width."""

    def smaller(channels: int, height: int, width: int) -> BlockShape:
        shape = blocking(channels, height, width)
        strip, rows, columns = (max(2, n // 8 * 2) for n in shape[:3])
        return BlockShape(strip, rows, columns, shape.halo)

    return smaller


def spans(length: int, step: int, edges: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Divide an axis into pieces of at most `step` pixels that do not cross `edges`."""
    return [
        (start, min(start + step, end))
        for begin, end in pairwise([0, *edges, length])
        for start in range(begin, end, step)
    ]
