"""Rain: soft streaks at several distances, hard and bright ones, and the mist of distant drops."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from .sampling import chosen, convolved, smooth_maps, to_8_bit, uniform

# Density, size and brightness of the drops at four distances, from far to close to the lens.
_LAYERS = ((2.0, 0.6, 0.6), (1.0, 1.0, 0.8), (0.6, 1.2, 1.0), (0.1, 2.0, 0.8))

_REACH = 32
"""Half of the length in pixels of the longest soft streak, including its ends."""

_HARD_REACH = 44
"""Half of the length in pixels of the longest hard streak, including its ends."""

_HARD_LAYERS = 3


def rain(x: Tensor, generator: Generator) -> Tensor:
    """Add light to heavy rain and round to 8 bits.

    Streaks are screen-blended with the image (Luo, Xu and Ji, ICCV 2015) or added to it. Several
    layers at different depths with a veil follow Li, Cheong and Tan, "Heavy Rain Image
    Restoration" (CVPR 2019, equation 1). The distributions were chosen by eye.
    """
    heaviness = uniform(0, 1, x, generator)
    part = streaks(x, heaviness, generator)
    tint = 1 - 0.12 * torch.rand(len(x), 3, 1, 1, generator=generator, device=x.device)
    screen = x + (1 - x) * part * tint
    added = x + 0.6 * part * tint
    wet = torch.where(chosen(0.6, x, generator), screen, added.clamp_max(1))
    amount = chosen(0.5, x, generator) * heaviness * uniform(0, 0.25, x, generator)
    mist = (amount * (1 + 0.3 * smooth_maps(1, x, generator))).clamp(0, 1)
    return to_8_bit(veiled(wet, mist, uniform(0.6, 0.95, x, generator) * tint))


def streaks(x: Tensor, heaviness: Tensor, generator: Generator) -> Tensor:
    """Draw the fraction of each pixel's light that comes from drops: B 1 H W, 0..1.

    Args:
        x: B C H W; only its size is used.
        heaviness: B 1 1 1, 0..1.
        generator: source of randomness.
    """
    b, _, h, w = x.shape
    layers = torch.tensor(_LAYERS, device=x.device)
    density, size, brightness = layers.T.reshape(3, 1, len(_LAYERS), 1, 1)

    def rand(*shape: int) -> Tensor:
        return torch.rand(b, len(_LAYERS), *shape, generator=generator, device=x.device)

    # Mostly steep, with gusts in a quarter of the images; the layers differ slightly.
    tilt = uniform(-1, 1, x, generator)
    angle = tilt * torch.where(chosen(0.25, x, generator), math.pi / 4, math.pi / 10)
    angle = angle + (rand(1, 1) - 0.5) * 0.2
    length = 10 * 4 ** uniform(0, 1, x, generator) * size * (0.7 + 0.6 * rand(1, 1))
    length = length.clamp(6, 48)
    # The width is proportional to the length: short, wide streaks look like snow.
    width = (length * uniform(0.02, 0.055, x, generator)).clamp_min(0.45)
    kernels = streak_kernels(*(t.flatten(0, 1) for t in (angle, length, width)))
    kernels = kernels.unflatten(0, (b, len(_LAYERS)))

    # Short, thin streaks are more numerous, so that they cover as much as long, thick ones.
    cover = 0.015 + 0.18 * heaviness**1.5
    drops = cover * density / (length * width * 2.5)
    seeds = rand(h + 2 * _REACH, w + 2 * _REACH)
    seeds = (1 - seeds / drops).clamp_min(0) * brightness
    strength = 0.25 + 0.75 * uniform(0, 1, x, generator) * (0.3 + 0.7 * heaviness)
    total = convolved(seeds, kernels).sum(1, keepdim=True).clamp_min(0)
    return 1 - torch.exp(-strength * total)  # screen-blends crossing streaks


def hard_rain(x: Tensor, generator: Generator, cover: float | None = None) -> Tensor:
    """Add bright streaks with hard edges, many of them opaque, and round to 8 bits.

    In Rain100L and Rain100H (Yang et al., CVPR 2017), 3 to 7 % of the pixels are nearly opaque, and
    the 95th percentile of the added light is 79 to 115 of 255. The light is added and clipped, or
    covers the image. Streaks lie on the share `cover` of the pixels, by default on 5 to 25 %.
    """
    opacity = hard_streaks(x, generator, cover)
    tint = 1 - 0.1 * torch.rand(len(x), 3, 1, 1, generator=generator, device=x.device)
    light = uniform(60, 230, x, generator) / 255 * tint
    added = x + opacity * light
    hidden = opacity * uniform(0.5, 1, x, generator)
    covered = x + hidden * (uniform(0.6, 1, x, generator) * tint - x)
    return to_8_bit(torch.where(chosen(0.7, x, generator), added, covered))


def hard_streaks(x: Tensor, generator: Generator, cover: float | None = None) -> Tensor:
    """Draw the opacity of hard streaks, as `hard_rain` describes them: B 1 H W, 0..1."""
    b, _, h, w = x.shape

    def rand(*shape: int) -> Tensor:
        return torch.rand(b, _HARD_LAYERS, *shape, generator=generator, device=x.device)

    # All in one direction, except for an eighth of the images: nets have to stay.
    spread = torch.where(chosen(0.125, x, generator), 1.2, 0.12)
    angle = uniform(-1, 1, x, generator) * math.pi / 3.5 + (rand(1, 1) - 0.5) * spread
    length = 15 * (80 / 15) ** rand(1, 1)
    width = 1 + 5 * uniform(0, 1, x, generator) ** 3 * (0.5 + 0.5 * rand(1, 1))
    width = torch.minimum(width, length / 8)
    taper = length * uniform(0.05, 0.4, x, generator)
    edge = 1 + (width - 1) * uniform(0, 0.7, x, generator)
    parameters = [t.expand_as(angle).flatten(0, 1) for t in (angle, length, width, taper, edge)]
    kernels = hard_kernels(*parameters).unflatten(0, (b, _HARD_LAYERS))

    covers = 0.05 + 0.2 * uniform(0, 1, x, generator)
    if cover is not None:
        covers = torch.full_like(covers, cover)
    drops = covers / (_HARD_LAYERS * length * (width + 0.5))  # the edges cover half a pixel more
    seeds = (1 - rand(h + 2 * _HARD_REACH, w + 2 * _HARD_REACH) / drops).clamp_min(0)
    total = convolved((seeds > 0) * (0.25 + 0.75 * seeds), kernels).sum(1, keepdim=True)
    return (total * uniform(1, 3, x, generator)).clamp(0, 1)


def hard_kernels(
    angle: Tensor, length: Tensor, width: Tensor, taper: Tensor, edge: Tensor
) -> Tensor:
    """Return the image of a sharp, evenly bright streak for each angle: N S S, 1 in the middle.

    Args:
        angle: N 1 1, radians from the vertical.
        length: N 1 1, pixels.
        width: N 1 1, pixels.
        taper: N 1 1, length of the fading ends in pixels.
        edge: N 1 1, width of the fading sides in pixels, 1 to `width`.
    """
    along, across = _axes(angle, _HARD_REACH)
    ends = ((length / 2 - along.abs()) / taper + 0.5).clamp(0, 1)
    return ends * ((width / 2 - across.abs()) / edge + 0.5).clamp(0, 1)


def streak_kernels(angle: Tensor, length: Tensor, width: Tensor) -> Tensor:
    """Return the image of a falling drop for each angle: N S S, 1 in the middle.

    Args:
        angle: N 1 1, radians from the vertical.
        length: N 1 1, pixels.
        width: N 1 1, standard deviation across the streak in pixels.
    """
    along, across = _axes(angle, _REACH)
    # The ends fade, because the drop arrives and leaves during the exposure.
    fade = ((length / 2 - along.abs()) / (length / 3) + 0.5).clamp(0, 1)
    return fade * torch.exp(-0.5 * (across / width) ** 2)


def _axes(angle: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates of pixels along and across streaks through the middle: N S S each."""
    line = torch.arange(-reach, reach + 1.0, device=angle.device)
    y, x = line[:, None], line[None, :]
    return y * angle.cos() + x * angle.sin(), x * angle.cos() - y * angle.sin()


def veiled(x: Tensor, mist: Tensor, light: Tensor) -> Tensor:
    """Blend images with `light` (B 3 1 1) where there is mist (B 1 H W, 0..1)."""
    return x * (1 - mist) + light * mist
