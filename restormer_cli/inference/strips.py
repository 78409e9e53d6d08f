"""Exact inference on whole images of any size, in strips of rows and bounded memory.

Restormer is local except for the sums over pixels in its channel attention. A transformer block
therefore takes two passes over its feature map: the first computes the sums, the second applies
the block. Each strip is divided into blocks that run in parallel. The result equals that of
`Restormer.forward`, which uses the same functions except those of `resampling`, up to the rounding
of sums.

There is one feature map for each level, updated in place. The decoder overwrites the skip
connections. Level 1 is decoded at twice its width and gets a second map.
"""

from __future__ import annotations

from itertools import starmap
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..callbacks import Progress
from ..network import (
    LEVELS,
    Architecture,
    BlockWeights,
    Convolve,
    Output,
    Projection,
    Restormer,
    Statistics,
    TransformerBlock,
    attend,
    feature_maps_bytes,
    feed_forward,
    normalised,
    project,
    statistics,
)
from .blocking import (
    MAPS_PER_BLOCK,
    Blocking,
    Compute,
    Map,
    Region,
    StripRunner,
    blocking_for,
    empty_beside,
    empty_group,
    parallel_map,
    spans,
)
from .devices import full_precision
from .fusion.dispatch import Fusion, fusion_for
from .fusion.passes import FusedPasses
from .resampling import Convolution, pack_convolutions, upsample
from .tlc import Mixing, Windows, mixed

ALIGNMENT = 16
"""Hidden channels are padded with zeros to a multiple of this, so that rows start at a cache line:
otherwise matrix products on CPUs take up to twice as long."""

SAMPLES = 64
"""Values of each parameter that are compared, to notice that weights have changed."""


