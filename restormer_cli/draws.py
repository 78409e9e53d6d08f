"""What degradations draw at random: numbers and fields of each image's own, and mixtures."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

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
