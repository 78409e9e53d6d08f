"""Functions run over whole feature maps, strip by strip, in place where source is target.

A sweep that writes where it reads keeps a copy of the strip it is at, which also holds the rows
above that the next strip still needs; nothing else is kept twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..network import Convolve, same
from .devices import free_memory

# --- cutting -------------------------------------------------------------------------------------


class Region(NamedTuple):
    """A rectangle of pixels: rows top..bottom, columns left..right, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def scaled(self, scale: float) -> Region:
        """The same rectangle on a map of another level."""
        return Region(*(int(edge * scale) for edge in self))

    def of(self, x: Tensor) -> Tensor:
        """The view of B H W C."""
        return x[:, self.top : self.bottom, self.left : self.right]


class BlockShape(NamedTuple):
    """How finely a map is cut: rows of a strip, rows and columns of a cell; all of them even."""

    strip: int
    rows: int
    columns: int


Cut = Callable[[int, int, int], BlockShape]
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

    def on_gpu(channels: int, height: int, width: int) -> BlockShape:
        pixels = min(max(budget // (channels * dtype.itemsize * COPIES), 1 << 14), 1 << 22)
        columns = min(width, 4096)
        rows = max(2, pixels // columns // 2 * 2)
        return BlockShape(rows, rows, columns)

    return on_gpu


def _cut_for_cpu(threads: int, itemsize: int, channels: int, height: int, width: int) -> BlockShape:
    side = min(256, max(16, math.isqrt(CELL_BYTES // (channels * itemsize))))
    rows, columns = (_even(length / math.ceil(length / side)) for length in (height, width))
    across = math.ceil(width / columns)
    # Few cells side by side leave threads idle: then a strip takes several rows of cells.
    down = next(
        n for n in range(1, threads + 1) if n * across % threads == 0 or n * across > 4 * threads
    )
    return BlockShape(down * rows, rows, columns)


def _even(n: float) -> int:
    """The next even number: cells of the level below need whole pixels."""
    return 2 * math.ceil(n / 2)


def finer(grain: Cut) -> Cut:
    """The same with strips and cells a quarter as high and wide: for when memory ran out."""

    def cut(channels: int, height: int, width: int) -> BlockShape:
        return BlockShape(*(max(2, n // 8 * 2) for n in grain(channels, height, width)))

    return cut


# --- sweeps --------------------------------------------------------------------------------------


Map = list[Tensor]
"""A feature map as groups of channels, each B H W C, that lie in memory on their own."""

Result = TypeVar("Result")


def gather(source: Map, top: int, bottom: int, margin: int, above: Tensor | None) -> Tensor:
    """A copy of rows top..bottom of a map with a margin on every side, zeros beyond the image.

    `above` are the margin's rows above as they were in the copy for the strip before, if there
    was one: the map may have been overwritten there.
    """
    b, height, width = source[0].shape[:3]
    channels = sum(group.shape[-1] for group in source)
    strip = source[0].new_empty(b, bottom - top + 2 * margin, width + 2 * margin, channels)
    below = min(bottom + margin, height)
    end = below - top + margin
    filled = strip[:, margin:end, margin : margin + width]
    for part, group in zip(filled.split([g.shape[-1] for g in source], -1), source, strict=True):
        part.copy_(group[:, top:below])
    strip[:, :, :margin] = strip[:, :, margin + width :] = 0
    strip[:, end:] = 0
    strip[:, :margin] = 0 if above is None else above
    return strip


def convolution_at(place: Region, height: int, width: int) -> Convolve:
    """The 3x3 convolution for a cell with a margin: it uses up one pixel on every side.

    What of the margin lies beyond the image is made zero first, since what comes in was computed
    from zeros but need not be zero itself.
    """

    def valid(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        margin = (x.shape[1] - (place.bottom - place.top)) // 2
        beyond = (
            x[:, : max(0, margin - place.top)],
            x[:, x.shape[1] - max(0, place.bottom + margin - height) :],
            x[:, :, : max(0, margin - place.left)],
            x[:, :, x.shape[2] - max(0, place.right + margin - width) :],
        )
        for outside in beyond:
            if outside.numel():
                outside.zero_()
        return same(x, weight, bias, padding=0)

    return valid


Compute = Callable[[Tensor, Region, Convolve], Result]
"""What a sweep does with a cell: given B h+2m w+2m C, its place, and the convolution for it."""


@dataclass
class StripRunner:
    """Runs functions over maps, strip by strip, the cells of a strip side by side."""

    grain: Cut
    workers: Callable[..., list[Any]]
    advance: Callable[[], None]

    def collect(
        self,
        source: Map,
        compute: Compute[Result],
        margin: int = 1,
        edges: tuple[list[int], list[int]] = ([], []),
    ) -> Iterator[tuple[Region, Result]]:
        """What `compute` gives for each cell of a map, in their order.

        No cell crosses one of the `edges` (rows, columns).
        """
        height, width = source[0].shape[1:3]
        grain = self.grain(sum(group.shape[-1] for group in source), height, width)
        # A thread begins with gradients on; inference tensors can be changed in their mode alone.
        without_gradients = (
            torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad
        )

        def on_cell(strip: Tensor, top: int, place: Region) -> Result:
            around = Region(
                place.top - top,
                place.bottom - top + 2 * margin,
                place.left,
                place.right + 2 * margin,
            )
            with without_gradients():
                cell = around.of(strip).contiguous()
                return compute(cell, place, convolution_at(place, height, width))

        above = None
        for top, bottom in spans(height, grain.strip, edges[0]):
            strip = gather(source, top, bottom, margin, above)
            above = strip[:, -2 * margin : strip.shape[1] - margin].clone()
            cells = [
                Region(top + start, top + end, left, right)
                for start, end in spans(bottom - top, grain.rows, [])
                for left, right in spans(width, grain.columns, edges[1])
            ]
            results = self.workers(partial(on_cell, strip, top), cells)
            del strip  # before the next one is made
            yield from zip(cells, results, strict=True)
            self.advance()

    def write(
        self,
        source: Map,
        compute: Compute[Tensor],
        target: Map,
        scale: float = 1,
        margin: int = 1,
    ) -> None:
        """Write what `compute` gives for each cell to its place in `target`, scaled."""
        widths = [group.shape[-1] for group in target]

        def compute_and_write(cell: Tensor, place: Region, convolve: Convolve) -> None:
            result = compute(cell, place, convolve)
            for part, group in zip(result.split(widths, -1), target, strict=True):
                place.scaled(scale).of(group).copy_(part)

        for _ in self.collect(source, compute_and_write, margin):
            pass


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Callable[..., list[Any]]]:
    """A `map` that runs on all of the CPU's threads at once, each working on its own."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield lambda function, places: [function(place) for place in places]
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # This thread's own helpers would spin on the cores that the pool's threads need.
        torch.set_num_threads(1)
        try:
            yield lambda function, places: list(pool.map(function, places))
        finally:
            torch.set_num_threads(threads)
