"""Nets, fences, chains and wires: bright, thin structures that look like rain, but have to stay."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from .sampling import chosen, smooth_maps, to_8_bit, uniform

SHARE = 0.3
"""Share of the images on which structures are drawn."""


def with_structures(x: Tensor, generator: Generator) -> Tensor:
    """Draw a structure on `SHARE` of the clean images, B C H W in 0..1; the others stay as is.

    A network trained on hard streaks alone erases wire baskets and the mesh of fences.
    """
    angle, crossing = uniform(0, math.pi, x, generator), uniform(0.4, 2.7, x, generator)
    spacing = 8 * 8 ** uniform(0, 1, x, generator)  # 8..64 pixels
    width = torch.minimum(uniform(1, 5, x, generator), spacing / 4)
    opacity = parallel_lines(x, angle, spacing, width, generator)
    second = parallel_lines(x, angle + crossing, spacing, width, generator)
    opacity = torch.where(chosen(0.7, x, generator), torch.maximum(opacity, second), opacity)

    tint = 1 - 0.2 * torch.rand(*x.shape[:2], 1, 1, generator=generator, device=x.device)
    shade = 1 + 0.15 * smooth_maps(1, x, generator)
    colour = (uniform(0.4, 1, x, generator) * tint * shade).clamp(0, 1)  # B C H W
    drawn = x + opacity * uniform(0.6, 1, x, generator) * (colour - x)
    return torch.where(chosen(SHARE, x, generator), to_8_bit(drawn), x)


def parallel_lines(
    x: Tensor, angle: Tensor, spacing: Tensor, width: Tensor, generator: Generator
) -> Tensor:
    """Draw the opacity of slightly bent lines, of which some are dashed: B 1 H W, 0..1.

    Args:
        x: B C H W; only its size is used.
        angle: B 1 1 1, radians from the vertical.
        spacing: B 1 1 1, distance between the middles of lines in pixels.
        width: B 1 1 1, pixels.
        generator: source of randomness.
    """
    rows, columns = x.shape[2:]
    row = torch.arange(float(rows), device=x.device)[:, None]
    column = torch.arange(float(columns), device=x.device)
    bend = uniform(0, 5, x, generator) * smooth_maps(1, x, generator)
    start = spacing * uniform(0, 1, x, generator)
    across = column * angle.cos() - row * angle.sin() + bend + start
    along = column * angle.sin() + row * angle.cos() + bend
    lines = bars(across, spacing, width)
    links = bars(along, spacing / 2, spacing / 3)  # as of a chain
    return torch.where(chosen(0.25, x, generator), lines * links, lines)


def bars(position: Tensor, period: Tensor, width: Tensor) -> Tensor:
    """Return 1 within `width` / 2 of the middle of each period, else 0, with edges of one pixel."""
    distance = (position.remainder(period) - period / 2).abs()
    return ((width - 2 * distance) / 2 + 0.5).clamp(0, 1)
