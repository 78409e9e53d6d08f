"""Random numbers and maps, mixtures, sRGB, mirrored borders, Gaussians and convolution."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Degradation = Callable[[Tensor, Generator], Tensor]
"""Function from clean images (B C H W, sRGB, 0..1) and a generator to degraded images."""


def uniform(low: float, high: float, x: Tensor, generator: Generator) -> Tensor:
    """Draw a number in low..high for each image of `x`: B 1 1 1."""
    r = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)
    return low + (high - low) * r


def chosen(probability: float, x: Tensor, generator: Generator) -> Tensor:
    """Draw True with this probability for each image of `x`: B 1 1 1."""
    return uniform(0, 1, x, generator) < probability


def normal(x: Tensor, generator: Generator) -> Tensor:
    """Draw standard normal numbers in the shape of `x`."""
    return torch.randn(x.shape, generator=generator, device=x.device)


def smooth_maps(count: int, x: Tensor, generator: Generator) -> Tensor:
    """Draw smooth maps over each image of `x`, with values of about -2..2: B count H W."""
    hills = torch.randn(len(x), count, 4, 4, generator=generator, device=x.device)
    return F.interpolate(hills, tuple(x.shape[2:]), mode="bicubic", align_corners=True)


def untouched(x: Tensor, generator: Generator) -> Tensor:
    """Return the images unchanged, so that networks learn to keep clean images."""
    return x


def mixture(*parts: tuple[float, Degradation]) -> Degradation:
    """Return a degradation that applies one of the weighted `parts`, drawn for each image."""
    weights = torch.tensor([weight for weight, _ in parts], dtype=torch.float32)

    def degrade(x: Tensor, generator: Generator) -> Tensor:
        drawn = torch.multinomial(
            weights.to(x.device), len(x), replacement=True, generator=generator
        ).cpu()  # once: each look at a value on a GPU waits until its queue is empty
        result = x.clone()
        for index, (_, part) in enumerate(parts):
            if len(images := (drawn == index).nonzero()[:, 0]):
                images = images.to(x.device)
                result[images] = part(x[images], generator)
        return result

    return degrade


def to_8_bit(x: Tensor) -> Tensor:
    """Clip to 0..1 and round to multiples of 1/255, as an 8-bit file does."""
    return (x.clamp(0, 1) * 255).round() / 255


def to_linear(x: Tensor) -> Tensor:
    """Convert sRGB values to linear light (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def to_srgb(x: Tensor) -> Tensor:
    """Clip linear light to 0..1 and convert it to sRGB values, the inverse of `to_linear`."""
    x = x.clamp(0, 1)
    return torch.where(
        x <= 0.0031308, x * 12.92, 1.055 * x.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    )


def reflected(x: Tensor, radius: int) -> Tensor:
    """Pad B C H W by `radius` mirrored pixels on each side; images may be smaller than `radius`."""

    def indices(length: int) -> Tensor:
        index = torch.arange(-radius, length + radius, device=x.device) % (2 * length)
        return torch.minimum(index, 2 * length - 1 - index)

    height, width = x.shape[2:]
    return x[:, :, indices(height)][:, :, :, indices(width)]


def convolved(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each plane with its kernel by FFT, without padding.

    Args:
        x: ... H W.
        kernels: ... S S, S odd; leading dimensions broadcast against those of `x`.

    Returns:
        ... H-S+1 W-S+1.
    """
    side = kernels.shape[-1]
    height, width = x.shape[-2:]
    size = [n + -n % 16 for n in (height, width)]  # multiples of 16 are fast
    spectrum = torch.fft.rfft2(x, s=size) * torch.fft.rfft2(kernels, s=size)
    result: Tensor = torch.fft.irfft2(spectrum, s=size)
    # The circular convolution wraps around into the first side - 1 rows and columns.
    return result[..., side - 1 : height, side - 1 : width]


def gaussian_kernels(radius: Tensor) -> Tensor:
    """Return a Gaussian with the sum 1 for each standard deviation (B 1 1 1) in pixels: B 9 9."""
    offset = torch.arange(-4.0, 5.0, device=radius.device)
    line = torch.exp(-0.5 * (offset / radius.view(-1, 1)) ** 2)  # B 9
    kernels = line.unsqueeze(2) * line.unsqueeze(1)
    return kernels / kernels.sum((1, 2), keepdim=True)
