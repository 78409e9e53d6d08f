"""Run functions over whole feature maps in strips and blocks.

A pass over a map copies one strip at a time, with a halo of neighbouring rows and columns. It
keeps the last rows of each strip as the upper halo of the next one. A pass may therefore overwrite
the map that it reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
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

Result = TypeVar("Result")

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
        edges: tuple[list[int], list[int]] = ([], []),
    ) -> Iterator[tuple[Region, Result]]:
        """Yield the region and the result of `compute` for each block of a map, in order.

        Blocks have `halo` extra pixels on every side and do not cross `edges` (rows, columns). A
        block that covers the map has none if its shape says so.
        """
        height, width = source[0].shape[1:3]
        shape = self.blocking(sum(group.shape[-1] for group in source), height, width)
        # These modes are per thread, and inference tensors can be changed in inference mode only.
        no_grad = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad

        def on_block(strip: Tensor, top: int, region: Region) -> Result:
            rows = slice(region.top - top, region.bottom - top + 2 * halo)
            columns = slice(region.left, region.right + 2 * halo)
            with no_grad():
                block = strip[:, rows, columns].contiguous()
                return compute(block, region, block_convolution(region, height, width))

        def on_map(region: Region) -> Result:
            with no_grad():
                return compute(joined(source, -1).contiguous(), region, same)

        covers = shape.rows >= height and shape.columns >= width and not any(edges)
        if covers and not shape.halo:
            region = Region(0, height, 0, width)
            (result,) = self.map_blocks(on_map, [region])
            yield region, result
            self._count_strip()
            return
        above = None
        for top, bottom in spans(height, shape.strip, edges[0]):
            strip = _copy_strip(source, top, bottom, halo, above)
            above = strip[:, -2 * halo : strip.shape[1] - halo].clone()
            regions = [
                Region(top + start, top + end, left, right)
                for start, end in spans(bottom - top, shape.rows)
                for left, right in spans(width, shape.columns, edges[1])
            ]
            results = self.map_blocks(partial(on_block, strip, top), regions)
            del strip  # before the next one is allocated
            yield from zip(regions, results, strict=True)
            self._count_strip()

    def _count_strip(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)

    def write(
        self, source: Map, compute: Compute[Tensor], target: Map, scale: float = 1, halo: int = 1
    ) -> None:
        """Write the result of `compute` for each block to its region of `target`.

        `scale` is the size of `target` relative to `source`.
        """
        widths = [group.shape[-1] for group in target]

        def compute_and_write(block: Tensor, region: Region, convolve: Convolve) -> None:
            result = compute(block, region, convolve)
            for part, group in zip(result.split(widths, -1), target, strict=True):
                region.scaled(scale).crop(group).copy_(part)

        for _ in self.collect(source, compute_and_write, halo):
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
    pool = _start_threads(threads)
    # PyTorch's own threads would busy-wait on the cores of the pool.
    torch.set_num_threads(1)
    try:
        yield in_this_thread if pool is None else lambda f, items: list(pool.map(f, items))
    finally:
        torch.set_num_threads(threads)
        if pool is not None:
            pool.shutdown()


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


def _copy_strip(source: Map, top: int, bottom: int, halo: int, above: Tensor | None) -> Tensor:
    """Copy rows top..bottom of a map with a halo on every side, zero beyond the image.

    `above` is the upper halo, copied before the map was overwritten; None for the first strip.
    """
    b, height, width = source[0].shape[:3]
    channels = [group.shape[-1] for group in source]
    strip = source[0].new_empty(b, bottom - top + 2 * halo, width + 2 * halo, sum(channels))
    below = min(bottom + halo, height)
    end = below - top + halo
    inside = strip[:, halo:end, halo : halo + width]
    for part, group in zip(inside.split(channels, -1), source, strict=True):
        part.copy_(group[:, top:below])
    strip[:, :, :halo] = strip[:, :, halo + width :] = 0
    strip[:, end:] = 0
    strip[:, :halo] = 0 if above is None else above
    return strip


def block_convolution(region: Region, height: int, width: int) -> Convolve:
    """Return a 3x3 convolution without padding for a block with a halo.

    Earlier layers may have changed the zeros outside the image, so they are set again.
    """

    def valid(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        halo = (x.shape[1] - (region.bottom - region.top)) // 2
        outside = (
            x[:, : max(0, halo - region.top)],
            x[:, x.shape[1] - max(0, region.bottom + halo - height) :],
            x[:, :, : max(0, halo - region.left)],
            x[:, :, x.shape[2] - max(0, region.right + halo - width) :],
        )
        for part in outside:
            part.zero_()
        return same(x, weight, bias, padding=0)

    return valid
