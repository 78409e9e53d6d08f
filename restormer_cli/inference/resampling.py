"""Changes of resolution between the levels, which move whole pixels in memory.

The network convolves, and then moves squares of 2 x 2 pixels to channels or back (3, "Overall
Pipeline"). On a CPU, moving single values takes several times as long as the convolution. Here, the
weights have another order: a convolution gives the channels of the level below as they are, or four
pixels of the level above one after another.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..network import Restormer

Convolution = tuple[Tensor, "Tensor | None"]
"""Weight, D C followed by the kernel's height and width, and bias, D."""


def pack_convolutions(network: Restormer, dtype: torch.dtype) -> dict[str, Convolution]:
    """Return the convolutions outside the transformer blocks, by the names of their modules.

    Those named "down" are for a stride of 2, those named "up" for `upsample`. Of each 1x1
    convolution after an upsampling, only the part for the skip connection is left; the other part
    is applied to the weights of the upsampling.
    """
    packed: dict[str, Convolution] = {}
    for name, module in network.named_children():
        if isinstance(module, nn.Sequential):  # transformer blocks
            continue
        conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
        weight, bias = conv.weight, conv.bias
        if name.startswith("down"):
            weight = with_unshuffle(weight)
        elif name.startswith("up"):
            weight = rearrange(weight, "(c i j) k y x -> (i j c) k y x", i=2, j=2)
        elif name.startswith("reduce_chan"):
            (up, (upsampling, _)) = packed.popitem()  # `Restormer` has it before
            upsampled, weight = weight.flatten(1).chunk(2, 1)
            packed[up] = (folded(upsampled, upsampling), None)
        elif weight.shape[2:] == (1, 1):
            weight = weight.flatten(1)
        packed[name] = (weight, bias)
    return {name: _cast(*convolution, dtype) for name, convolution in packed.items()}


def _cast(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Convolution:
    # cuDNN would convert the kernels of channels-last maps in each call.
    order = torch.channels_last if weight.ndim == 4 and not weight.is_cpu else torch.preserve_format
    return weight.to(dtype, memory_format=order), None if bias is None else bias.to(dtype)


def with_unshuffle(weight: Tensor) -> Tensor:
    """Return the 4x4 kernel that, at stride 2, is this 3x3 one (D C 3 3) and a pixel-unshuffle.

    It has 7/9 more products, most of them with zero.
    """
    kernel = weight.new_zeros(len(weight), 2, 2, weight.shape[1], 4, 4)
    for i, j in product(range(2), repeat=2):
        kernel[:, i, j, :, i : i + 3, j : j + 3] = weight
    return kernel.flatten(0, 2)  # 4D C 4 4


def folded(reduction: Tensor, weight: Tensor) -> Tensor:
    """Apply a 1x1 convolution (D C) to the pixels that an upsampling (4C K 3 3) gives: 4D K 3 3."""
    pixels = rearrange(weight, "(p c) k y x -> p c (k y x)", p=4)
    return rearrange(reduction @ pixels, "p d (k y x) -> (p d) k y x", y=3, x=3)


def quads(x: Tensor) -> Tensor:
    """View B 2H 2W C as squares of 2 x 2 pixels, B H W 2 2 C."""
    return rearrange(x, "b (h i) (w j) c -> b h w i j c", i=2, j=2)


def upsample(pixels: Tensor, target: Tensor, skip: Convolution | None = None) -> None:
    """Write the result of an upsampling, B H W 4C, to `target`, B 2H 2W C.

    With `skip`, add the 1x1 convolution of the skip connection, which `target` contains.
    """
    squares = pixels.unflatten(-1, (2, 2, -1))
    if skip is None:
        quads(target).copy_(squares)
    else:
        torch.add(quads(F.linear(target, *skip)), squares, out=quads(target))
