"""Restore a tensor, whole or in tiles, in a given precision, and check the result."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from ..callbacks import Notify, Progress
from ..errors import ImageError
from ..imaging import psnr
from ..network import Restormer, round_up
from . import strips
from .blocking import WIDEST, Blocking, smaller_blocks
from .config import tile_size
from .devices import PRECISIONS, free_memory, largest_tensor, sleep_until_done
from .ensemble import ensembled, orientations
from .tiling import starts, tiled

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
        UsageError: `tile` is too small, or `overlap` does not fit it.
        ImageError: the result contains NaN or infinite values, even in fp32.
    """
    height, width = x.shape[-2:]
    window = window and round_up(window)
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
    raise ImageError(
        "the network's output contains NaN or infinite values, even in fp32",
        "Nothing was written. The weights may be damaged: try `restormer weights verify`.",
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
