"""One image through a network: padding, whole or in tiles, precision, and a look at the result."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..callbacks import Notify, Progress
from ..errors import ImageError
from ..imaging import psnr
from ..network import MULTIPLE, Architecture, Restormer
from . import strips
from .blocking import Cut
from .config import tile_size
from .devices import PRECISIONS, free_memory
from .ensemble import Run, ensembled, orientations
from .tiling import starts, tiled


def padded(x: Tensor) -> Tensor:
    """Reflect B C H W at the right and bottom until both sides are multiples of 8.

    A reflection has no more than size - 1 pixels to give; what is still missing in tiny images
    repeats the last row or column.
    """
    for axis in (-2, -1):
        size = x.shape[axis]
        missing = -size % MULTIPLE
        reflected = min(missing, size - 1)
        for amount, mode in ((reflected, "reflect"), (missing - reflected, "replicate")):
            if amount:
                x = F.pad(x, (0, 0, 0, amount) if axis == -2 else (0, amount, 0, 0), mode=mode)
    return x


CLOSE = 50.0
"""PSNR in dB to fp32 that a lower precision must reach to be used unasked."""

PROBE = 128
"""Side in pixels of the part of an image that this is measured on."""


def deviation(network: Restormer, x: Tensor, precision: str) -> float:
    """PSNR in dB of what the middle of `x` (B C H W) becomes in a precision, against fp32."""
    top, left = (max(0, (side - PROBE) // 2) for side in x.shape[-2:])
    middle = x[..., top : top + PROBE, left : left + PROBE]
    exact = restore(network, middle)
    return psnr(restore(network, middle, precision=precision), exact)


def peak_bytes(
    a: Architecture, size: tuple[int, int], tile: int, dtype: torch.dtype, device: torch.device
) -> int:
    """Bytes that a restoration takes at its peak on the network's device, beside the network.

    Of tiles the image and the canvas stay on the host: they count where that is the device, with
    the copies that are made of the result on its way to samples.
    """
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in size)
    if not tile:
        # On the CPU the image given is the one on the device, unless padding makes another.
        other = device.type == "cpu" and (height, width) != size
        given = other * a.in_channels * 4 * height * width
        return given + strips.peak_bytes(a, height, width, dtype, device)
    one = strips.peak_bytes(a, min(tile, height), min(tile, width), dtype, device)
    if device.type != "cpu":
        return one
    return one + (a.in_channels + 4 * a.out_channels + 1) * 4 * height * width


def pixels_through(height: int, width: int, tile: int, overlap: int) -> int:
    """How many pixels the network is given for an image: those of overlaps count as often."""
    return math.prod(
        len(starts(side, tile, overlap)) * min(tile, side) if tile else side
        for side in (-(-side // MULTIPLE) * MULTIPLE for side in (height, width))
    )


def tiles_at_once(network: Restormer, side: int, dtype: torch.dtype) -> int:
    """How many tiles to run as one batch: a GPU is idle with one small tile, a CPU is not."""
    device = next(network.parameters()).device
    if device.type == "cpu":
        return 1
    each = strips.peak_bytes(network.architecture, side, side, dtype, device)
    return max(1, min(16, free_memory(device) // 2 // each))


def restore(
    network: Restormer,
    x: Tensor,
    *,
    tile: int | None = None,
    overlap: int = 32,
    precision: str = "fp32",
    window: int | None = None,
    ensemble: bool = False,
    grain: Cut | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> Tensor:
    """Restore images of any size: pad, run, crop, clamp.

    Args:
        network: in eval mode, on the device to run on.
        x: B C H W float32, 0..1, on any device.
        tile: side of a tile in pixels (rounded up to a multiple of 8), each with its own channel
            attention; None or 0: the image whole.
        overlap: pixels that neighbouring tiles share.
        precision: "fp32", "bf16" or "fp16", of everything but the final addition to the image.
        window: side in pixels (rounded up to a multiple of 8) of the windows over which attention
            is measured: test-time local conversion, see `windows`; None: everywhere.
        ensemble: whether to average over flips and rotations, of each tile or of the whole: see
            `ensemble`; it takes as many times as long.
        grain: how finely the strips are cut (see `cutting`); None: as the device likes best.
        progress: called with the strips or tiles done and their number.
        notify: told in a sentence what did not go as asked.

    Returns:
        B C' H W float32, 0..1, on the device of `x`; C' is the network's number of outputs.

    Raises:
        UsageError: `tile` and `overlap` do not fit.
        ImageError: the network gave NaN or infinite values even in fp32.
    """
    height, width = x.shape[-2:]
    window = window and -(-window // MULTIPLE) * MULTIPLE
    image = padded(x)

    def run(precision: str) -> Tensor:
        def once(part: Tensor, progress: Progress | None = None, /) -> Tensor:
            dtype = PRECISIONS[precision]
            return strips.forward(
                network, part, dtype, window=window, grain=grain, progress=progress
            )

        forward: Run = once
        if ensemble:
            forward = ensembled(once, orientations(network.architecture))
        if tile:
            side = tile_size(tile, overlap)
            batch = tiles_at_once(network, side, PRECISIONS[precision])
            return tiled(image, forward, tile=side, overlap=overlap, batch=batch, progress=progress)
        return forward(image, progress)

    restored = run(precision)[..., :height, :width]
    if precision != "fp32" and not torch.isfinite(restored).all():
        if notify:
            notify(f"{precision} overflowed; restored again in fp32")
        restored = run("fp32")[..., :height, :width]
    if not torch.isfinite(restored).all():
        raise ImageError(
            "the network gave NaN or infinite values, even in fp32",
            "Nothing was written. The weights may be damaged: try `restormer weights verify`.",
        )
    return restored.clamp_(0, 1).to(x.device)
