"""Run functions over feature maps strip by strip.

A pass over a map takes one strip at a time, and the blocks of a strip in parallel. There are two
ways to replace the map by the result. A map with free rows before or behind it in memory moves
there: a strip of the result never covers what the strips after it read. Otherwise, each strip is
copied first, with a halo of neighbouring rows; the last rows of a strip are kept as the upper halo
of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product, repeat, starmap
from typing import Any, TypeVar

from torch import Tensor

from ...callbacks import Progress
from ...network import Convolve, same
from .maps import Map, Part, Region, clear_outside, free_rows, moved
from .shapes import Blocking, BlockShape, spans

ROWS_PER_COPY = 16
"""Rows of a strip that a thread of a CPU copies at a time."""

Result = TypeVar("Result")

Edges = tuple[list[int], list[int]]
"""Rows and columns that blocks do not cross."""

Compute = Callable[[Tensor, Region, Convolve], Result]
"""Function of a block with its halo, its region without the halo, and its 3x3 convolution."""


@dataclass
class StripRunner:
    """Run functions over feature maps strip by strip, with the blocks of a strip in parallel."""

    blocking: Blocking
    map_blocks: Callable[..., list[Any]]  # see `threads.parallel_map`
    progress: Progress | None  # called after each strip
    total: int  # number of strips in all passes
    done: int = 0

    def collect(
        self,
        source: Map,
        compute: Compute[Result],
        halo: int = 1,
        edges: Edges = ([], []),
        *,
        overwritten: bool = False,
    ) -> Iterator[tuple[Region, Result]]:
        """Yield the region and the result of `compute` for each block of a map, in order.

        Blocks have `halo` extra pixels on every side and do not cross `edges`. A block that covers
        the map has none if its shape says so. Set `overwritten` if the map changes meanwhile.
        """
        height, width = source[0].shape[1:3]
        shape = self.shape(source)

        def on_block(part: Part, region: Region) -> Result:
            block = part.block(region.expanded(halo))
            return compute(block, region, block_convolution(region, height, width))

        def on_map(part: Part, region: Region) -> Result:
            return compute(part.block(region), region, same)

        if shape.rows >= height and shape.columns >= width and not any(edges) and not shape.halo:
            yield from self.visit(source, on_map, shape)  # it has read all before it writes
        elif overwritten:
            parts = self._copied_strips(source, halo, edges)
            yield from self.visit(source, on_block, shape, edges, parts)
        else:
            yield from self.visit(source, on_block, shape.reading, edges)

    def visit(
        self,
        source: Map,
        compute: Callable[[Part, Region], Result],
        shape: BlockShape,
        edges: Edges = ([], []),
        parts: Iterable[Part] | None = None,
        *,
        upwards: bool = False,
    ) -> Iterator[tuple[Region, Result]]:
        """Yield the result of `compute` for the region of each block of a map, in order.

        It gets the map, or the part for the strip: the region, and its halo as far as it lies in
        the map. Strips are taken downwards unless `upwards` is set.
        """
        (height, width), each = source[0].shape[1:3], parts or repeat(Part(source))
        columns, strips = (
            spans(width, shape.columns, edges[1]),
            spans(height, shape.strip, edges[0]),
        )
        for part, (top, bottom) in zip(each, strips[:: -1 if upwards else 1], strict=False):
            rows = [(top + start, top + end) for start, end in spans(bottom - top, shape.rows)]
            regions = list(starmap(Region, (a + b for a, b in product(rows, columns))))
            yield from zip(regions, self.map_blocks(partial(compute, part), regions), strict=True)
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)

    def move(self, x: Map, compute: Callable[[Part, Part, Region], None], halo: int) -> bool:
        """Replace a map by its result, which `compute` writes to the free rows next to it.

        `compute` gets the result, the map, and the region to write.

        Returns:
            False, with nothing done, if there are too few free rows for a strip and its halo.
        """
        shifts, shape = [free_rows(group) for group in x], self.shape(x)
        upwards, needed = shifts[0] > 0, min(shape.strip, x[0].shape[1]) + halo
        if any((shift if upwards else -shift) < needed for shift in shifts):
            return False
        result = list(map(moved, x, shifts))
        for _ in self.visit(x, partial(compute, Part(result)), shape, upwards=upwards):
            pass
        x[:] = result
        return True

    def shape(self, x: Map) -> BlockShape:
        """Return the shape of the strips and blocks of a map."""
        height, width = x[0].shape[1:3]
        return self.blocking(sum(group.shape[-1] for group in x), height, width)

    def _copied_strips(self, source: Map, halo: int, edges: Edges) -> Iterator[Part]:
        """Yield a copy of each strip with a halo on every side, zero outside the map.

        All have the same memory. The map may be overwritten down to the end of the last strip.
        """
        (height, width), most = source[0].shape[1:3], self.shape(source).strip
        shape = min(most, height) + 2 * halo, width + 2 * halo
        copies = [group.new_empty(len(group), *shape, group.shape[-1]) for group in source]
        step = ROWS_PER_COPY if source[0].is_cpu else shape[0]
        for top, bottom in spans(height, most, edges[0]):
            rows, end = bottom - top, min(bottom + halo, height)

            def copy_rows(span: tuple[int, int], top: int = top) -> None:
                start, end = span
                for copy, group in zip(copies, source, strict=True):
                    inside = copy[:, halo + start : halo + end, halo : halo + width]
                    inside.copy_(group[:, top + start : top + end])

            self.map_blocks(copy_rows, spans(end - top, step))
            first = halo if top == 0 else 0  # otherwise, the rows above are in place
            above = []
            for copy in copies:
                clear_outside(copy, Region(first, halo + end - top, halo, halo + width))
                above.append(copy[:, rows : rows + halo].clone())
            yield Part([copy[:, : rows + 2 * halo] for copy in copies], top - halo, -halo)
            for copy, kept in zip(copies, above, strict=True):
                copy[:, :halo] = kept

    def replace(self, x: Map, compute: Compute[Tensor], halo: int = 1) -> None:
        """Replace each block of a map by the result of `compute`."""
        for _ in self.collect(x, _written(compute, x), halo, overwritten=True):
            pass

    def write(self, source: Map, compute: Compute[Tensor], target: Map, scale: float = 1) -> None:
        """Write the result of `compute` for rows of a map to those of `target`, another map.

        `scale` is the size of `target` relative to `source`.
        """
        self.apply(source, _written(compute, target, scale))

    def apply(self, source: Map, compute: Compute[None]) -> None:
        """Call `compute` for whole rows of a map, which are not copied, with a halo of one row.

        They have as many pixels as a block. Their convolution pads the columns.
        """
        (height, width), shape = source[0].shape[1:3], self.shape(source)
        rows = max(2, shape.rows * shape.columns // width // 2 * 2)

        def on_rows(part: Part, region: Region) -> None:
            top, bottom, left, right = region
            halo = 0 if bottom - top == height else 1
            block = part.block(Region(top - halo, bottom + halo, left, right))
            compute(block, region, partial(same, padding=(1 - halo, 1)))

        for _ in self.visit(source, on_rows, BlockShape(shape.strip, rows, width).reading):
            pass


def _written(compute: Compute[Tensor], target: Map, scale: float = 1) -> Compute[None]:
    """Return a function that writes the result of `compute` to its region of a map."""
    widths = [group.shape[-1] for group in target]

    def compute_and_write(block: Tensor, region: Region, convolve: Convolve) -> None:
        result = compute(block, region, convolve)
        for part, group in zip(result.split(widths, -1), target, strict=True):
            region.scaled(scale).crop(group).copy_(part)

    return compute_and_write


def block_convolution(region: Region, height: int, width: int) -> Convolve:
    """Return a 3x3 convolution without padding for a block with a halo.

    Earlier layers may have changed the zeros outside the image, so they are set again.
    """

    def valid(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1) -> Tensor:
        halo = (x.shape[1] - (region.bottom - region.top)) // 2
        block = region.expanded(halo)
        inside = block.within(Region(0, height, 0, width))
        clear_outside(x, inside.relative_to(block.top, block.left))
        return same(x, weight, bias, (0, 0), stride=stride)

    return valid
