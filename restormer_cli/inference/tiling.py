"""Overlapping tiles: positions, and seamless blending of results by overlap-add."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from ..callbacks import Progress
from .blocking import joined


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the first pixels of evenly spaced tiles that share at least `overlap` pixels.

    Raises:
        ValueError: `overlap` is negative or not smaller than `tile`.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"an overlap of {overlap} does not fit tiles of {tile} pixels")
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def weights(length: int, tile: int, overlap: int) -> Tensor:
    """Return the weight of each tile at its pixels along one axis: tiles x min(tile, length).

    Weights are raised cosines over the pixels that two neighbours share, and sum to one at every
    pixel of the axis. In two dimensions, the weights of both axes are multiplied.
    """
    begins = starts(length, tile, overlap)
    tile = min(tile, length)
    pixel = torch.arange(tile, dtype=torch.float64) + 0.5
    raw = torch.ones(len(begins), tile, dtype=torch.float64)
    for i in range(1, len(begins)):
        if (shared := begins[i - 1] + tile - begins[i]) > 0:
            rise = torch.sin((pixel / shared).clamp(max=1) * (math.pi / 2)) ** 2
            raw[i] *= rise
            raw[i - 1] *= rise.flip(0)
    total = torch.zeros(length, dtype=torch.float64)
    for begin, row in zip(begins, raw, strict=True):
        total[begin : begin + tile] += row
    for begin, row in zip(begins, raw, strict=True):
        row /= total[begin : begin + tile]
    return raw.float()


def tiled(
    x: Tensor,
    run: Callable[[Tensor], Tensor],
    *,
    tile: int,
    overlap: int,
    batch: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Run a function on overlapping tiles of an image and blend the results.

    Args:
        x: B C H W, on any device.
        run: maps B' C h w to B' C' h w, where h and w are `tile` or the image's side if smaller.
        tile: side of a tile in pixels.
        overlap: minimum number of pixels that neighbours share, smaller than `tile`.
        batch: number of tiles in one call of `run`.
        progress: called with the number of finished tiles and their total after each batch.

    Returns:
        B C' H W float32, on the device of `x`.

    Raises:
        ValueError: `overlap` does not fit `tile`.
    """
    height, width = x.shape[-2:]
    down, across = weights(height, tile, overlap), weights(width, tile, overlap)
    tops, lefts = starts(height, tile, overlap), starts(width, tile, overlap)
    tiles = [
        (..., slice(top, top + down.shape[1]), slice(left, left + across.shape[1]))
        for top, left in product(tops, lefts)
    ]
    axis_weights = list(product(down, across))
    canvas: Tensor | None = None
    total = x.new_zeros(height, width, dtype=torch.float32)
    for first in range(0, len(tiles), batch):
        group = tiles[first : first + batch]
        results = run(joined([x[tile] for tile in group], 0)).to(x.device, torch.float32)
        for number, result in enumerate(results.split(len(x)), first):
            if canvas is None:
                canvas = result.new_zeros(len(x), result.shape[1], height, width)
            tile_region, (row, column) = tiles[number], axis_weights[number]
            weight = (row.unsqueeze(1) * column).to(x.device)  # h w
            total[tile_region] += weight
            # This running mean returns equal results unchanged, bit for bit.
            canvas[tile_region] += (result - canvas[tile_region]) * (weight / total[tile_region])
        if progress:
            progress(first + len(group), len(tiles))
    assert canvas is not None  # noqa: S101 - there is always one tile
    return canvas
