"""Overlapping tiles: where they lie, and how their results are blended without seams.

Knows no network: `tiled` runs whatever function it is given on each tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

from ..callbacks import Progress


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along an axis of `length` pixels: evenly placed, `overlap` or more shared.

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
    """The weight of each tile for each of its pixels along one axis: tiles x min(tile, length).

    A raised cosine over what two neighbours share; at every pixel of the axis the weights of the
    tiles that hold it sum to one. Weights of an image are products of those of its axes.
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
    """Run a function on overlapping tiles of an image and blend what it gives.

    Args:
        x: B C H W, on any device; it stays there, and so does the result.
        run: B' C h w to B' C' h w, for h and w of `tile` pixels or the image's side if smaller.
        tile: side of a tile in pixels.
        overlap: pixels that neighbours share at least; smaller than `tile`.
        batch: tiles given to `run` at once.
        progress: called with the tiles done and their number after each batch.

    Returns:
        B C' H W, float32.

    Raises:
        ValueError: `overlap` does not fit `tile`.
    """
    height, width = x.shape[-2:]
    down, across = weights(height, tile, overlap), weights(width, tile, overlap)
    tops, lefts = starts(height, tile, overlap), starts(width, tile, overlap)
    h, w = down.shape[1], across.shape[1]
    places = [(i, j) for i in range(len(tops)) for j in range(len(lefts))]
    canvas: Tensor | None = None
    total = torch.empty(0)
    for _, group in groupby(enumerate(places), key=lambda item: item[0] // batch):
        mine = [place for _, place in group]
        views = [x[..., tops[i] : tops[i] + h, lefts[j] : lefts[j] + w] for i, j in mine]
        results = run(torch.cat(views)).to(x.device, torch.float32).split(len(x))
        for (i, j), result in zip(mine, results, strict=True):
            if canvas is None:
                canvas = result.new_zeros(len(x), result.shape[1], height, width)
                total = result.new_zeros(height, width)
            here = (..., slice(tops[i], tops[i] + h), slice(lefts[j], lefts[j] + w))
            weight = (down[i].unsqueeze(1) * across[j]).to(x.device)  # h w
            total[here] += weight
            # A running mean: where tiles agree, adding one more changes not a bit.
            canvas[here] += (result - canvas[here]) * (weight / total[here])
        if progress:
            progress(mine[-1][0] * len(lefts) + mine[-1][1] + 1, len(places))
    assert canvas is not None  # noqa: S101 - there is always one tile
    return canvas
