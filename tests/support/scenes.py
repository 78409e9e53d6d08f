"""Synthetic images and generators."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor


def seeded(seed: int = 0) -> Generator:
    """Return a generator with this seed."""
    return Generator().manual_seed(seed)


def scene(count: int = 1, height: int = 64, width: int = 64) -> Tensor:
    """Return images of smooth colours with an edge, well inside 0..1: B 3 H W."""
    y = torch.linspace(0, 3, height)[:, None]
    x = torch.linspace(0, 4, width)[None, :]
    planes = [0.5 + 0.2 * torch.sin(y * a + x * b) for a, b in ((1, 1), (2, 1), (1, 3))]
    image = torch.stack(planes) - 0.1 * (torch.arange(width) > width // 2)
    return image.expand(count, 3, height, width).contiguous()


def column(*values: float) -> Tensor:
    """Return one value for each image of a batch: B 1 1 1."""
    return torch.tensor(values).view(-1, 1, 1, 1)


def is_8_bit(x: Tensor) -> bool:
    """Return True if all values are multiples of 1/255."""
    return bool(((x * 255).round() / 255 - x).abs().max() < 1e-6)


def smooth_picture(noise: float = 0.0, channels: int = 3) -> np.ndarray:
    """Return a smooth picture in 0..1 with Gaussian noise that is not clipped."""
    y, x = np.mgrid[:80, :96]
    waves = (np.sin(x / 17) * np.cos(y / 23), np.cos((x + y) / 29), np.sin(y / 13 + x / 31))
    clean = 0.5 + 0.45 * np.dstack(waves[:channels])
    added = np.random.default_rng(0).normal(0, noise, clean.shape) if noise else 0
    return (clean + added).astype(np.float32)
