"""Restore a tensor, whole or in tiles, in a given precision, and check the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..callbacks import Notify, Progress
from ..errors import ImageError
from ..imaging import psnr
from ..network import Restormer, round_up
from . import strips
from .arrays import NOT_FINITE, check_tensor
from .blocking import WIDEST, Blocking, joined, smaller_blocks
from .config import check_precision, tile_size, whole_number, window_size
from .devices import PRECISIONS, free_memory, largest_tensor, sleep_until_done
from .ensemble import ensembled, orientations

PROBE = 128
"""Side in pixels of the crop on which precisions are compared."""


def restore(
    network: Restormer,
    x: Tensor,
    *,
    tile: int | None = None,
    overlap: int = 32,
    precision: str = "fp32",
    window: int | None = None,
    ensemble: bool = False,
    blocking: Blocking | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> Tensor:
    """Restore images of any size.

    Args:
        network: in eval mode, on the device to run on.
        x: B C H W float32, 0..1, on any device.
        tile: side of a tile in pixels, rounded up to a multiple of 8; each tile has its own
            channel attention. None or 0 for the whole image.
        overlap: number of pixels shared by neighbouring tiles.
        precision: "fp32", "bf16" or "fp16", for everything except the final addition to the image.
        window: side in pixels, rounded up to a multiple of 8, of the windows for attention
            statistics (TLC, see `tlc`); None for the whole image.
        ensemble: average over flips and rotations of each tile or of the whole image: 8 times the
            work, or 4 for dual-pixel networks.
        blocking: shapes of strips and blocks; by default those that suit the device.
        progress: called with the number of finished strips or tiles and their total.
        notify: called with a message if the image is restored again in fp32.

    Returns:
        B C' H W float32, 0..1, on the device of `x`; C' is the network's number of outputs.

    Raises:
        UsageError: the precision is unknown, `tile` or `window` is invalid, or `overlap` does not
            fit the tile.
        ImageError: `x` is no such tensor, or the result is not finite, even in fp32.
    """
    check_tensor(x)
    check_precision(precision, PRECISIONS)
    tile = whole_number("tile", tile or 0, 0, ", or None for the whole image")
    height, width = x.shape[-2:]
    window = window_size(window)
    image = padded(x)

    requested = precision

    def run(precision: str) -> Tensor:
        dtype = PRECISIONS[precision]
        # The shapes suit the type that was asked for: a wider one needs more memory.
        shapes = smaller_blocks(blocking) if blocking and precision != requested else blocking

        def once(part: Tensor, progress: Progress | None) -> Tensor:
            return strips.forward(
                network, part, dtype, window=window, blocking=shapes, progress=progress
            )

        forward = ensembled(once, orientations(network.architecture)) if ensemble else once
        if not tile:
            return forward(image, progress)
        side = tile_size(tile, overlap)
        return tiled(
            image,
            lambda part: forward(part, None),
            tile=side,
            overlap=overlap,
            batch=tiles_at_once(network, side, dtype),
            progress=progress,
        )

    for attempt in dict.fromkeys((precision, "fp32")):
        restored = run(attempt)[..., :height, :width]
        sleep_until_done(restored.device)
        if torch.isfinite(restored).all():
            return restored.clamp_(0, 1).to(x.device)
        if attempt != "fp32" and notify:
            notify(f"{attempt} overflowed; restored again in fp32")
    if not torch.isfinite(x).all():
        raise ImageError(*NOT_FINITE)
    raise ImageError(
        "the network's output contains NaN or infinite values, even in fp32",
        "The weights may be damaged: try `restormer weights verify`.",
    )


def padded(x: Tensor) -> Tensor:
    """Reflect B C H W at the right and bottom until both sides are multiples of 8.

    A reflection provides at most size - 1 pixels; beyond that the last row or column is repeated.
    """
    # The order of samples in memory, by which kernels are chosen. Padding on a GPU may change it.
    by_pixels = x.is_contiguous(memory_format=torch.channels_last)
    for axis in (-2, -1):
        size = x.shape[axis]
        missing = round_up(size) - size
        reflected = min(missing, size - 1)
        for amount, mode in ((reflected, "reflect"), (missing - reflected, "replicate")):
            if amount:
                x = F.pad(x, (0, 0, 0, amount) if axis == -2 else (0, amount, 0, 0), mode=mode)
    if by_pixels:
        x = x.contiguous(memory_format=torch.channels_last)
    return x


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the first pixels of evenly spaced tiles that share at least `overlap` pixels.

    `overlap` is smaller than `tile`.
    """
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def blend_weights(length: int, tile: int, overlap: int) -> Tensor:
    """Return the weight of each tile at its pixels along one axis: tiles x min(tile, length).

    Weights are raised cosines over the pixels that two neighbours share, and sum to one at every
    pixel of the axis. In two dimensions, the weights of both axes are multiplied.
    """
    begins = starts(length, tile, overlap)
    tile = min(tile, length)
    pixel = torch.arange(tile, dtype=torch.float64) + 0.5
    raw = torch.ones(len(begins), tile, dtype=torch.float64)
    for i in range(1, len(begins)):
        if (shared := begins[i - 1] + tile - begins[i]) > 0:
            rise = torch.sin((pixel / shared).clamp(max=1) * (math.pi / 2)) ** 2
            raw[i] *= rise
            raw[i - 1] *= rise.flip(0)
    total = torch.zeros(length, dtype=torch.float64)
    for begin, row in zip(begins, raw, strict=True):
        total[begin : begin + tile] += row
    for begin, row in zip(begins, raw, strict=True):
        row /= total[begin : begin + tile]
    return raw.float()


