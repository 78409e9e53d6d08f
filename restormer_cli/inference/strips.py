"""Exact inference on whole images of any size, in strips of rows and bounded memory.

All of Restormer is local but the sums over pixels in its channel attention. So a block takes two
sweeps over its feature map: the first adds up the sums, the second applies the finished block.
Each strip is worked on in *cells*, pieces small enough for a core's cache, side by side on the
CPU's cores. The functions are those of the plain forward (`network`), and so is the result, to
the last bits of float summation.

Memory is one feature map a level, updated in place. A skip connection *is* the map that the
encoder left: the decoder's input is written over it. Only level 1, which is decoded at twice its
width, gets a second map beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..callbacks import Progress
from ..network import (
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
    normalised,
    pixel_shuffle,
    pixel_unshuffle,
    project,
    statistics,
)
from .blocking import COPIES, Compute, Cut, Map, Region, StripRunner, grain_for, side_by_side, spans
from .tlc import Windows

# --- packing -------------------------------------------------------------------------------------

ALIGNMENT = 16
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


# --- streaming -----------------------------------------------------------------------------------


def forward(
    network: Restormer,
    image: Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    window: int | None = None,
    grain: Cut | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The plain forward's result, computed in strips.

    Args:
        network: in eval mode, on the device to run on.
        image: B C H W float32, 0..1, H and W multiples of 8, on any device.
        dtype: of the features and weights; sums over pixels and the final addition to the image
            are fp32 all the same.
        window: side in pixels, a multiple of 8, of the windows over which attention is measured
            (test-time local conversion, see `Windows`); None: the whole image.
        grain: how finely to cut a map of so many channels, height and width; by default as its
            device likes best.
        progress: called with the strips done and their number.

    Returns:
        B C' H W float32 on the network's device; not clamped.
    """
    network.check(image)
    a = network.architecture
    device = next(network.parameters()).device
    grain = grain or grain_for(device, dtype)
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
        run = StripRunner(grain, workers, counter(a, (height, width), window, grain, progress))

        def stage(name: str, x: Map) -> None:
            scale = x[0].shape[1] / height
            windows = Windows.over(x[0].shape[1], x[0].shape[2], window and int(window * scale))
            for weights in p.stages[name]:
                block(run, x, weights, windows)

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
                cell: Tensor, place: Region, convolve: Convolve, level: int = level
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

            def with_skip(cell: Tensor, place: Region, convolve: Convolve) -> Tensor:
                x = convolve(cell, *p.convolutions["patch_embed"])
                x = F.linear(x, weight.flatten(1), bias)
                return x + torch.cat([place.of(group) for group in y], -1)

            run.write(x0, with_skip, y)
        restored = torch.empty(b, height, width, a.out_channels, device=device)
        run.write(y, convolved("output"), [restored])
        restored = restored.permute(0, 3, 1, 2)
        return restored if a.dual_pixel else restored.add_(image)


def block(run: StripRunner, x: Map, w: BlockWeights, windows: Windows) -> None:
    """A transformer block, in place: one sweep for the sums, one for the rest."""

    def sums(cell: Tensor, _: Region, convolve: Convolve) -> Statistics:
        return statistics(project(normalised(cell, w.centred), w.qk, convolve), w.heads)

    mixed = windows.mixer(run.collect(x, sums, edges=windows.edges), w)

    def finish(cell: Tensor, place: Region, convolve: Convolve) -> Tensor:
        v = project(normalised(cell, w.centred), w.v, convolve)
        return feed_forward(attend(cell, mixed(v, place), w), w, convolve)

    run.write(x, finish, x, margin=2)


def peak_bytes(
    a: Architecture, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> int:
    """Bytes that `forward` takes at its peak for one image, beside the network.

    That is when level 1 is decoded: twice the map of level 1, and that of level 2 from which the
    new half is made; the image on the device, as given and in `dtype`, and the restored one; the
    strip at hand and the cells at work; and the packed weights.
    """
    pixels = height * width
    maps = (2 + 1 / 2) * a.dim * pixels * dtype.itemsize
    image = (a.in_channels * (4 + dtype.itemsize) + a.out_channels * 4) * pixels
    grain = grain_for(device, dtype)(2 * a.dim, height, width)
    strip = (grain.strip + 4) * width * 2 * a.dim * dtype.itemsize
    cell = min(grain.rows * grain.columns, pixels) * 2 * a.dim * dtype.itemsize * COPIES
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    weights = sum(p.numel() for p in _on_meta(a).parameters()) * dtype.itemsize
    return int(maps + image + strip + cell * workers + weights)


@cache
def _on_meta(a: Architecture) -> Restormer:
    with torch.device("meta"):
        return Restormer(a)


def counter(
    a: Architecture,
    size: tuple[int, int],
    window: int | None,
    grain: Cut,
    progress: Progress | None,
) -> Callable[[], None]:
    """A function to call after each strip, which reports how many are done of how many."""
    if progress is None:
        return lambda: None

    def strips(level: int, channels: int, windows: int | None = None) -> int:
        height, width = (side >> (level - 1) for side in size)
        edges = Windows.over(height, width, windows and windows >> (level - 1)).edges[0]
        return len(spans(height, grain(channels, height, width).strip, edges))

    def block_strips(level: int, channels: int) -> int:
        return strips(level, channels, window) + strips(level, channels)

    width = {level: a.dim << (level - 1) for level in (1, 2, 3, 4)}
    decoded = a.blocks[0] + a.refinement  # at twice the width of level 1
    total = decoded * block_strips(1, width[2])
    for level, blocks in enumerate(a.blocks, start=1):
        sides = 2 if level in (2, 3) else 1  # as encoder and decoder
        total += sides * blocks * block_strips(level, width[level])
    total += strips(1, a.in_channels) * (2 if a.dual_pixel else 1) + strips(1, width[2])
    for level in (1, 2, 3):  # down, and up again
        total += strips(level, width[level]) + strips(level + 1, width[level + 1])
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return advance
