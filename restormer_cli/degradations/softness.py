"""The softness of photographs at the full resolution of their camera."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .sampling import chosen, convolved, gaussian_kernels, reflected, to_8_bit, uniform

SHARE = 0.5
"""Share of the images that are softened."""

RADII = (0.25, 0.7)
"""Range of the standard deviation of the softening in pixels."""


def softened(x: Tensor, generator: Generator) -> Tensor:
    """Soften `SHARE` of the clean images, B C H W in 0..1, by a Gaussian; the others stay as is.

    Training photographs are scaled down, and sharper in each pixel than those that people restore:
    from the octave below the Nyquist frequency to the one above it, their spectrum falls by 8 dB
    (median), that of the McMaster images by 11 dB. A network that has seen only the former sharpens
    the latter.
    """
    kernels = gaussian_kernels(uniform(*RADII, x, generator)).unsqueeze(1)  # B 1 9 9
    soft = convolved(reflected(x, kernels.shape[-1] // 2), kernels)
    return torch.where(chosen(SHARE, x, generator), to_8_bit(soft), x)
