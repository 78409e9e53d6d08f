"""PSNR and SSIM, each with its protocol.

Images are C H W or B C H W, float, 0..1. Sums are float64, and the score of a batch is the mean of
its images' scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...degradations import to_8_bit

SSIM_WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03

# For reports: common definitions differ in the third digit.
PSNR_DEFINITION = "10 log10(1 / MSE), over all pixels and channels of an image together"
SSIM_DEFINITION = (
    "Wang et al. 2004: 11 x 11 Gaussian window of sigma 1.5, population covariances, valid region, "
    "mean over channels"
)


class Scores(NamedTuple):
    """Scores of a restored image."""

    psnr: float
    ssim: float


class Protocol(NamedTuple):
    """A comparison: its description, and the function that prepares both images for it."""

    description: str
    view: Callable[[Tensor], Tensor]

    def scores(self, restored: Tensor, clean: Tensor) -> Scores:
        """Return PSNR and SSIM of `restored` against `clean`, both RGB or grey, 0..1."""
        a, b = self.view(restored), self.view(clean)
        return Scores(psnr(a, b), ssim(a, b))


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB, infinity for equal images.

    See `PSNR_DEFINITION`. No border is cropped, and nothing is clamped or rounded.

    Raises:
        ValueError: the shapes differ, or are not those of images.
    """
    a, b = _batches(a, b)
    errors = (a - b).square().mean((1, 2, 3))
    return float((-10 * errors.log10()).mean())


def ssim(a: Tensor, b: Tensor) -> float:
    """Return the structural similarity (Wang et al., IEEE TIP 2004, section III-B), at most 1.

    See `SSIM_DEFINITION`. The result is that of scikit-image with `gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False, data_range=1`.

    Raises:
        ValueError: the shapes differ, are not those of images, or are smaller than the window.
    """
    a, b = _batches(a, b)
    if min(a.shape[2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW} pixels, not {a.shape[2]} x {a.shape[3]}"
        )
    # Plane by plane, because the float64 maps take many times the memory of an image.
    planes = zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)
    return float(torch.stack([_plane_ssim(p, q) for p, q in planes]).mean())


def luma(rgb: Tensor) -> Tensor:
    """Convert ... 3 H W, 0..1, to Y of YCbCr, ... 1 H W, as MATLAB's `rgb2ycbcr` does.

    ITU-R BT.601, studio range: black is 16 / 255, white 235 / 255.
    """
    weights = torch.tensor((65.481, 128.553, 24.966), dtype=rgb.dtype, device=rgb.device)
    return ((rgb * weights.view(3, 1, 1)).sum(-3, keepdim=True) + 16.0) / 255


_RGB = Protocol("RGB, clamped and rounded to 8 bits, no border cropped", to_8_bit)

PROTOCOLS = {
    "denoise": _RGB,
    "derain": Protocol(
        "Y of YCbCr (MATLAB's), 8 bits, no border cropped", lambda x: to_8_bit(luma(to_8_bit(x)))
    ),
    "deblur": _RGB,
    # Not rounded: the DPDD photographs have 16 bits.
    "defocus": Protocol("RGB, clamped, not rounded, no border cropped", lambda x: x.clamp(0, 1)),
}
"""Protocols of the paper's tables (Restormer, section 4), by task."""


def _batches(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as B C H W in float64."""
    if a.shape != b.shape or a.ndim not in (3, 4) or not a.numel():
        raise ValueError(f"{tuple(a.shape)} and {tuple(b.shape)} are not two images of one shape")
    shape = a.shape if a.ndim == 4 else (1, *a.shape)
    return a.double().reshape(shape), b.double().reshape(shape)


def _plane_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean SSIM of two planes, H W in float64."""
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
