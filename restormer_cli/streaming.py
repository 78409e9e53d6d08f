"""Exact inference on whole images of any size, in strips of rows and bounded memory.

All of Restormer is local but the sums over pixels in its channel attention. So a block takes two
sweeps over its feature map: the first adds up the sums, the second applies the finished block.
Each strip is worked on in *cells*, pieces small enough for a core's cache, side by side on the
CPU's cores. The functions are those of the plain forward (`network`), and so is the result, to
the last bits of float summation.

Memory is one feature map a level, updated in place:

- A sweep that writes where it reads keeps a copy of the strip it is at, which also holds the rows
  above that the next strip still needs; nothing else is kept twice.
- A skip connection *is* the map that the encoder left: the decoder's input is written over it.
  Only level 1, which is decoded at twice its width, gets a second map beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .devices import free_memory
from .network import (
    Architecture,
    BlockWeights,
    Convolve,
    Output,
    Projection,
    Restormer,
    Statistics,
    TransformerBlock,
    attend,
    feed_forward,
    mixing_matrix,
    normalised,
    pixel_shuffle,
    pixel_unshuffle,
    project,
    same,
    statistics,
)

Map = list[Tensor]
"""A feature map as groups of channels, each B H W C, that lie in memory on their own."""

Result = TypeVar("Result")


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


# --- weights made ready ------------------------------------------------------------------------

ALIGNMENT = 32
"""Hidden channels are padded with zeros to a multiple of this: where rows begin in the middle of
a cache line, matrix products on CPUs take up to twice as long."""


class Packed(NamedTuple):
    """A network's weights in one precision: stages of blocks, and the convolutions between."""

    stages: dict[str, list[BlockWeights]]
    convolutions: dict[str, tuple[Tensor, Tensor | None]]


_packed: WeakKeyDictionary[Restormer, tuple[object, Packed]] = WeakKeyDictionary()


def pack(network: Restormer, dtype: torch.dtype) -> Packed:
    """The network's weights folded, padded and cast, kept for as long as they do not change."""
    token = (dtype, [(p.data_ptr(), p._version) for p in network.parameters()])
    if network not in _packed or _packed[network][0] != token:
        stages, convolutions = {}, {}
        with torch.no_grad():
            for name, module in network.named_children():
                if isinstance(module, nn.Sequential):  # a stage
                    stages[name] = [
                        pack_block(block.weights(), dtype)
                        for block in module
                        if isinstance(block, TransformerBlock)
                    ]
                else:
                    conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
                    bias = None if conv.bias is None else conv.bias.to(dtype)
                    convolutions[name] = (conv.weight.to(dtype), bias)
        _packed[network] = (token, Packed(stages, convolutions))
    return _packed[network][1]


def pack_block(w: BlockWeights, dtype: torch.dtype) -> BlockWeights:
    """A block's weights in `dtype`, with hidden channels added that stay zero."""
    missing = -w.ffn_out.weight.shape[1] % ALIGNMENT

    def cast(t: Tensor | None, rows: int = 0, columns: int = 0) -> Any:
        if t is None:
            return None
        margins = (0, columns) + (0, 0) * (t.ndim - 2) + (0, rows)
        return F.pad(t, margins[-2 * t.ndim :]).to(dtype).contiguous()

    return w._replace(
        qk=Projection(*map(cast, w.qk)),
        v=Projection(*map(cast, w.v)),
        attention_out=Output(w.attention_out.weight, cast(w.attention_out.bias)),
        gate=Projection(*(cast(t, rows=missing) for t in w.gate)),
        value=Projection(*(cast(t, rows=missing) for t in w.value)),
        ffn_out=Output(cast(w.ffn_out.weight, columns=missing), cast(w.ffn_out.bias)),
    )


# --- a sweep over a map ------------------------------------------------------------------------


def cells(top: int, bottom: int, width: int, grain: Grain) -> list[Place]:
    """A strip cut into cells."""
    return [
        Place(row, min(row + grain.rows, bottom), column, min(column + grain.columns, width))
        for row in range(top, bottom, grain.rows)
        for column in range(0, width, grain.columns)
    ]


