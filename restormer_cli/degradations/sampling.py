"""What degradations draw at random: numbers and fields of each image's own, and mixtures."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

# --- draws ---------------------------------------------------------------------------------------

Degradation = Callable[[Tensor, Generator], Tensor]
"""Clean images (B C H W, sRGB, 0..1) and the source of all randomness to degraded images."""


def uniform(low: float, high: float, x: Tensor, generator: Generator) -> Tensor:
    """One number in low..high for each image of `x`: B 1 1 1."""
    r = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)
    return low + (high - low) * r


def chosen(probability: float, x: Tensor, generator: Generator) -> Tensor:
    """True for each image of `x` with this probability: B 1 1 1."""
    return torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < probability


def normal(x: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers in the shape of `x`."""
    return torch.randn(x.shape, generator=generator, device=x.device)


def fields(count: int, x: Tensor, generator: Generator) -> Tensor:
    """Smooth maps over each image of `x`, with a few hills of about -2..2: B count H W."""
    hills = torch.randn(len(x), count, 4, 4, generator=generator, device=x.device)
    size = (x.shape[2], x.shape[3])
    return F.interpolate(hills, size, mode="bicubic", align_corners=True)


def untouched(x: Tensor, _: Generator) -> Tensor:
    """The images as they are: of these, networks learn to leave clean ones alone."""
    return x.clone()


def mixture(*parts: tuple[float, Degradation]) -> Degradation:
    """A degradation that treats each image with one of `parts`, drawn by their weights."""
    weights = torch.tensor([weight for weight, _ in parts], dtype=torch.float32)

    def degrade(x: Tensor, generator: Generator) -> Tensor:
        which = torch.multinomial(
            weights.to(x.device), len(x), replacement=True, generator=generator
        )
        result = x.clone()
        for index, (_, part) in enumerate(parts):
            if (mine := which == index).any():
                result[mine] = part(x[mine], generator)
        return result

    return degrade


# --- light ---------------------------------------------------------------------------------------


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
