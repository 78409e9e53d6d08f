"""Light and its encoding in sRGB values, and what blur does to it: convolution."""

from __future__ import annotations

import torch
from torch import Tensor


def to_8_bit(x: Tensor) -> Tensor:
    """What a file of 8 bits a channel keeps: clipped and rounded."""
    return (x.clamp(0, 1) * 255).round() / 255


def to_linear(x: Tensor) -> Tensor:
    """SRGB values to linear light (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def to_srgb(x: Tensor) -> Tensor:
    """Linear light to sRGB values, the inverse of `to_linear`; clips to 0..1."""
    x = x.clamp(0, 1)
    return torch.where(
        x <= 0.0031308, x * 12.92, 1.055 * x.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    )


def _reflected(length: int, radius: int, device: torch.device) -> Tensor:
    """Indices that continue a line of pixels by its mirror image, as often as it takes."""
    index = torch.arange(-radius, length + radius, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def reflected(x: Tensor, radius: int) -> Tensor:
    """B C H W with `radius` more pixels on each side, mirrored; images may be smaller than that."""
    height, width = x.shape[2:]
    rows = _reflected(height, radius, x.device)
    return x[:, :, rows][:, :, :, _reflected(width, radius, x.device)]


def convolved(x: Tensor, kernels: Tensor) -> Tensor:
    """Each plane with its kernel where the kernel lies wholly inside; by FFT.

    Args:
        x: ... H W.
        kernels: ... S S, S odd; leading dimensions broadcast against those of `x`.

    Returns:
        ... H-S+1 W-S+1.
    """
    side = kernels.shape[-1]
    height, width = x.shape[-2:]
    size = [n + -n % 16 for n in (height, width)]  # FFTs of round sizes are fast
    spectrum = torch.fft.rfft2(x, s=size) * torch.fft.rfft2(kernels, s=size)
    result: Tensor = torch.fft.irfft2(spectrum, s=size)
    # What has wrapped around lies in the first side - 1 rows and columns, which are cut off.
    return result[..., side - 1 : height, side - 1 : width]