def gather(source: Map, top: int, bottom: int, margin: int, before: Tensor | None) -> Tensor:
    """A copy of rows top..bottom of a map with a margin on every side, zeros beyond the image.

    `before` is the copy made for the strip above, if there was one: it still has the rows above
    as they were, where the map may have been overwritten.
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
    strip[:, :margin] = 0 if before is None else before[:, -2 * margin : before.shape[1] - margin]
    return strip


def convolution_at(place: Place, height: int, width: int) -> Convolve:
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


Compute = Callable[[Tensor, Place, Convolve], Result]
"""What a sweep does with a cell: given B h+2m w+2m C, its place, and the convolution for it."""


@dataclass
class Sweeper:
    """Runs functions over maps, strip by strip, the cells of a strip side by side."""

    grain: Callable[[int], Grain]
    workers: Callable[[Callable[[Place], Any], list[Place]], list[Any]]
    advance: Callable[[], None]

    def collect(self, source: Map, compute: Compute[Result], margin: int = 1) -> Iterator[Result]:
        """What `compute` gives for each cell of a map, in their order."""
        height, width = source[0].shape[1:3]
        grain = self.grain(sum(group.shape[-1] for group in source))
        strip = None
        for top in range(0, height, grain.strip):
            bottom = min(top + grain.strip, height)
            strip = gather(source, top, bottom, margin, strip)

            def one(place: Place, strip: Tensor = strip, top: int = top) -> Result:
                around = Place(
                    place.top - top,
                    place.bottom - top + 2 * margin,
                    place.left,
                    place.right + 2 * margin,
                )
                with torch.no_grad():
                    cell = around.of(strip).contiguous()
                    return compute(cell, place, convolution_at(place, height, width))

            yield from self.workers(one, cells(top, bottom, width, grain))
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

        def compute_and_write(cell: Tensor, place: Place, convolve: Convolve) -> None:
            result = compute(cell, place, convolve)
            for part, group in zip(result.split(widths, -1), target, strict=True):
                place.scaled(scale).of(group).copy_(part)

        for _ in self.collect(source, compute_and_write, margin):
            pass

    def block(self, x: Map, w: BlockWeights) -> None:
        """A transformer block, in place: one sweep for the sums, one for the rest."""

        def sums(cell: Tensor, _: Place, convolve: Convolve) -> Statistics:
            return statistics(project(normalised(cell, w.centred), w.qk, convolve), w.heads)

        matrix = mixing_matrix(reduce(add, self.collect(x, sums)), w)

        def finish(cell: Tensor, _: Place, convolve: Convolve) -> Tensor:
            v = project(normalised(cell, w.centred), w.v, convolve)
            return feed_forward(attend(cell, v, matrix, w), w, convolve)

        self.write(x, finish, x, margin=2)


def add(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of two parts of an image together."""
    return Statistics(a.gram + b.gram, a.squares + b.squares)


# --- the whole network -------------------------------------------------------------------------


