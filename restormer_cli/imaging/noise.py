"""How noisy an image is, estimated from itself alone, and which network that calls for.

Two published methods in a row. In patches without texture an image varies in few directions, and
noise in all. Which patches have none is told by their gradients, whose strength under noise alone
is known: Liu, Tanaka and Okutomi, "Single-Image Noise Level Estimation for Blind Denoising" (IEEE
TIP 22(12), 2013). Of their covariance's eigenvalues, those that are noise's lie evenly about their
mean: Chen, Zhu and Heng, "An Efficient Statistical Method for Image Noise Level Estimation" (ICCV
2015). The smallest one alone, as the former have it, is too low by the fewness of the patches.

Measured on McMaster and Set12 (30 images), the root mean square error is 0.3 to 0.5 for Gaussian
noise of sigma 2 to 75 that is neither clipped nor rounded; in 8 bits likewise up to 25, while of
50 and 75, of which they clip a part, 48 and 64 are found. The clean images are said to have 0.5 to
2.3. JPEG takes noise away: at quality 85, of 15 about 10 is left. An image has at least 16 x 16
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .image import Array

PATCH = 7
"""The side of a patch, as in the paper."""

QUANTILE = 81.8208
"""Of 10^6 patches of nothing but noise, one has gradients above this times its variance.

The inverse of the gamma distribution of shape 45 / 2 and scale 2 * 35 / 45 at 1 - 10^-6 (section
III): 45 and 35 are rank and trace of what sums up the squared derivatives of a patch of 7 x 7.
"""

CLIPPED = 0.1
"""A patch of which more than this part is 0 or 1 is left out: there noise is cut off."""

MOST = 40_000
"""Patches a channel, evenly spread: enough, and no large image takes long."""

LEAST = 2 * PATCH**2
"""Patches without which nothing is said."""

NEAR = 0.12
"""How far, as a part of it, noise may be from a level for which a network is trained."""


@dataclass(frozen=True)
class Noise:
    """What an image's noise looks like; see `noise_level`.

    Attributes:
        sigma: standard deviation of what varies from pixel to pixel, of 255.
        coarse: twice that of means of 2 x 2 pixels: the same if noise is white, and more if it is
            coarser, after demosaicking, scaling or JPEG. Texture all over an image counts, too.
    """

    sigma: float
    coarse: float

    @property
    def white(self) -> bool:
        """Whether neighbouring pixels know nothing of each other's noise."""
        return self.coarse < 1.3 * self.sigma

    @property
    def clean(self) -> bool:
        """Whether there is so little that it cannot be seen."""
        return max(self.sigma, self.coarse) < 1

    @property
    def words(self) -> str:
        """What is seen, in a few words."""
        if self.clean:
            return f"looks clean, sigma {self.sigma:.1f} of 255"
        if self.white:
            return f"noise of sigma {self.sigma:.1f} of 255"
        return f"noise of sigma {self.sigma:.1f} of 255, {self.coarse:.1f} with what is coarser"


def estimate_noise(pixels: Array) -> Noise | None:
    """The noise of H W C pixels of any depth; None where they are too few, or black and white."""
    white = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    planes = [pixels[..., channel] for channel in range(pixels.shape[2])]
    sigma = _mean([_sigma(plane, white) for plane in planes])
    if sigma is None:
        return None
    half = _mean([_sigma(_halved(plane), white) for plane in planes])
    coarse = sigma if half is None else 2 * half
    return Noise(round(255 * sigma, 2), round(255 * coarse, 2))


def sigma_for(noise: Noise | None, levels: tuple[str, ...] = ("15", "25", "50")) -> str:
    """The level whose network fits best; "blind" where none is near, or noise is not white."""
    if noise is None or not noise.white:
        return "blind"
    near = (level for level in levels if abs(noise.sigma / float(level) - 1) <= NEAR)
    return next(near, "blind")


def _mean(sigmas: list[float | None]) -> float | None:
    """The root mean square of those that are known."""
    squares = [sigma**2 for sigma in sigmas if sigma is not None]
    return float(np.mean(squares) ** 0.5) if squares else None


def _halved(plane: Array) -> Array:
    """Means of 2 x 2 pixels: of white noise they have half its sigma, of coarse noise more."""
    height, width = (side // 2 * 2 for side in plane.shape)
    sums: Array = plane[:height:2, :width:2].astype(np.float32)
    for row, column in ((0, 1), (1, 0), (1, 1)):
        sums += plane[row:height:2, column:width:2]
    sums /= 4
    return sums


def _sigma(plane: Array, white: float) -> float | None:
    """The standard deviation of the noise in H W, as a part of `white`."""
    if min(plane.shape) < PATCH:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(plane, (PATCH, PATCH))
    step = 1
    while windows[::step, ::step].shape[0] * windows[::step, ::step].shape[1] > MOST:
        step += 2  # odd, so as to meet every place in the blocks of a JPEG
    patches = windows[::step, ::step].reshape(-1, PATCH, PATCH).astype(np.float32)
    patches = patches[((patches == 0) | (patches == white)).mean((1, 2)) <= CLIPPED]
    if len(patches) < LEAST:
        return None
    across = (patches[:, :, 2:] - patches[:, :, :-2]) / 2
    down = (patches[:, 2:] - patches[:, :-2]) / 2
    texture = np.square(across).sum((1, 2)) + np.square(down).sum((1, 2))
    eigenvalues = _eigenvalues(patches)
    for _ in range(3):  # it settles at once, as the paper has it
        plain = patches[texture < QUANTILE * eigenvalues[-1]]
        if len(plain) < LEAST:
            break
        eigenvalues = _eigenvalues(plain)
    return float(_of_noise(eigenvalues) ** 0.5) / white


def _eigenvalues(patches: Array) -> Array:
    """Of the covariance of N patches, the largest first."""
    rows = patches.reshape(len(patches), -1)
    descending: Array = np.linalg.eigvalsh(np.cov(rows, rowvar=False))[::-1].clip(0)
    return descending


def _of_noise(eigenvalues: Array) -> float:
    """The mean of those that are left when the largest are taken away until it is the median."""
    count = len(eigenvalues)
    for first in range(count):
        mean = float(eigenvalues[first:].mean())
        middle = (first + count) // 2
        if eigenvalues[min(middle + 1, count - 1)] <= mean <= eigenvalues[max(middle - 1, 0)]:
            break
    return mean
