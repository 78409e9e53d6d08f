"""Convolution, sums, change of resolution and normalisation of feature maps, B H W C.

`restormer` composes a transformer block and the network of these functions.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

NORM_EPSILON = 1e-5


class Convolve(Protocol):
    """Convolution of B H W C by a weight and a bias, to B H W D; depthwise for a weight of D 1 3 3.

    Kernels have three rows and columns, or four and a stride of 2, which halves the resolution.
    """

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1
    ) -> Tensor:
        """Return the convolution."""


def same(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: tuple[int, int] = (1, 1),
    *,
    stride: int = 1,
) -> Tensor:
    """Convolve with `padding` rows and columns of zeros on each side (see `Convolve`)."""
    groups = x.shape[-1] // weight.shape[1]
    if groups > 1 and x.is_cuda and torch.compiler.is_compiling():
        return depthwise_by_taps(x, weight, bias, padding)
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, groups=groups)
    return y.permute(0, 2, 3, 1)


def depthwise_by_taps(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: tuple[int, int] = (1, 1)
) -> Tensor:
    """Return the depthwise convolution `same` as a sum of nine products, in fp32.

    A compiler fuses them, and their gradients, with the functions around them, which it cannot do
    with a call of cuDNN.
    """
    rows, columns = padding
    height, width = x.shape[1] + 2 * rows - 2, x.shape[2] + 2 * columns - 2
    wide = F.pad(x, (0, 0, columns, columns, rows, rows))
    taps = weight.flatten(1).float()  # D 9
    y = torch.zeros((), device=x.device) if bias is None else bias.float()
    for tap, (i, j) in enumerate(product(range(3), repeat=2)):
        y = y + wide[:, i : i + height, j : j + width].float() * taps[:, tap]
    return y.to(x.dtype)


def crop_like(x: Tensor, like: Tensor) -> Tensor:
    """Crop `x` to the size of `like`: remove the halo that convolutions consumed."""
    halo = (x.shape[1] - like.shape[1]) // 2
    return x[:, halo : x.shape[1] - halo, halo : x.shape[2] - halo]


def conv1x1(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply a 1x1 convolution to B H W C as a matrix product."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def sum_squares(x: Tensor) -> Tensor:
    """Sum the squares over pixels in fp32: B H W D to B D."""
    if not x.is_cpu:
        return sum_squares_by_norm(x)
    # The square of 256 already exceeds the range of fp16.
    wide = x.float() if x.dtype == torch.float16 else x
    return wide.square().sum((1, 2), dtype=torch.float32)


def sum_squares_by_norm(x: Tensor) -> Tensor:
    """Return the result of `sum_squares` without writing a map of squares; slow on a CPU."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=(1, 2), dtype=torch.float32)
    return norm.square()


def pixel_unshuffle(x: Tensor) -> Tensor:
    """Halve height and width: B H W C to B H/2 W/2 4C."""
    return rearrange(x, "b (h i) (w j) c -> b h w (c i j)", i=2, j=2)


def pixel_shuffle(x: Tensor) -> Tensor:
    """Double height and width: B H W 4C to B 2H 2W C, the inverse of `pixel_unshuffle`."""
    return rearrange(x, "b h w (c i j) -> b (h i) (w j) c", i=2, j=2)


class _Normalise(torch.autograd.Function):
    """(x - mean) / std, or x / std, over the innermost axis.

    `Tensor.var` is many times slower, and autograd does not support the deviation that
    `native_layer_norm` returns.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, centred: bool) -> Tensor:
        # For a few hundred channels on a CPU, `_normalise` is 2 to 3 times as fast as the native
        # kernel, and that of MPS takes small variances for zero (pytorch#190491).
        if (x.is_cpu and x.dtype == torch.float32) or x.is_mps:
            y, mean, rstd = (t.to(x.dtype) for t in _normalise(x.float(), centred))
        else:
            y, mean, rstd = torch.native_layer_norm(x, (x.shape[-1],), None, None, NORM_EPSILON)
            mean, rstd = mean.to(x.dtype), rstd.to(x.dtype)
            y = y if centred else x * rstd
        ctx.save_for_backward(x, mean, rstd)
        ctx.centred = centred
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # r = (var + eps)^-1/2 and dr/dx = -r^3 (x - mean) / C
        x, mean, rstd = ctx.saved_tensors
        deviation = x - mean
        numerator = deviation if ctx.centred else x
        slope = (gradient * numerator).mean(-1, keepdim=True)
        if ctx.centred:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        return gradient * rstd - deviation * (slope * rstd**3), None


def _normalise(x: Tensor, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, centred or not, divided by its deviation, and its mean and 1 / deviation."""
    mean = x.mean(-1, keepdim=True)
    deviation = x - mean
    norm = torch.linalg.vector_norm(deviation, dim=-1, keepdim=True)
    rstd = norm.square_().div_(x.shape[-1]).add_(NORM_EPSILON).rsqrt_()
    y = deviation.mul_(rstd) if centred else torch.mul(x, rstd, out=deviation)
    return y, mean, rstd


def normalised(x: Tensor, centred: bool) -> Tensor:
    """Divide each pixel's channels by their standard deviation, after centring if `centred`."""
    y: Tensor = _Normalise.apply(x, centred)  # type: ignore[no-untyped-call]
    return y
