"""Noise level of an image, estimated from the image alone, and the denoising network for it.

Two published methods are combined. Liu, Tanaka and Okutomi, "Single-Image Noise Level Estimation
for Blind Denoising" (IEEE TIP 22(12), 2013), select patches without texture: their gradients are no
stronger than those of noise alone. In these patches an image varies in few directions, noise in
all, so that the small eigenvalues of their covariance are those of noise. Chen, Zhu and Heng, "An
Efficient Statistical Method for Image Noise Level Estimation" (ICCV 2015), select them: they lie
evenly about their mean. Liu et al. use the smallest, which is too low for few patches.

On McMaster and Set12 (30 images), the root mean square error is 0.4 to 0.6 for Gaussian noise of
sigma 2 to 75 that is neither clipped nor rounded, and in 8 bits up to sigma 25. Clipping to 8 bits
turns 50 and 75 into 48 and 64. Estimates for clean images are 0.5 to 2.3. JPEG of quality 85 turns
15 into about 10. An image needs at least 16 x 16 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..image import Array

PATCH = 7  # side of a patch, as in the paper
# Ratio of gradient strength to variance that one in 10^6 patches of pure noise exceeds: a quantile
# of the gamma distribution of shape 45 / 2 and scale 2 * 35 / 45 (section III), where 45 and 35 are
# rank and trace of the matrix that sums the squared derivatives of a 7 x 7 patch.
QUANTILE = 81.8208
_MAX_CLIPPED = 0.1  # part of a patch that may be black or white, where clipping removes noise
_MAX_PATCHES = 40_000  # per channel, evenly spread, to limit the time for large images
_MIN_PATCHES = 2 * PATCH**2
_TOLERANCE = 0.12  # relative distance to the level for which a network is trained


@dataclass(frozen=True)
class Noise:
    """Noise of an image; see `estimate_noise`.

    Attributes:
        sigma: standard deviation of the pixel noise, of 255.
        coarse: twice that of means of 2 x 2 pixels. It equals `sigma` for white noise, and is
            larger for noise after demosaicking, scaling or JPEG, and for texture everywhere.
    """

    sigma: float
    coarse: float

    @property
    def white(self) -> bool:
        """True if the noise of neighbouring pixels is uncorrelated."""
        return self.coarse < 1.3 * self.sigma

    @property
    def clean(self) -> bool:
        """True if the noise is too weak to be visible."""
        return max(self.sigma, self.coarse) < 1

    @property
    def words(self) -> str:
        """Description in a few words."""
        if self.clean:
            return f"looks clean, sigma {self.sigma:.1f} of 255"
        coarse = "" if self.white else f", {self.coarse:.1f} with coarse noise"
        return f"noise of sigma {self.sigma:.1f} of 255{coarse}"


def estimate_noise(pixels: Array) -> Noise | None:
    """Estimate the noise of H W C pixels of any depth; None with too few usable patches."""
    maximum = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    planes = [pixels[..., channel] for channel in range(pixels.shape[2])]
    sigma = _root_mean_square([_sigma(plane, maximum) for plane in planes])
    if sigma is None:
        return None
    half = _root_mean_square([_sigma(_halved(plane), maximum) for plane in planes])
    coarse = sigma if half is None else 2 * half
    return Noise(round(255 * sigma, 2), round(255 * coarse, 2))


def sigma_for(noise: Noise | None, levels: Sequence[str]) -> str:
    """Return the nearest of the levels, or "blind" if none is near or the noise is not white."""
    if noise is None or not noise.white:
        return "blind"
    near = (level for level in levels if abs(noise.sigma / float(level) - 1) <= _TOLERANCE)
    return next(near, "blind")


def _root_mean_square(sigmas: list[float | None]) -> float | None:
    squares = [sigma**2 for sigma in sigmas if sigma is not None]
    return float(np.mean(squares) ** 0.5) if squares else None


def _halved(plane: Array) -> Array:
    """Return means of 2 x 2 pixels, which halve the sigma of white noise only."""
    height, width = (side // 2 * 2 for side in plane.shape)
    sums: Array = plane[:height:2, :width:2].astype(np.float32)
    for row, column in ((0, 1), (1, 0), (1, 1)):
        sums += plane[row:height:2, column:width:2]
    sums /= 4
    return sums


def _sigma(plane: Array, maximum: float) -> float | None:
    """Return the standard deviation of the noise in H W, as a part of `maximum`."""
    if min(plane.shape) < PATCH:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(plane, (PATCH, PATCH))
    step = 1
    while windows[::step, ::step].shape[0] * windows[::step, ::step].shape[1] > _MAX_PATCHES:
        step += 2  # odd, to sample all positions in the blocks of a JPEG
    patches = windows[::step, ::step].reshape(-1, PATCH, PATCH).astype(np.float32)
    clipped = np.count_nonzero((patches == 0) | (patches == maximum), axis=(1, 2))
    patches = patches[clipped <= _MAX_CLIPPED * PATCH**2]
    if len(patches) < _MIN_PATCHES:
        return None
    texture = np.zeros(len(patches), np.float32)
    for slope in (patches[:, :, 2:] - patches[:, :, :-2], patches[:, 2:] - patches[:, :-2]):
        texture += np.einsum("nyx,nyx->n", slope, slope) / 4
    eigenvalues = _eigenvalues(patches)
    for _ in range(3):  # converges quickly, as in the paper
        plain = patches[texture < QUANTILE * eigenvalues[-1]]
        if len(plain) < _MIN_PATCHES:
            break
        eigenvalues = _eigenvalues(plain)
    return float(_noise_variance(eigenvalues) ** 0.5) / maximum


def _eigenvalues(patches: Array) -> Array:
    """Return the eigenvalues of the patches' covariance in falling order.

    The products are in fp32, which takes half the time of fp64.
    """
    rows = patches.reshape(len(patches), -1)
    deviations = rows - rows.mean(0, dtype=np.float64).astype(np.float32)
    covariance = (deviations.T @ deviations).astype(np.float64) / (len(rows) - 1)
    descending: Array = np.linalg.eigvalsh(covariance)[::-1].clip(0)
    return descending


def _noise_variance(eigenvalues: Array) -> float:
    """Remove the largest eigenvalues until the mean is the median, and return the mean."""
    count = len(eigenvalues)
    for first in range(count):
        mean = float(eigenvalues[first:].mean())
        middle = (first + count) // 2
        if eigenvalues[min(middle + 1, count - 1)] <= mean <= eigenvalues[max(middle - 1, 0)]:
            break
    return mean
