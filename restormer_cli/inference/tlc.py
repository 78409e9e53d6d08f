"""The windows over which attention is measured: the whole image, or test-time local conversion."""

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


@dataclass(frozen=True)
class Windows:
    """The windows over which attention is measured, along both axes of a map.

    One window as large as the map is Restormer as published. Smaller ones are test-time local
    conversion (TLC; Chu et al., ECCV 2022): a pixel gets the mean of what the windows over it
    give. Since the mean of A v over windows A is (mean A) v, one matrix does for all pixels that
    lie under the same windows, and those form rectangles: the segments between windows' edges.
    """

    starts: tuple[list[int], list[int]]
    size: tuple[int, int]

    @classmethod
    def over(cls, height: int, width: int, side: int | None) -> Windows:
        """Windows of `side` pixels, as few as cover the map, spread as the published code does."""
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
        """Where windows begin and end inside the map, along each axis."""
        rows, columns = (
            sorted({edge for start in starts for edge in (start, start + size)})[1:-1]
            for starts, size in zip(self.starts, self.size, strict=True)
        )
        return rows, columns

    def mixer(
        self, cells: Iterable[tuple[Region, Statistics]], w: BlockWeights
    ) -> Callable[[Tensor, Region], Tensor]:
        """What `mix` does, for values of a place and a margin about it, given all cells' sums."""
        edges = self.edges
        segments: dict[tuple[int, int], Statistics] = {}
        for place, sums in cells:
            here = bisect(edges[0], place.top), bisect(edges[1], place.left)
            segments[here] = add(segments[here], sums) if here in segments else sums
        attentions = {
            window: attention(reduce(add, (segments[s] for s in product(*window))), w)
            for window in product(self._segments_of(0), self._segments_of(1))
        }
        if len(attentions) == 1:
            (only,) = attentions.values()
            matrix = mixing_matrix(only, w)
            return lambda v, _: mix(v, matrix)

        def matrix_of(row: int, column: int) -> Tensor:
            over = [a for (r, c), a in attentions.items() if row in r and column in c]
            return mixing_matrix(torch.stack(over).mean(0), w)

        def mixed(v: Tensor, place: Region) -> Tensor:
            # A cell may lie across segments, and its margin may even if it does not.
            margin = (v.shape[1] - (place.bottom - place.top)) // 2
            top, left = place.top - margin, place.left - margin
            cut = [
                spans(length, length, [e - first for e in along if first < e < first + length])
                for first, length, along in zip((top, left), v.shape[1:3], edges, strict=True)
            ]
            y = torch.empty_like(v)
            for (row, bottom), (column, right) in product(*cut):
                piece = Region(row, bottom, column, right)
                matrix = matrix_of(bisect(edges[0], top + row), bisect(edges[1], left + column))
                piece.of(y).copy_(mix(piece.of(v), matrix))
            return y

        return mixed

    def _segments_of(self, axis: int) -> list[range]:
        """For each window, the numbers of the segments that it is made of."""
        edges = self.edges[axis]
        return [
            range(bisect(edges, start), bisect(edges, start + self.size[axis] - 1) + 1)
            for start in self.starts[axis]
        ]


def add(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of two parts of an image together."""
    return Statistics(a.gram + b.gram, a.squares + b.squares)