def forward(
    network: Restormer,
    image: Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    window: int | None = None,
    blocking: Blocking | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Compute the result of `network(image)` in strips.

    Args:
        network: in eval mode, on the device to run on.
        image: B C H W float32, 0..1, H and W multiples of 8, on any device.
        dtype: type of features and weights. Sums over pixels and the final addition to the image
            are always fp32.
        window: side in pixels, a multiple of 8, of the attention windows (see `Windows`).
        blocking: shapes of strips and blocks; by default those that suit the device.
        progress: called with the number of finished strips and their total.

    Returns:
        B C' H W float32 on the network's device, not clamped.
    """
    network.check(image)
    a = network.architecture
    device = next(network.parameters()).device
    b, _, height, width = image.shape
    fusion = fusion_for(a, (height, width), dtype, device, window)
    blocking = blocking or blocking_for(device, dtype)
    stages, convolutions = pack(network, dtype, fusion)
    image = image.to(device)
    total = count_strips(a, (height, width), window, blocking)

    def empty(level: int) -> Map:
        side = 2 ** (level - 1)
        rows, columns, channels = height // side, width // side, a.dim * side
        room = 0
        if fusion is not None and device.type == "cpu":  # whose fused blocks move maps
            strip = max(blocking(n * channels, rows, columns).strip for n in (1, 2))
            room = min(strip, rows) + FusedPasses.HALO
        return [empty_group((b, rows, columns, channels), room, dtype, device)]

    with torch.no_grad(), full_precision(), parallel_map(device) as map_blocks:
        run = StripRunner(blocking, map_blocks, progress, total)
        x = [image.permute(0, 2, 3, 1).to(dtype)]  # B H W in_channels
        maps = {level: empty(level) for level in range(1, LEVELS + 1)}

        def stage(name: str, x: Map) -> None:
            rows, columns = x[0].shape[1:3]
            windows = Windows.over(rows, columns, window and window * rows // height)
            for weights in stages[name]:
                transform(run, x, weights, windows)

        def conv(name: str, stride: int = 1) -> Compute[Tensor]:
            return lambda block, _, convolve: convolve(block, *convolutions[name], stride=stride)

        def up(level: int, target: Tensor) -> Compute[None]:
            pixels = conv(f"up{level + 1}_{level}")
            skip = convolutions.get(f"reduce_chan_level{level}")

            def compute(block: Tensor, region: Region, convolve: Convolve) -> None:
                part = region.scaled(2).crop(target)
                upsample(pixels(block, region, convolve), part, skip)

            return compute

        run.write(x, conv("patch_embed"), maps[1])
        if not a.dual_pixel:
            x.clear()
        stage("encoder_level1", maps[1])
        for level, name in ((2, "encoder_level2"), (3, "encoder_level3"), (4, "latent")):
            down = conv(f"down{level - 1}_{level}", stride=2)
            run.write(maps[level - 1], down, maps[level], scale=0.5)
            stage(name, maps[level])
        for level in (3, 2):
            run.apply(maps.pop(level + 1), up(level, maps[level][0]))
            stage(f"decoder_level{level}", maps[level])
        y = [*map(empty_beside, maps[1]), *maps[1]]
        run.apply(maps.pop(2), up(1, y[0]))
        stage("decoder_level1", y)
        stage("refinement", y)
        if a.dual_pixel:

            def with_skip(block: Tensor, region: Region, convolve: Convolve) -> Tensor:
                embedded = convolve(block, *convolutions["patch_embed"])
                features = torch.cat([region.crop(group) for group in y], -1)
                return F.linear(embedded, *convolutions["skip_conv"]) + features

            run.write(x, with_skip, y)
        restored = torch.empty(b, height, width, a.out_channels, device=device)
        run.write(y, conv("output"), [restored])
        restored = restored.permute(0, 3, 1, 2)
        return restored if a.dual_pixel else restored.add_(image)


def transform(run: StripRunner, x: Map, w: Block, windows: Windows) -> None:
    """Apply a transformer block to a map in place, in two passes."""
    if isinstance(w, FusedPasses):
        w.transform(run, x, windows)
        return
    sums = run.collect(x, sums_pass(w), edges=windows.edges)
    mixing = windows.mixing(sums, w, lambda matrices: matrices.to(x[0].dtype))
    run.replace(x, finish_pass(w, mixing), halo=2)


def sums_pass(w: BlockWeights) -> Compute[Statistics]:
    """Return the first pass over a block's map, which needs a halo of one pixel."""

    def compute(block: Tensor, _: Region, convolve: Convolve) -> Statistics:
        return statistics(project(normalised(block, w.centred), w.qk, convolve), w.heads)

    return compute


def finish_pass(w: BlockWeights, mixing: Mixing[Tensor]) -> Compute[Tensor]:
    """Return the second pass over a block's map, which needs a halo of two pixels."""

    def compute(block: Tensor, region: Region, convolve: Convolve) -> Tensor:
        v = project(normalised(block, w.centred), w.v, convolve)
        return feed_forward(attend(block, mixed(v, region, mixing), w), w, convolve)

    return compute


def count_strips(
    a: Architecture, size: tuple[int, int], window: int | None, blocking: Blocking
) -> int:
    """Return the number of strips in all passes of `forward`."""

    def strips(
        level: int, channels: int, window: int | None = None, *, overwritten: bool = False
    ) -> int:
        height, width = (side >> (level - 1) for side in size)
        edges, _ = Windows.over(height, width, window and window >> (level - 1)).edges
        shape = blocking(channels, height, width)
        return len(spans(height, (shape if overwritten else shape.reading).strip, edges))

    dim = {level: a.dim << (level - 1) for level in range(1, LEVELS + 1)}
    stages = [(level, dim[level], a.blocks[level - 1]) for level in (1, 2, 3, 4, 3, 2)]
    stages.append((1, dim[2], a.blocks[0] + a.refinement))
    between = [(1, a.in_channels)] * (2 if a.dual_pixel else 1)  # patch embedding, and skip
    between += [(level, dim[level]) for level in (1, 2, 3, 4, 3, 2)]  # from level to level
    between.append((1, dim[2]))  # output
    return sum(starmap(strips, between)) + sum(
        blocks * (strips(level, channels, window) + strips(level, channels, overwritten=True))
        for level, channels, blocks in stages
    )


def peak_bytes(network: Restormer, height: int, width: int, dtype: torch.dtype) -> int:
    """Return the peak memory of `forward` for one image, without the network.

    This is the memory of the feature maps, the image, its copy in `dtype`, the restored image, a
    strip, the blocks that run in parallel, and the packed weights.
    """
    a, device = network.architecture, next(network.parameters()).device
    pixels = height * width
    maps = feature_maps_bytes(a, height, width, dtype.itemsize)
    images = (a.in_channels * (4 + dtype.itemsize) + a.out_channels * 4) * pixels
    shape = blocking_for(device, dtype)(2 * a.dim, height, width)
    strip = (min(shape.strip, height) + 4) * width * 2 * a.dim * dtype.itemsize
    block = min(shape.rows * shape.columns, pixels) * 2 * a.dim * dtype.itemsize
    if device.type == "cpu":
        blocks = block * MAPS_PER_BLOCK["cpu"] * torch.get_num_threads()
    else:
        blocks = block * MAPS_PER_BLOCK["gpu"]
    parameters = sum(p.numel() for p in network.parameters())
    return int(maps + images + strip + blocks + parameters * dtype.itemsize)


Block = BlockWeights | FusedPasses

Packed = tuple[dict[str, list[Block]], dict[str, Convolution]]
"""Weights of a network in one precision: those of the stages of blocks, and of convolutions."""

_packed: WeakKeyDictionary[Restormer, tuple[object, Packed]] = WeakKeyDictionary()


def pack(network: Restormer, dtype: torch.dtype, fusion: Fusion | None = None) -> Packed:
    """Return the network's weights, folded, padded and cast; cached until the weights change."""
    parameters = [p.detach() for p in network.parameters()]
    versions = [(p.data_ptr(), None if p.is_inference() else p._version) for p in parameters]
    # Fused optimizers leave the version of a parameter as it is. A step changes every part of it,
    # and reading all of a large network would take hundredths of a second for each tile.
    norm = nn.utils.get_total_norm([p.flatten()[:SAMPLES] for p in parameters])
    token = (dtype, fusion, versions, None if norm.is_meta else norm.item())
    if network not in _packed or _packed[network][0] != token:
        stages = {}
        with torch.no_grad():
            for name, module in network.named_children():
                if isinstance(module, nn.Sequential):
                    blocks = [m.weights() for m in module if isinstance(m, TransformerBlock)]
                    stages[name] = [
                        (fusion and fusion.block(w)) or pack_block(w, dtype) for w in blocks
                    ]
            convolutions = pack_convolutions(network, dtype)
        _packed[network] = (token, (stages, convolutions))
    return _packed[network][1]


def pack_block(w: BlockWeights, dtype: torch.dtype) -> BlockWeights:
    """Cast a block's weights and pad its hidden channels with zeros."""
    missing = -w.ffn_out.weight.shape[1] % ALIGNMENT

    def cast(t: Tensor | None, rows: int = 0, columns: int = 0) -> Any:
        if t is None:
            return None
        padding = (0, columns) + (0, 0) * (t.ndim - 2) + (0, rows)
        return F.pad(t, padding[-2 * t.ndim :]).to(dtype).contiguous()

    return w._replace(
        qk=Projection(*map(cast, w.qk)),
        v=Projection(*map(cast, w.v)),
        attention_out=Output(w.attention_out.weight, cast(w.attention_out.bias)),
        gate=Projection(*(cast(t, rows=missing) for t in w.gate)),
        value=Projection(*(cast(t, rows=missing) for t in w.value)),
        ffn_out=Output(cast(w.ffn_out.weight, columns=missing), cast(w.ffn_out.bias)),
    )