def forward(
    network: Restormer,
    image: Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    grain: Callable[[int], Grain] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The plain forward's result, computed in strips.

    Args:
        network: in eval mode, on the device to run on.
        image: B C H W float32, 0..1, H and W multiples of 8, on any device.
        dtype: of the features and weights; sums over pixels and the final addition to the image
            are fp32 all the same.
        grain: how finely to cut a map of so many channels; by default as its device likes best.
        progress: called with the strips done and their number.

    Returns:
        B C' H W float32 on the network's device; not clamped.
    """
    network.check(image)
    a = network.architecture
    device = next(network.parameters()).device
    grain = grain or grain_for(device)
    p = pack(network, dtype)
    image = image.to(device)
    with torch.no_grad(), side_by_side(device) as workers:
        x0 = [image.permute(0, 2, 3, 1).to(dtype)]  # B H W in_channels
        b, height, width = x0[0].shape[:3]

        def empty(level: int) -> Map:
            side = 2 ** (level - 1)
            shape = (b, height // side, width // side, a.dim * side)
            return [torch.empty(shape, dtype=dtype, device=device)]

        maps = {level: empty(level) for level in (1, 2, 3, 4)}
        run = Sweeper(grain, workers, counter(a, height, grain, progress))

        def stage(name: str, x: Map) -> None:
            for block in p.stages[name]:
                run.block(x, block)

        def convolved(name: str, then: Callable[[Tensor], Tensor] = lambda x: x) -> Compute[Tensor]:
            return lambda cell, _, convolve: then(convolve(cell, *p.convolutions[name]))

        run.write(x0, convolved("patch_embed"), maps[1])
        stage("encoder_level1", maps[1])
        for level, name in ((2, "encoder_level2"), (3, "encoder_level3"), (4, "latent")):
            down = convolved(f"down{level - 1}_{level}", pixel_unshuffle)
            run.write(maps[level - 1], down, maps[level], scale=0.5)
            stage(name, maps[level])
        for level in (3, 2):
            skip = maps[level]

            def joined(
                cell: Tensor, place: Place, convolve: Convolve, level: int = level
            ) -> Tensor:
                up = pixel_shuffle(convolve(cell, *p.convolutions[f"up{level + 1}_{level}"]))
                both = torch.cat([up, place.scaled(2).of(maps[level][0])], -1)
                weight, bias = p.convolutions[f"reduce_chan_level{level}"]
                return F.linear(both, weight.flatten(1), bias)

            run.write(maps.pop(level + 1), joined, skip, scale=2)
            stage(f"decoder_level{level}", skip)
        y = [*empty(1), *maps[1]]
        run.write(maps.pop(2), convolved("up2_1", pixel_shuffle), y[:1], scale=2)
        stage("decoder_level1", y)
        stage("refinement", y)
        if a.dual_pixel:
            weight, bias = p.convolutions["skip_conv"]

            def with_skip(cell: Tensor, place: Place, convolve: Convolve) -> Tensor:
                x = convolve(cell, *p.convolutions["patch_embed"])
                x = F.linear(x, weight.flatten(1), bias)
                return x + torch.cat([place.of(group) for group in y], -1)

            run.write(x0, with_skip, y)
        restored = torch.empty(b, height, width, a.out_channels, device=device)
        run.write(y, convolved("output"), [restored])
        restored = restored.permute(0, 3, 1, 2)
        return restored if a.dual_pixel else restored.add_(image)


def grain_for(device: torch.device) -> Callable[[int], Grain]:
    """How finely to cut maps on a device, by their channels.

    On a CPU a cell should fit its core's cache; on a GPU it should be as large as memory allows.
    """
    if device.type == "cpu":
        return lambda channels: Grain(*(3 * (64 if channels <= 96 else 32,)))
    budget = free_memory(device) // 4

    def on_gpu(channels: int) -> Grain:
        pixels = min(max(budget // (channels * BYTES_A_CHANNEL), 1 << 14), 1 << 22)
        rows = max(2, min(512, pixels // 4096 // 2 * 2))
        return Grain(rows, rows, 4096)

    return on_gpu


def finer(grain: Callable[[int], Grain]) -> Callable[[int], Grain]:
    """The same with strips and cells a quarter as high and wide: for when memory ran out."""
    return lambda channels: Grain(*(max(2, n // 8 * 2) for n in grain(channels)))


BYTES_A_CHANNEL = 40
"""What a cell takes while it is worked on, for each pixel and channel: measured, in fp32."""


def peak_bytes(
    a: Architecture, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> int:
    """Bytes that `forward` takes at its peak for one image, beside the network and the image.

    That is when level 1 is decoded: twice the map of level 1, and that of level 2 from which the
    new half is made; the restored image; the strip at hand; and the packed weights.
    """
    pixels = height * width
    maps = (2 + 1 / 2) * a.dim * pixels * dtype.itemsize
    image = (a.in_channels * dtype.itemsize + a.out_channels * 4) * pixels
    grain = grain_for(device)(2 * a.dim)
    strip = 2 * (grain.strip + 4) * width * 2 * a.dim * dtype.itemsize
    cell = min(grain.rows * grain.columns, pixels) * 2 * a.dim * BYTES_A_CHANNEL
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    weights = sum(p.numel() for p in _on_meta(a).parameters()) * dtype.itemsize
    return int(maps + image + strip + cell * workers + weights)


@cache
def _on_meta(a: Architecture) -> Restormer:
    with torch.device("meta"):
        return Restormer(a)


def counter(
    a: Architecture,
    height: int,
    grain: Callable[[int], Grain],
    progress: Callable[[int, int], None] | None,
) -> Callable[[], None]:
    """A function to call after each strip, which reports how many are done of how many."""
    if progress is None:
        return lambda: None

    def strips(level: int, channels: int) -> int:
        return -(-(height >> (level - 1)) // grain(channels).strip)

    width = {level: a.dim << (level - 1) for level in (1, 2, 3, 4)}
    total = 2 * (a.blocks[0] + a.refinement) * strips(1, width[2])  # decoder 1 and refinement
    for level, blocks in enumerate(a.blocks, start=1):
        sides = 2 if level in (2, 3) else 1  # as encoder and decoder
        total += 2 * sides * blocks * strips(level, width[level])
    total += strips(1, a.in_channels) * (2 if a.dual_pixel else 1) + strips(1, width[2])
    for level in (1, 2, 3):  # down, and up again
        total += strips(level, width[level]) + strips(level + 1, width[level + 1])
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return advance


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Callable[..., list[Any]]]:
    """A `map` that runs on all of the CPU's threads at once, each working on its own."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield lambda function, places: [function(place) for place in places]
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield lambda function, places: list(pool.map(function, places))
    torch.set_num_threads(threads)
