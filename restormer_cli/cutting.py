"""How feature maps are cut: into strips of rows, and those into cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .devices import free_memory


class Place(NamedTuple):
    """A rectangle of pixels: rows top..bottom, columns left..right, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def scaled(self, scale: float) -> Place:
        """The same rectangle on a map of another level."""
        return Place(*(int(edge * scale) for edge in self))

    def of(self, x: Tensor) -> Tensor:
        """The view of B H W C."""
        return x[:, self.top : self.bottom, self.left : self.right]


class Grain(NamedTuple):
    """How finely a map is cut: rows of a strip, rows and columns of a cell; all of them even."""

    strip: int
    rows: int
    columns: int


Cut = Callable[[int, int, int], Grain]
"""Chooses the grain for a map of so many channels, height and width."""


def spans(length: int, step: int, edges: list[int]) -> list[tuple[int, int]]:
    """An axis cut at `edges`, and between them into pieces of `step` pixels."""
    return [
        (start, min(start + step, end))
        for begin, end in pairwise([0, *edges, length])
        for start in range(begin, end, step)
    ]


COPIES = 10
"""What a cell takes while it is worked on, in terms of its own map: measured."""

CELL_BYTES = 3 << 19
"""Of a cell's map, on a CPU: measured to be fastest with caches of 1 MiB a core."""


def grain_for(device: torch.device, dtype: torch.dtype) -> Cut:
    """How finely to cut maps on a device.

    On a CPU a cell should fit its core's cache, cells should be alike, and a strip should have
    some for every thread. On a GPU a cell should be as large as memory allows.
    """
    if device.type == "cpu":
        return partial(_cut_for_cpu, torch.get_num_threads(), dtype.itemsize)
    budget = free_memory(device) // 4

    def on_gpu(channels: int, height: int, width: int) -> Grain:
        pixels = min(max(budget // (channels * dtype.itemsize * COPIES), 1 << 14), 1 << 22)
        columns = min(width, 4096)
        rows = max(2, pixels // columns // 2 * 2)
        return Grain(rows, rows, columns)

    return on_gpu


def _cut_for_cpu(threads: int, itemsize: int, channels: int, height: int, width: int) -> Grain:
    side = min(256, max(16, math.isqrt(CELL_BYTES // (channels * itemsize))))
    rows, columns = (_even(length / math.ceil(length / side)) for length in (height, width))
    across = math.ceil(width / columns)
    # Few cells side by side leave threads idle: then a strip takes several rows of cells.
    down = next(
        n for n in range(1, threads + 1) if n * across % threads == 0 or n * across > 4 * threads
    )
    return Grain(down * rows, rows, columns)


def _even(n: float) -> int:
    """The next even number: cells of the level below need whole pixels."""
    return 2 * math.ceil(n / 2)


def finer(grain: Cut) -> Cut:
    """The same with strips and cells a quarter as high and wide: for when memory ran out."""

    def cut(channels: int, height: int, width: int) -> Grain:
        return Grain(*(max(2, n // 8 * 2) for n in grain(channels, height, width)))

    return cut