def tiled(
    x: Tensor,
    run: Callable[[Tensor], Tensor],
    *,
    tile: int,
    overlap: int,
    batch: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Run a function on overlapping tiles of an image and blend the results.

    Args:
        x: B C H W, on any device.
        run: maps B' C h w to B' C' h w, where h and w are `tile` or the image's side if smaller.
        tile: side of a tile in pixels.
        overlap: minimum number of pixels that neighbours share, smaller than `tile`.
        batch: number of tiles in one call of `run`.
        progress: called with the number of finished tiles and their total after each batch.

    Returns:
        B C' H W float32, on the device of `x`.
    """
    height, width = x.shape[-2:]
    down, across = (blend_weights(side, tile, overlap) for side in (height, width))
    tops, lefts = starts(height, tile, overlap), starts(width, tile, overlap)
    tiles = [
        (..., slice(top, top + down.shape[1]), slice(left, left + across.shape[1]))
        for top, left in product(tops, lefts)
    ]
    axis_weights = list(product(down, across))
    canvas: Tensor | None = None
    total = x.new_zeros(height, width, dtype=torch.float32)
    for first in range(0, len(tiles), batch):
        group = tiles[first : first + batch]
        results = run(joined([x[tile] for tile in group], 0)).to(x.device, torch.float32)
        for number, result in enumerate(results.split(len(x)), first):
            if canvas is None:
                canvas = result.new_zeros(len(x), result.shape[1], height, width)
            tile_region, (row, column) = tiles[number], axis_weights[number]
            weight = (row.unsqueeze(1) * column).to(x.device)  # h w
            total[tile_region] += weight
            # This running mean returns equal results unchanged, bit for bit.
            canvas[tile_region] += (result - canvas[tile_region]) * (weight / total[tile_region])
        if progress:
            progress(first + len(group), len(tiles))
    assert canvas is not None  # noqa: S101 - there is always one tile
    return canvas


def psnr_to_fp32(network: Restormer, x: Tensor, precision: str) -> float:
    """Return the PSNR in dB between a precision and fp32 on the middle of `x`, B C H W."""
    rows, columns = probe_region(*x.shape[-2:])
    middle = x[..., rows, columns]
    exact = restore(network, middle)
    return psnr(restore(network, middle, precision=precision), exact)


def probe_region(height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of the middle of an image on which precisions are compared."""
    top, left = (max(0, (side - PROBE) // 2) for side in (height, width))
    return slice(top, top + PROBE), slice(left, left + PROBE)


def psnr_to_cpu(network: Restormer) -> float:
    """Return the PSNR in dB between the network's device and a CPU, on a half flat image."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, network.architecture.in_channels, PROBE, PROBE, generator=generator)
    x[..., : PROBE // 2] = 0.5
    return psnr(restore(network, x), restore(deepcopy(network).cpu(), x))


def tiles_at_once(network: Restormer, side: int, dtype: torch.dtype) -> int:
    """Return the number of tiles to run as one batch: one on a CPU, up to 16 on a GPU."""
    device = next(network.parameters()).device
    if device.type == "cpu":
        return 1
    tile_bytes = strips.peak_bytes(network, side, side, dtype)
    fitting = [16, free_memory(device) // 2 // tile_bytes]
    if (limit := largest_tensor(device)) is not None:
        widest = WIDEST * 2 * network.architecture.dim * 4  # bytes of a pixel in a block in fp32
        fitting.append(limit // (side * side * widest))
    return max(1, min(fitting))


def is_representable(network: Restormer, size: tuple[int, int], dtype: torch.dtype) -> bool:
    """Return True if the feature maps of an image of this size may be tensors of the device."""
    limit = largest_tensor(next(network.parameters()).device)
    value = max(network.architecture.dim * dtype.itemsize, network.architecture.in_channels * 4)
    return limit is None or math.prod(size) * value <= limit


def peak_bytes(network: Restormer, size: tuple[int, int], tile: int, dtype: torch.dtype) -> int:
    """Return the peak memory of a restoration on the network's device, without the network.

    With tiles, the image, the canvas and copies of the result are in host memory. They count only
    if the device is a CPU. Without tiles, they are on the device.
    """
    height, width = map(round_up, size)
    rows, columns = (min(tile or side, side) for side in (height, width))
    a, on_cpu = network.architecture, next(network.parameters()).device.type == "cpu"
    channels = 0
    if tile:
        channels = a.in_channels + 4 * a.out_channels + 1 if on_cpu else 0
    elif (height, width) != size:  # an image that needs no padding is not copied
        channels = a.in_channels
    if a.in_channels == 1 and not (on_cpu or tile):
        channels += 4  # the other two channels of an RGB image, and two results
    return strips.peak_bytes(network, rows, columns, dtype) + channels * 4 * height * width


def pixels_processed(height: int, width: int, tile: int, overlap: int) -> int:
    """Return the number of pixels that the network processes for an image, including overlaps."""
    return math.prod(
        len(starts(side, tile, overlap)) * min(tile, side) if tile else side
        for side in map(round_up, (height, width))
    )
