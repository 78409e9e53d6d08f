"""Windows for attention statistics: the whole image, or local windows (TLC)."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import product

import torch
from torch import Tensor

from ..network import BlockWeights, Statistics, attention, mix, mixing_matrix
from .blocking import Region, spans

Mixer = Callable[[Tensor, Region], Tensor]
"""Function that applies attention to the values of a region and its halo."""


@dataclass(frozen=True)
class Windows:
    """Windows of equal size over a feature map.

    A single window that covers the map is Restormer as published. Smaller windows are test-time
    local conversion (TLC; Chu et al., ECCV 2022): the result at a pixel is the mean over all
    windows that contain it. The mean of A v over the attention matrices A is (mean A) v, so one
    matrix is used for all pixels that lie in the same windows. The edges of the windows divide the
    map into segments of such pixels.
    """

    starts: tuple[list[int], list[int]]  # first rows and columns of the windows
    size: tuple[int, int]  # height and width of a window

    @classmethod
    def over(cls, height: int, width: int, side: int | None) -> Windows:
        """Cover a map with as few windows of `side` pixels as possible, spaced as published."""
        starts, sizes = [], []
        for length in (height, width):
            size = min(side or length, length)
            count = -(-length // size)
            step = -(-(length - size) // (count - 1)) if count > 1 else 0
            starts.append([min(i * step, length - size) for i in range(count)])
            sizes.append(size)
        return cls((starts[0], starts[1]), (sizes[0], sizes[1]))

    @property
    def edges(self) -> tuple[list[int], list[int]]:
        """Rows and columns inside the map at which a window begins or ends."""
        rows, columns = (
            sorted({edge for start in starts for edge in (start, start + size)})[1:-1]
            for starts, size in zip(self.starts, self.size, strict=True)
        )
        return rows, columns

    def mixer(self, sums: Iterable[tuple[Region, Statistics]], w: BlockWeights) -> Mixer:
        """Return a function that applies attention to the values of a region and its halo.

        `sums` are the statistics of regions that together cover the map and cross no edge.
        """
        edges = self.edges
        segments: dict[tuple[int, int], Statistics] = {}
        for region, part in sums:
            segment = bisect(edges[0], region.top), bisect(edges[1], region.left)
            known = segments.get(segment)
            segments[segment] = known.plus(part) if known else part
        attentions = {
            window: attention(reduce(Statistics.plus, (segments[s] for s in product(*window))), w)
            for window in product(self._segments(0), self._segments(1))
        }
        if len(attentions) == 1:
            (only,) = attentions.values()
            matrix = mixing_matrix(only, w)
            return lambda v, _: mix(v, matrix)

        def matrix_of(row: int, column: int) -> Tensor:
            covering = [a for (r, c), a in attentions.items() if row in r and column in c]
            return mixing_matrix(torch.stack(covering).mean(0), w)

        def mix_pieces(v: Tensor, region: Region) -> Tensor:
            # The region and its halo may cross segments.
            halo = (v.shape[1] - (region.bottom - region.top)) // 2
            top, left = region.top - halo, region.left - halo
            rows, columns = (
                spans(length, length, [e - first for e in along if first < e < first + length])
                for first, length, along in zip((top, left), v.shape[1:3], edges, strict=True)
            )
            y = torch.empty_like(v)
            for (row, bottom), (column, right) in product(rows, columns):
                piece = Region(row, bottom, column, right)
                matrix = matrix_of(bisect(edges[0], top + row), bisect(edges[1], left + column))
                piece.crop(y).copy_(mix(piece.crop(v), matrix))
            return y

        return mix_pieces

    def _segments(self, axis: int) -> list[range]:
        """Return, for each window along an axis, the indices of its segments."""
        edges = self.edges[axis]
        return [
            range(bisect(edges, start), bisect(edges, start + self.size[axis] - 1) + 1)
            for start in self.starts[axis]
        ]
