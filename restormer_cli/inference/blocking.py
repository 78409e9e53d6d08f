"""Run functions over whole feature maps in strips and blocks.

A pass over a map takes one strip at a time, and the blocks of a strip in parallel. A pass that
overwrites the map that it reads copies each strip first, with a halo of neighbouring rows, and
keeps the last rows of a strip as the upper halo of the next one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product, repeat, starmap
from threading import Event
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..callbacks import Progress
from ..memory import is_out_of_memory
from ..network import Convolve, same
from .devices import free_memory, largest_tensor

MAPS_PER_BLOCK = {"cpu": 10, "gpu": 13}
"""Memory for processing a block, in multiples of its feature map (measured; counted on the meta
device, whose largest blocks are a larger part of the whole)."""

GPU_BLOCK_PIXELS = 1 << 19
"""Largest block on a GPU, which fills it; larger ones only take more memory."""

WIDEST = 4
"""Channels of the widest tensor for a block, relative to those of its feature map."""

BLOCK_BYTES = 3 << 19
"""Size of a block's feature map on a CPU (measured to be fastest with 1 MiB of cache per core)."""

ROWS_PER_COPY = 16
"""Rows of a strip that a thread of a CPU copies at a time."""


class Region(NamedTuple):
    """Rectangle of pixels: rows top..bottom and columns left..right, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def scaled(self, scale: float) -> Region:
        """Return the rectangle in the coordinates of another level."""
        return Region(*(int(edge * scale) for edge in self))

    def crop(self, x: Tensor) -> Tensor:
        """Return a view of the rectangle in B H W C."""
        return x[:, self.top : self.bottom, self.left : self.right]

    def expanded(self, halo: int) -> Region:
        """Return the rectangle with a halo on every side."""
        top, bottom, left, right = self
        return Region(top - halo, bottom + halo, left - halo, right + halo)

    def within(self, other: Region) -> Region:
        """Return the intersection with another rectangle."""
        top, bottom, left, right = other
        rows = max(self.top, top), min(self.bottom, bottom)
        return Region(*rows, max(self.left, left), min(self.right, right))

    def relative_to(self, top: int, left: int) -> Region:
        """Return the rectangle in the coordinates of a part that begins at this row and column."""
        rows = self.top - top, self.bottom - top
        return Region(*rows, self.left - left, self.right - left)


class BlockShape(NamedTuple):
    """Rows of a strip, and rows and columns of a block. All are even."""

    strip: int
    rows: int
    columns: int
    halo: bool = True  # without, a block that covers its map is not copied: convolutions pad it


Blocking = Callable[[int, int, int], BlockShape]
"""Function from the channels, height and width of a map to its block shape."""

Map = list[Tensor]
"""Feature map as groups of channels, each B H W C in its own memory."""


class Part(NamedTuple):
    """Rectangle of a feature map, which begins at a row and a column of the map."""

    groups: Map
    top: int = 0
    left: int = 0

    @property
    def region(self) -> Region:
        """Rows and columns of the map."""
        height, width = self.groups[0].shape[1:3]
        return Region(self.top, self.top + height, self.left, self.left + width)

    def crop(self, region: Region) -> Map:
        """Return views of rows and columns of the map that lie in the part."""
        return [region.relative_to(self.top, self.left).crop(group) for group in self.groups]

    def block(self, region: Region) -> Tensor:
        """Return a region of the map, contiguous B H W C, zero where it is not in the part."""
        inside = region.within(self.region)
        if inside == region:
            return joined(self.crop(region), -1).contiguous()
        first, channels = self.groups[0], [group.shape[-1] for group in self.groups]
        height, width = region.bottom - region.top, region.right - region.left
        block = first.new_empty(len(first), height, width, sum(channels))
        target = inside.relative_to(region.top, region.left)
        for piece, group in zip(
            target.crop(block).split(channels, -1), self.crop(inside), strict=True
        ):
            piece.copy_(group)
        clear_outside(block, target)
        return block


Result = TypeVar("Result")

Edges = tuple[list[int], list[int]]
"""Rows and columns that blocks do not cross."""

Compute = Callable[[Tensor, Region, Convolve], Result]
"""Function of a block with its halo, its region without the halo, and its 3x3 convolution."""


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


@dataclass
class StripRunner:
    """Run functions over feature maps strip by strip, with the blocks of a strip in parallel."""

    blocking: Blocking
    map_blocks: Callable[..., list[Any]]  # see `parallel_map`
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
        shape = self._shape(source)

        def on_block(part: Part, region: Region) -> Result:
            block = part.block(region.expanded(halo))
            return compute(block, region, block_convolution(region, height, width))

        def on_map(part: Part, region: Region) -> Result:
            return compute(part.block(region), region, same)

        if shape.rows >= height and shape.columns >= width and not any(edges) and not shape.halo:
            yield from self.visit(source, on_map)  # which has read all before anything is written
        else:
            yield from self.visit(source, on_block, halo, edges, overwritten=overwritten)

    def visit(
        self,
        source: Map,
        compute: Callable[[Part, Region], Result],
        halo: int = 0,
        edges: Edges = ([], []),
        *,
        overwritten: bool = False,
    ) -> Iterator[tuple[Region, Result]]:
        """Yield the result of `compute` for the region of each block of a map, in order.

        It gets a part of the map that contains the region, and its halo as far as it lies in the
        map. Set `overwritten` if `compute` changes the map: the part is then a copy.
        """
        parts = self._copied_strips(source, halo, edges) if overwritten else repeat(Part(source))
        for part, regions in zip(parts, self._regions(source, edges), strict=False):
            yield from zip(regions, self._map(partial(compute, part), regions), strict=True)
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)

    def _shape(self, x: Map) -> BlockShape:
        height, width = x[0].shape[1:3]
        return self.blocking(sum(group.shape[-1] for group in x), height, width)

    def _regions(self, x: Map, edges: Edges) -> Iterator[list[Region]]:
        """Yield the regions of the blocks of each strip."""
        (height, width), shape = x[0].shape[1:3], self._shape(x)
        columns = spans(width, shape.columns, edges[1])
        for top, bottom in spans(height, shape.strip, edges[0]):
            rows = [(top + start, top + end) for start, end in spans(bottom - top, shape.rows)]
            yield list(starmap(Region, (a + b for a, b in product(rows, columns))))

    def _copied_strips(self, source: Map, halo: int, edges: Edges) -> Iterator[Part]:
        """Yield a copy of each strip with a halo on every side, zero outside the map.

        All have the same memory. The map may be overwritten down to the end of the last strip.
        """
        (height, width), most = source[0].shape[1:3], self._shape(source).strip
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

            self._map(copy_rows, spans(end - top, step))
            first = halo if top == 0 else 0  # otherwise, the rows above are in place
            above = []
            for copy in copies:
                clear_outside(copy, Region(first, halo + end - top, halo, halo + width))
                above.append(copy[:, rows : rows + halo].clone())
            yield Part([copy[:, : rows + 2 * halo] for copy in copies], top - halo, -halo)
            for copy, kept in zip(copies, above, strict=True):
                copy[:, :halo] = kept

    def _map(self, function: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
        """Call a function with each item, in parallel and without gradients."""
        # These modes are per thread, and inference tensors can be changed in inference mode only.
        no_grad = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad

        def call(item: Any) -> Result:
            with no_grad():
                return function(item)

        return self.map_blocks(call, items)

    def write(
        self, source: Map, compute: Compute[Tensor], target: Map, scale: float = 1, halo: int = 1
    ) -> None:
        """Write the result of `compute` for each block to its region of `target`.

        `scale` is the size of `target` relative to `source`. Both may have groups in common, which
        must be the same tensors, not views of them.
        """
        widths = [group.shape[-1] for group in target]

        def compute_and_write(block: Tensor, region: Region, convolve: Convolve) -> None:
            result = compute(block, region, convolve)
            for part, group in zip(result.split(widths, -1), target, strict=True):
                region.scaled(scale).crop(group).copy_(part)

        overwritten = any(a is b for a, b in product(source, target))
        self.apply(source, compute_and_write, halo, overwritten=overwritten)

    def apply(
        self, source: Map, compute: Compute[None], halo: int = 1, *, overwritten: bool = False
    ) -> None:
        """Call `compute` for each block of a map, as `collect` does."""
        for _ in self.collect(source, compute, halo, overwritten=overwritten):
            pass


@contextmanager
def parallel_map(device: torch.device) -> Iterator[Callable[..., list[Any]]]:
    """Yield a `map` that uses all CPU threads, with one torch thread for each call."""

    def in_this_thread(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return [function(item) for item in items]

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield in_this_thread
        return
    pool = _start_threads(threads - 1)
    # PyTorch's own threads would busy-wait on the cores of the pool.
    torch.set_num_threads(1)
    try:
        yield in_this_thread if pool is None else partial(_map_in_threads, pool, threads)
    finally:
        torch.set_num_threads(threads)
        if pool is not None:
            pool.shutdown()


def _map_in_threads(
    pool: ThreadPoolExecutor, threads: int, function: Callable[[Any], Any], items: Sequence[Any]
) -> list[Any]:
    """Call a function with each item, in this thread and in those of a pool.

    A thread that has finished an item takes the next one, which costs less than a future for each.
    After an exception, no more are taken.
    """
    results: list[Any] = [None] * len(items)
    left = deque(enumerate(items))

    def work() -> None:
        while True:
            try:
                number, item = left.popleft()
            except IndexError:
                return
            try:
                results[number] = function(item)
            except BaseException:
                left.clear()
                raise

    others = [pool.submit(work) for _ in range(min(threads, len(items)) - 1)]
    try:
        work()
    finally:
        wait(others)
    for other in others:
        other.result()
    return results


def _start_threads(count: int) -> ThreadPoolExecutor | None:
    """Return a pool whose threads all run, or None if the limits of the process forbid it."""
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    started = Event()
    try:
        for _ in range(count):
            pool.submit(started.wait)  # a busy thread, so that the next call starts another one
    except RuntimeError as error:
        started.set()
        pool.shutdown(cancel_futures=True)
        if not is_out_of_memory(error):
            raise
        return None
    started.set()
    return pool


def joined(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate tensors; a single one is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), axis)


def block_convolution(region: Region, height: int, width: int) -> Convolve:
    """Return a 3x3 convolution without padding for a block with a halo.

    Earlier layers may have changed the zeros outside the image, so they are set again.
    """

    def valid(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1) -> Tensor:
        halo = (x.shape[1] - (region.bottom - region.top)) // 2
        block = region.expanded(halo)
        inside = block.within(Region(0, height, 0, width))
        clear_outside(x, inside.relative_to(block.top, block.left))
        return same(x, weight, bias, padding=0, stride=stride)

    return valid


def clear_outside(x: Tensor, inside: Region) -> None:
    """Set B H W C to zero outside a rectangle."""
    for part in (
        x[:, : inside.top],
        x[:, inside.bottom :],
        x[:, :, : inside.left],
        x[:, :, inside.right :],
    ):
        if part.numel():
            part.zero_()
