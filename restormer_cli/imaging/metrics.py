"""PSNR and SSIM, each with its protocol named.

Images are C H W or B C H W, float, 0..1. All sums run in float64; the score of a batch is the mean
of its images' scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03

PSNR_DEFINITION = "10 log10(1 / MSE), over all pixels and channels of an image together"
SSIM_DEFINITION = (
    "Wang et al. 2004: 11 x 11 Gaussian window of sigma 1.5, population covariances, valid region, "
    "mean over channels"
)
"""The definitions below in a line: of several that are about, which disagree in the third digit."""

# MATLAB's rgb2ycbcr for R, G, B in 0..1 (ITU-R BT.601, studio range), in units of an 8-bit step.
_LUMA = (65.481, 128.553, 24.966)
_BLACK = 16.0


class Scores(NamedTuple):
    """What a protocol says of a restored image."""

    psnr: float
    ssim: float


class Protocol(NamedTuple):
    """What is compared, in words and as a function of an image; then `psnr` and `ssim` of it."""

    description: str
    view: Callable[[Tensor], Tensor]

    def scores(self, restored: Tensor, clean: Tensor) -> Scores:
        """PSNR and SSIM of `restored` against `clean`, both RGB (or grey), 0..1."""
        a, b = self.view(restored), self.view(clean)
        return Scores(psnr(a, b), ssim(a, b))


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the peak being 1.

    10 log10(1 / MSE), the mean squared error taken over all pixels and channels of an image
    together; no border is cropped, nothing is clamped or rounded here.

    Args:
        a: C H W or B C H W, 0..1.
        b: the same shape; the order does not matter.

    Returns:
        dB, the mean over the batch; infinity where two images are equal.

    Raises:
        ValueError: the shapes differ, or are not those of images.
    """
    a, b = _batches(a, b)
    errors = (a - b).square().mean((1, 2, 3))
    return float((-10 * errors.log10()).mean())


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity (Wang et al., IEEE TIP 2004, section III-B).

    11 x 11 Gaussian window of sigma 1.5, population (not sample) covariances, K1 0.01, K2 0.03,
    data range 1, at full resolution; the mean over the valid region, where the window lies inside
    the image, of each channel by itself, and then over channels. scikit-image gives the same with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1`.

    Args:
        a: C H W or B C H W, 0..1, at least 11 x 11.
        b: the same shape; the order does not matter.

    Returns:
        At most 1, which means equal; the mean over the batch.

    Raises:
        ValueError: the shapes differ, are not those of images, or are smaller than the window.
    """
    a, b = _batches(a, b)
    if min(a.shape[2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW} pixels, not {a.shape[2]} x {a.shape[3]}"
        )
    # Plane by plane, since the maps of a large photograph in float64 are many times its size.
    planes = zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)
    return float(torch.stack([_similarity(p, q) for p, q in planes]).mean())


def luma(rgb: Tensor) -> Tensor:
    """Y of YCbCr by MATLAB's definition (`rgb2ycbcr`): black is 16 / 255, white 235 / 255.

    ... 3 H W in 0..1 to ... 1 H W.
    """
    weights = torch.tensor(_LUMA, dtype=rgb.dtype, device=rgb.device).view(3, 1, 1)
    return ((rgb * weights).sum(-3, keepdim=True) + _BLACK) / 255


def round8(x: Tensor) -> Tensor:
    """What an 8-bit file holds of an image: clamped to 0..1 and rounded to multiples of 1/255."""
    return (x.clamp(0, 1) * 255).round() / 255


def luma8(rgb: Tensor) -> Tensor:
    """Y of the 8-bit image, itself in 8 bits: what `rgb2ycbcr` gives for a uint8 image."""
    return round8(luma(round8(rgb)))


_RGB = Protocol("RGB, clamped and rounded to 8 bits, no border cropped", round8)

PROTOCOLS = {
    "denoise": _RGB,
    "derain": Protocol("Y of YCbCr (MATLAB's), 8 bits, no border cropped", luma8),
    "deblur": _RGB,
    # The DPDD photographs have 16 bits, which rounding to 8 would throw away.
    "defocus": Protocol("RGB, clamped, not rounded, no border cropped", lambda x: x.clamp(0, 1)),
}
"""How the paper's tables measure each task (Restormer, section 4)."""


def _batches(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as B C H W in float64."""
    if a.shape != b.shape or a.ndim not in (3, 4) or not a.numel():
        raise ValueError(f"{tuple(a.shape)} and {tuple(b.shape)} are no two images of one shape")
    shape = a.shape if a.ndim == 4 else (1, *a.shape)
    return a.double().reshape(shape), b.double().reshape(shape)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """The mean SSIM of two planes, H W in float64."""
    x = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=a.device) - SSIM_WINDOW // 2
    window = torch.exp(-x.square() / (2 * SIGMA**2))
    window /= window.sum()
    maps = torch.stack([a, b, a * a, b * b, a * b]).unsqueeze(1)  # 5 1 H W
    maps = F.conv2d(F.conv2d(maps, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    mean_a, mean_b, aa, bb, ab = maps.squeeze(1)
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    structure = (2 * (ab - mean_a * mean_b) + K2**2) / (aa - mean_a**2 + bb - mean_b**2 + K2**2)
    similarity: Tensor = (luminance * structure).mean()
    return similarity
