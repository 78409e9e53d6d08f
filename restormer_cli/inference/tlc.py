"""Windows for attention statistics: the whole image, or local windows (TLC)."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import chain, pairwise, product
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..network import BlockWeights, Statistics, attention, mix, mixing_matrix
from .blocking import Edges, Region

CACHED = 128
"""Segments whose matrices are kept: blocks that are computed one after another share some."""

Matrices = TypeVar("Matrices")


@dataclass(frozen=True)
class Mixing(Generic[Matrices]):
    """The mixing matrices of a feature map, which differ between its segments.

    Attributes:
        edges: rows and columns at which segments begin, without 0.
        of_segment: function from the indices of a segment, down and across, to its matrices.
    """

    edges: Edges
    of_segment: Callable[[int, int], Matrices]

    def pieces(self, region: Region) -> list[list[tuple[Region, Matrices]]]:
        """Divide a region, which may exceed the map, at the edges; one list for each row of pieces.

        What lies outside the map gets the matrices of the nearest segment.
        """
        rows, columns = (
            [(a, b, bisect(along, a)) for a, b in pairwise([first, *inside, end])]
            for (first, end), along in zip((region[:2], region[2:]), self.edges, strict=True)
            for inside in [[edge for edge in along if first < edge < end]]
        )
        return [
            [
                (Region(top, bottom, left, right), self.of_segment(down, across))
                for left, right, across in columns
            ]
            for top, bottom, down in rows
        ]


def mixed(v: Tensor, region: Region, mixing: Mixing[Tensor]) -> Tensor:
    """Apply attention to the values of a region and its halo, B H W C; matrices are B C C."""
    around = region.expanded((v.shape[1] - (region.bottom - region.top)) // 2)
    pieces = [*chain.from_iterable(mixing.pieces(around))]
    if len(pieces) == 1:
        return mix(v, pieces[0][1])
    y = torch.empty_like(v)
    for piece, matrices in pieces:
        part = piece.relative_to(around.top, around.left)
        part.crop(y).copy_(mix(part.crop(v), matrices))
    return y


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
    def edges(self) -> Edges:
        """Rows and columns inside the map at which a window begins or ends."""
        rows, columns = (
            sorted({edge for start in starts for edge in (start, start + size)})[1:-1]
            for starts, size in zip(self.starts, self.size, strict=True)
        )
        return rows, columns

    def mixing(
        self,
        sums: Iterable[tuple[Region, Statistics]],
        w: BlockWeights,
        packed: Callable[[Tensor], Matrices],
    ) -> Mixing[Matrices]:
        """Return the mixing matrices of a block.

        Args:
            sums: statistics of regions that together cover the map and cross no edge.
            w: weights of the block.
            packed: converts matrices, B C C in fp32, for the second pass over the map.
        """
        edges = self.edges
        segments: dict[tuple[int, int], Statistics] = {}
        for region, part in sums:
            segment = bisect(edges[0], region.top), bisect(edges[1], region.left)
            known = segments.get(segment)
            segments[segment] = known.plus(part) if known else part
        rows, columns = self._segments(0), self._segments(1)
        attentions = {
            (r, c): attention(
                reduce(Statistics.plus, (segments[s] for s in product(down, across))), w
            )
            for (r, down), (c, across) in product(enumerate(rows), enumerate(columns))
        }
        over_rows, over_columns = (
            [[n for n, window in enumerate(windows) if i in window] for i in range(len(along) + 1)]
            for windows, along in zip((rows, columns), edges, strict=True)
        )

        @lru_cache(CACHED)
        def of_segment(down: int, across: int) -> Matrices:
            covering = product(over_rows[down], over_columns[across])
            mean = torch.stack([attentions[window] for window in covering]).mean(0)
            return packed(mixing_matrix(mean, w))

        of_segment(0, 0)  # before all threads need it at once
        return Mixing(edges, of_segment)

    def _segments(self, axis: int) -> list[range]:
        """Return, for each window along an axis, the indices of its segments."""
        edges = self.edges[axis]
        return [
            range(bisect(edges, start), bisect(edges, start + self.size[axis] - 1) + 1)
            for start in self.starts[axis]
        ]
